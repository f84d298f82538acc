"""Injected refusals: does any numpy or pandas operation crash when numpy is refused memory?

Run as ``python -m benchmarks/refuse_faults [POINTS]``. Every operation runs again and again, each
time with another request refused: the k-th alone, then everything from the k-th on. It prints one
JSON line: for each operation how many runs gave a result and how many an exception. A crash ends
the process with a signal, which is what the caller looks at.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

from h2q_notebook.guardian.numpy_hook import NumpyHook

THRESHOLD_BYTES = 1 << 10
ROWS = 20_000


def operations() -> dict[str, Callable[[], Any]]:
    import numpy as np
    import pandas as pd

    rng = np.random.default_rng(1)
    keys = rng.integers(0, 500, ROWS)
    values = rng.random(ROWS)
    wide = rng.random((300, 300))
    frame = pd.DataFrame({"k": keys, "v": values, "s": [f"n{k}" for k in keys], "w": keys % 7})
    other = pd.DataFrame({"k": np.arange(500), "x": np.arange(500) * 2.0})
    dates = pd.Series(values, index=pd.date_range("2024-01-01", periods=ROWS, freq="min"))
    return {
        "np.unique": lambda: np.unique(keys, return_inverse=True),
        "np.sort": lambda: np.sort(values),
        "np.argsort": lambda: np.argsort(values, kind="stable"),
        "np.outer": lambda: np.outer(values[:500], values[:500]),
        "np.astype": lambda: keys.astype("c16"),
        "np.concatenate": lambda: np.concatenate([values, values]),
        "np.einsum": lambda: np.einsum("ij,jk->ik", wide, wide),
        "np.linalg.svd": lambda: np.linalg.svd(wide[:80, :80]),
        "np.fft": lambda: np.fft.fft(values),
        "np.broadcast add": lambda: values[:300, None] + values[:300],
        "np.add.reduce object": lambda: np.add.reduce(keys.astype(object)),
        "np.where": lambda: np.where(values > 0.5, keys, values),
        "np.loadtxt": lambda: np.loadtxt([f"{k} {k}" for k in range(3000)]),
        "np.fromiter": lambda: np.fromiter(iter(range(9000)), dtype=float),
        "np.random": lambda: rng.normal(size=ROWS),
        "pd.unique": lambda: pd.unique(frame["s"]),
        "pd.factorize": lambda: pd.factorize(frame["k"]),
        "pd.value_counts": frame["k"].value_counts,
        "pd.value_counts floats": frame["v"].value_counts,
        "pd.value_counts strings": frame["s"].value_counts,
        "pd.merge": lambda: frame.merge(other, on="k"),
        "pd.merge cartesian": lambda: frame[:300].merge(other[:300], how="cross"),
        "pd.groupby": lambda: frame.groupby("k")["v"].agg(["mean", "sum", "median"]),
        "pd.groupby apply": lambda: frame.groupby("w")["v"].apply(lambda part: part.sum()),
        "pd.sort_values": lambda: frame.sort_values(["k", "v"]),
        "pd.pivot_table": lambda: frame.pivot_table(index="k", columns="w", values="v"),
        "pd.astype": lambda: frame["k"].astype("float32").astype(str),
        "pd.concat": lambda: pd.concat([frame, frame], ignore_index=True),
        "pd.drop_duplicates": lambda: frame.drop_duplicates(["k", "w"]),
        "pd.isin": lambda: frame["k"].isin(keys[:3000]),
        "pd.rolling": lambda: frame["v"].rolling(50).mean(),
        "pd.resample": lambda: dates.resample("h").mean(),
        "pd.str": frame["s"].str.upper,
        "pd.melt": lambda: frame.melt(id_vars="k", value_vars=["v", "w"]),
        "pd.get_dummies": lambda: pd.get_dummies(frame["w"]),
        "pd.rank": frame["v"].rank,
        "pd.cut": lambda: pd.cut(frame["v"], 10),
    }


def sweep(points: int) -> dict[str, dict[str, int]]:
    """Run every operation with refusals at *points* places.

    Returns:
        For each operation: results, exceptions, refusals (all counts), requests of a clean run.
    """
    asked = refused = 0
    first, last = 0, 0  # the numbers of the requests to refuse

    def must_refuse(_size_bytes: int) -> bool:
        nonlocal asked, refused
        asked += 1
        if first <= asked <= last:
            refused += 1
            return True
        return False

    hook = NumpyHook(must_refuse, THRESHOLD_BYTES)
    assert hook.reason == "", hook.reason
    report: dict[str, dict[str, int]] = {}
    for name, operation in operations().items():
        asked = 0
        hook.arm()
        operation()
        hook.disarm()
        requests, results, errors, refused = asked, 0, 0, 0
        step = max(1, 2 * requests // points)
        for at in range(1, requests + 1, step):
            for only_this in (True, False):
                first, last = at, at if only_this else requests * 2
                asked = 0
                hook.arm()
                try:
                    operation()
                    results += 1
                except Exception:
                    errors += 1
                finally:
                    hook.disarm()
        first, last = 0, 0
        operation()  # still works afterwards
        report[name] = {
            "requests": requests,
            "results": results,
            "exceptions": errors,
            "refusals": refused,
        }
    return report


if __name__ == "__main__":
    print(json.dumps(sweep(int(sys.argv[1]) if len(sys.argv) > 1 else 20)))
