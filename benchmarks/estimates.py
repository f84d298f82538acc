"""Estimates beside what was measured: loading, and running prompts of three lengths.

    python -m benchmarks.estimates [--work DIR] [KIND ...]

prints and writes results/estimates.json. Every measurement is in a fresh process under a limit of
its address space; memory is read from outside every 2 ms, so what nobody counts is counted too.
Also: parameters of published models from their configs alone, and the time that takes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.loading import Child
from benchmarks.machine import describe_machine, write_result
from benchmarks.models import build
from h2q_notebook.load.loader import MemorySafeModelLoader
from h2q_notebook.units import GIB, MIB

KINDS = ("dense", "v2", "v3", "v32")
CONTEXTS = (512, 2048, 4096)
_CHILD = """
import json, sys
where, step, tokens = sys.argv[1:4]
import torch, transformers, transformers.modeling_utils
from h2q_notebook.load.loader import MemorySafeModelLoader
print("ready", flush=True)
sys.stdin.readline()
outcome = MemorySafeModelLoader().load(where, budget_bytes=8 << 30, ladder=(step,))
print(json.dumps([outcome.plan.rung.load_peak_bytes, outcome.peak_bytes]), flush=True)
sys.stdin.readline()
ids = torch.randint(3, 30000, (1, int(tokens)), generator=torch.Generator().manual_seed(0))
with torch.no_grad():
    outcome.model(input_ids=ids, use_cache=True, logits_to_keep=1)
print("done", flush=True)
sys.stdin.readline()
"""


def measure(where: Path, step: str, tokens: int) -> dict[str, int]:
    """Peaks of anonymous memory beyond the imports: of the load, and of one prompt after it."""
    child = Child(str(where), step, str(tokens), script=_CHILD, limit_bytes=14 * GIB)
    child.read()
    base = child.memory()[0]
    peaks = [0, 0]
    phase, over = [0], threading.Event()

    def watch() -> None:
        while not over.is_set():
            peaks[phase[0]] = max(peaks[phase[0]], child.memory()[0] - base)
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    child.go_on()
    estimated, seen = json.loads(child.read())
    phase[0] = 1
    child.go_on()
    child.read()
    over.set()
    watcher.join()
    child.close()
    return {"estimated_load": estimated, "seen_by_h2q": seen, "load": peaks[0], "run": peaks[1]}


def compare(kind: str, where: Path) -> dict[str, Any]:
    folder = build(kind, where)
    rows = []
    for tokens in CONTEXTS:
        told = MemorySafeModelLoader().estimate(
            folder, budget_bytes=64 * GIB, context_tokens=tokens, ladder=("full",)
        )
        rung, figures = told.verdicts[0].rung, told.figures[0]
        found = measure(folder, "full", tokens)
        load_error = rung.load_peak_bytes / found["load"] - 1
        run_error = rung.run_peak_bytes / found["run"] - 1
        rows.append(
            {
                "context_tokens": tokens,
                "estimated_load_bytes": rung.load_peak_bytes,
                "measured_load_bytes": found["load"],
                "load_error": round(load_error, 4),
                "estimated_run_bytes": rung.run_peak_bytes,
                "of_it_cache_bytes": figures.cache_bytes,
                "of_it_compute_bytes": figures.compute_bytes,
                "source": figures.source,
                "measured_run_bytes": found["run"],
                "run_error": round(run_error, 4),
            }
        )
        print(
            f"{kind:6} {tokens:5} tokens: load {rung.load_peak_bytes / MIB:6.0f} MiB estimated, "
            f"{found['load'] / MIB:6.0f} measured ({load_error:+.1%}); run "
            f"{rung.run_peak_bytes / MIB:6.0f}, {found['run'] / MIB:6.0f} ({run_error:+.1%})",
            flush=True,
        )
    return {"kind": kind, "rows": rows}


def count_published() -> list[dict[str, Any]]:
    """Parameters from configs alone; seconds are for the structure, and with a pass counted."""
    from h2q_notebook.load.directory import inspect
    from h2q_notebook.load.estimate import estimate
    from tests.unit.test_load_estimate import PUBLISHED

    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for name, config, published, _ in PUBLISHED:
            path = Path(scratch) / "config.json"
            path.write_text(json.dumps(config))
            facts = inspect(scratch, weights=False)
            began = time.perf_counter()
            figures = estimate(facts, "bf16")
            structure_s = time.perf_counter() - began
            counted = estimate(facts, "bf16", count=True)
            rows.append(
                {
                    "model": name,
                    "n_parameters": figures.n_parameters,
                    "difference": figures.n_parameters - published,
                    "structure_s": round(structure_s, 3),
                    "run_peak_4096_bytes": counted.run_peak_bytes,
                    "counted_s": round(time.perf_counter() - began - structure_s, 3),
                }
            )
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=None)
    parser.add_argument("kinds", nargs="*")
    given = parser.parse_args()
    published = [] if given.kinds else count_published()
    with tempfile.TemporaryDirectory() as scratch:
        where = given.work or Path(scratch)
        models = [compare(kind, where) for kind in given.kinds or KINDS]
    if not given.kinds:
        data = {"machine": describe_machine(), "published": published, "models": models}
        write_result("estimates", data)


if __name__ == "__main__":
    main()
