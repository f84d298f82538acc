"""One model of 1 GB under five budgets: which form it takes, its peak, and whether it answers.

    python -m benchmarks.budgets [--work DIR]

prints and writes results/budgets.json. Each load is in a fresh process under a limit of its address
space; its peak is read from outside every 2 ms. The default ladder, and one without forms that
leave weights in their file, so that the quantised ones have their turn. What the whole machine
wrote to swap meanwhile is noted: a guarded load must not be paid for by others.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.loading import Child
from benchmarks.machine import describe_machine, write_result
from benchmarks.models import build
from h2q_notebook.load.directory import inspect
from h2q_notebook.readings.pressure import read_pressure
from h2q_notebook.units import GIB, MIB

KINDS = ("dense", "v3")
SHARES = (1.05, 1.0, 0.8, 0.6, 0.4, 0.2)
LADDERS = ("full,bf16,mapped,int8,int4,offload", "full,bf16,int8,int4")
_CHILD = """
import json, sys
where, budget, ladder = sys.argv[1:4]
import torch, transformers, transformers.modeling_utils
import h2q
from h2q_notebook.load.ladder import parse_ladder
print("ready", flush=True)
sys.stdin.readline()
try:
    outcome = h2q.load(where, budget=int(budget), ladder=ladder)
except h2q.LoadRefused as refused:
    print(json.dumps({"rung": None, "said": str(refused)}), flush=True)
else:
    print(json.dumps({"rung": outcome.plan.rung.name, "said": outcome.plan.reason}), flush=True)
sys.stdin.readline()
made = 0
if "outcome" in globals():
    ids = torch.arange(5, 13).unsqueeze(0)
    made = outcome.model.generate(ids, max_new_tokens=8, min_new_tokens=8, do_sample=False).shape[1]
print(made, flush=True)
sys.stdin.readline()
"""


def measure(where: Path, budget_bytes: int, ladder: str) -> dict[str, Any]:
    child = Child(str(where), str(budget_bytes), ladder, script=_CHILD, limit_bytes=6 * GIB)
    child.read()
    base, peak, over = child.memory()[0], [0], threading.Event()

    def watch() -> None:
        while not over.is_set():
            peak[0] = max(peak[0], child.memory()[0] - base)
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    swapped = read_pressure().swapped_out_bytes or 0
    child.go_on()
    said = json.loads(child.read())
    over.set()
    watcher.join()
    child.go_on()
    generated = int(child.read())
    child.close()
    return {
        **said,
        "peak_bytes": peak[0],
        "generated": max(generated - 8, 0),
        "swapped_out_bytes": (read_pressure().swapped_out_bytes or 0) - swapped,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=None)
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for kind in KINDS:
            folder = build(kind, given.work or Path(scratch))
            size = inspect(folder).stored_bytes
            for ladder in LADDERS:
                for share in SHARES:
                    budget_bytes = int(size * share)
                    row = measure(folder, budget_bytes, ladder)
                    over = row["peak_bytes"] - budget_bytes
                    rows.append(
                        {"kind": kind, "ladder": ladder, "share": share,
                         "budget_bytes": budget_bytes, **row}
                    )  # fmt: skip
                    print(
                        f"{kind:6} {share:5.0%} of {size / MIB:5.0f} MiB, {ladder.count(',') + 1} "
                        f"steps: {row['rung'] or 'refused':8} peak {row['peak_bytes'] / MIB:6.0f} "
                        f"MiB ({over / MIB:+6.0f} to the budget), {row['generated']} tokens made",
                        flush=True,
                    )
    swapped, swap = sum(row["swapped_out_bytes"] for row in rows), psutil.swap_memory().total
    write_result(
        "budgets",
        {"machine": describe_machine() | {"swap_total_bytes": swap}, "rows": rows,
         "swapped_out_bytes": swapped},
    )  # fmt: skip
    if swapped:
        raise SystemExit(f"{swapped / MIB:.0f} MiB went to swap while models were loaded")


if __name__ == "__main__":
    main()
