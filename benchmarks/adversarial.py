"""Runs the tables of adversarial and innocent cells and writes what happened.

    python -m benchmarks.adversarial              run all, write results/adversarial.json
    python -m benchmarks.adversarial NAME ...     run the cells whose name contains NAME; print only
    python -m benchmarks.adversarial --markdown   print the README's table from the JSON

Run from the repository's root on Linux; about three minutes.
"""

from __future__ import annotations

import json
import statistics
import sys
from typing import Any

from benchmarks.machine import RESULTS, describe_machine, write_result
from tests.support.adversary import Cell, KernelPool, Verdict, attack, missing_need
from tests.support.cells import ADVERSARIAL_CELLS, INNOCENT_CELLS, OUT_OF_REACH, SETUPS

LARGE_OVERSHOOT_MIB = 64


def run_cells(cells: list[Cell]) -> list[Verdict]:
    """Run *cells* one after another, telling each verdict as it comes."""
    pool, verdicts = KernelPool(SETUPS), []
    try:
        for cell in cells:
            if reason := missing_need(cell):
                print(f"skipped  {cell.name}: {reason}", flush=True)
                continue
            verdict = attack(pool.get(cell.kernel), cell)
            verdicts.append(verdict)
            mark = "FAILED" if verdict.problems else "ok"
            print(
                f"{mark:7} {verdict.name:42} {verdict.outcome:8} +{verdict.overshoot_mib} MiB "
                f"end {verdict.end_mib} latency {verdict.latency_ms} "
                f"stop {verdict.stop_latency_ms} wall {verdict.wall_ms} "
                f"{' | '.join(verdict.problems)}",
                flush=True,
            )
    finally:
        pool.close()
    return verdicts


def summary(verdicts: list[Verdict]) -> dict[str, Any]:
    """The figures that the README quotes."""
    attacks = [v for v in verdicts if v.expect != "ok"]
    stopped = [v for v in attacks if v.outcome in ("overrun", "refused")]
    stepwise = [v.overshoot_mib for v in stopped if v.outcome == "overrun"]
    latencies = [v.stop_latency_ms for v in stopped if v.stop_latency_ms is not None]
    return {
        "adversarial": len(attacks),
        "stopped_and_undone": sum(not v.problems for v in stopped),
        "dead_kernels": sum(v.outcome in ("dead", "lost") for v in verdicts),
        "innocent": len(verdicts) - len(attacks),
        "false_stops": sum(v.expect == "ok" and v.outcome != "ok" for v in verdicts),
        "out_of_reach": {cell.name: cell.out_of_reach for cell in OUT_OF_REACH},
        "failed": [v.name for v in verdicts if v.problems],
        "overshoot_mib_median_of_stopped": statistics.median(stepwise) if stepwise else None,
        "stop_latency_ms_median": statistics.median(latencies) if latencies else None,
        "machine": describe_machine(),
    }


def markdown() -> str:
    """The cases that overshoot by more than 64 MiB, as a table, largest first."""
    cells = json.loads((RESULTS / "adversarial.json").read_text(encoding="utf-8"))["cells"]
    large = [c for c in cells if c["overshoot_mib"] > LARGE_OVERSHOOT_MIB and c["expect"] != "ok"]
    rows = [
        f"| {c['name']} | {c['outcome']} | +{c['overshoot_mib']} MiB |"
        for c in sorted(large, key=lambda c: -c["overshoot_mib"])
    ]
    return "\n".join(["| cell (budget 400 MiB) | outcome | overshoot |", "|---|---|---|", *rows])


def main() -> None:
    if "--markdown" in sys.argv:
        print(markdown())
        return
    cells = [*ADVERSARIAL_CELLS, *INNOCENT_CELLS]
    wanted = sys.argv[1:]
    if wanted:
        run_cells([cell for cell in cells if any(word in cell.name for word in wanted)])
        return
    verdicts = run_cells(cells)
    figures = summary(verdicts)
    path = write_result("adversarial", {**figures, "cells": [v.as_dict() for v in verdicts]})
    print(json.dumps(figures, indent=1), path.name, sep="\n")


if __name__ == "__main__":
    main()
