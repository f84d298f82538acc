"""What the refusals cost where nothing is refused: small numpy and torch work, hook on and off.

Run as ``python -m benchmarks.refuse_cost``; writes ``benchmarks/results/refuse_cost.json``. Pairs
alternate off and on; the figure is the best of each side, in microseconds per run.
"""

from __future__ import annotations

import json
import os
import platform
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.refuse_faults import sweep
from h2q_notebook.guardian.refuse import Refuser
from h2q_notebook.readings.process import ProcessReader

OUT = Path(__file__).parent / "results" / "refuse_cost.json"
PAIRS = 9


def cases() -> dict[str, tuple[Callable[[], Any], int]]:
    """Name -> (what to run, runs per measurement)."""
    import numpy as np
    import torch

    torch.set_num_threads(1)
    functional = torch.nn.functional
    short, square = torch.ones(3), torch.randn(64, 64)
    array = np.ones(1000)
    encoder = torch.nn.TransformerEncoder(
        torch.nn.TransformerEncoderLayer(64, 4, 128, batch_first=True), 2
    )
    wide = torch.nn.TransformerEncoder(
        torch.nn.TransformerEncoderLayer(512, 8, 2048, batch_first=True), 2
    )
    tokens, wide_tokens = torch.randn(4, 16, 64), torch.randn(4, 64, 512)
    perceptron = torch.nn.Sequential(
        torch.nn.Linear(20, 50), torch.nn.ReLU(), torch.nn.Linear(50, 1)
    )
    optimiser = torch.optim.SGD(perceptron.parameters(), 0.01)
    inputs, wanted = torch.randn(32, 20), torch.randn(32, 1)

    def train() -> None:
        optimiser.zero_grad()
        functional.mse_loss(perceptron(inputs), wanted).backward()
        optimiser.step()

    return {
        "np.empty(1000)": (lambda: np.empty(1000), 50_000),
        "np add 1000": (lambda: array + array, 50_000),
        "np.empty(2**22), 32 MiB": (lambda: np.empty(1 << 22), 200),
        "torch.add of 3": (lambda: torch.add(short, short), 10_000),
        "tensor.shape": (lambda: short.shape, 50_000),
        "matmul 64x64": (lambda: square @ square, 5_000),
        "train step, tiny perceptron": (train, 100),
        "transformer forward, width 64": (lambda: encoder(tokens), 30),
        "transformer step, width 64": (lambda: encoder(tokens).sum().backward(), 20),
        "transformer step, width 512": (lambda: wide(wide_tokens).sum().backward(), 1),
    }


def main() -> None:
    import numpy
    import pandas
    import torch

    reader = ProcessReader()
    refuser = Refuser(reader.used_bytes)
    costs: dict[str, dict[str, float]] = {}
    for name, (run, count) in cases().items():
        run()
        best = {"off": float("inf"), "on": float("inf")}
        for _ in range(PAIRS):
            for side in ("off", "on"):
                if side == "on":
                    refuser.arm(reader.used_bytes() + (4 << 30))
                seconds = timeit.timeit(run, number=count) / count
                refuser.disarm()
                best[side] = min(best[side], seconds)
        costs[name] = {f"{side}_us": round(value * 1e6, 3) for side, value in best.items()}
        print(f"{name:32} {best['off'] * 1e6:10.2f} {best['on'] * 1e6:10.2f} us")
    refuser.close()
    faults = sweep(200)
    print({key: sum(line[key] for line in faults.values()) for key in next(iter(faults.values()))})
    OUT.write_text(
        json.dumps(
            {
                "python": platform.python_version(),
                "machine": platform.machine(),
                "load_average_1min": round(os.getloadavg()[0], 1),
                "numpy": numpy.__version__,
                "pandas": pandas.__version__,
                "torch": torch.__version__,
                "costs": costs,
                "injected_refusals": faults,
            },
            indent=1,
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
