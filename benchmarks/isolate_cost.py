"""What a cell in a worker costs beside the same cell in the kernel.

    python -m benchmarks.isolate_cost

Wall time of a whole cell as its user sees it, in one real kernel, isolated and not, in turns;
medians.
Writes results/isolate_cost.json; about two minutes.
"""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.machine import describe_machine, write_result
from tests.support.kernel import Kernel

_ROUNDS = 7
_CELLS = {
    "an empty cell": "pass",
    "import torch": "import torch",
    "reads an array of 512 MiB": "total = float(large[::1000].sum())",
    "makes an array of 512 MiB": "made = np.ones(64 * 1024 * 1024)",
}


def main() -> None:
    rows: dict[str, Any] = {}
    with Kernel(setup="import numpy as np, torch\nlarge = np.ones(64 * 1024 * 1024)") as kernel:
        for name, cell in _CELLS.items():
            took: dict[str, list[float]] = {"": [], " --isolate": []}
            for _ in range(_ROUNDS):
                for option, times in took.items():
                    line = f"%%h2q_budget 2GiB --no-gauge --quiet{option}"
                    reply = kernel.run(f"{line}\n{cell}", timeout=60)
                    if reply.status != "ok":
                        raise SystemExit(reply.shown)
                    times.append(reply.wall_s)
                    kernel.run("globals().pop('made', None); import gc; _ = gc.collect()")
            bare, isolated = (statistics.median(times) for times in took.values())
            rows[name] = {"kernel_s": round(bare, 3), "worker_s": round(isolated, 3)}
            print(name, rows[name], flush=True)
    write_result("isolate_cost", {"machine": describe_machine(), "rounds": _ROUNDS, "cells": rows})


if __name__ == "__main__":
    main()
