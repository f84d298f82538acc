"""Runs the tables of cells with ``--isolate`` and writes what happened to the kernel.

    python -m benchmarks.isolated              run all, write results/isolated.json
    python -m benchmarks.isolated NAME ...     run the cells whose name contains NAME; print only

Also those that no guard in the kernel can reach (``os._exit``, a segmentation fault). The peak is
the worker's, by its own high-water mark where it lived to tell it, else by the watcher's looks.
Run from the repository's root on Linux; about five minutes.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

from benchmarks.machine import describe_machine, write_result
from tests.support.adversary import Cell, KernelPool, attack, missing_need
from tests.support.cells import ADVERSARIAL_CELLS, INNOCENT_CELLS, OUT_OF_REACH, SETUPS

_MIB = 1 << 20
_TIDY = """
for _path in __import__('glob').glob('/dev/shm/h2q_test*'):
    h2q_os.unlink(_path)
"""
_ELSEWHERE = ("--strict", "--on-overrun", "--rollback", "--gpu")


def measure(cell: Cell, pool: KernelPool) -> dict[str, Any]:
    """One cell in a worker."""
    kernel = pool.get(cell.kernel)
    # What a teardown takes back, the worker has taken with it.
    isolated = replace(cell, options=f"{cell.options} --isolate".strip(), teardown=_TIDY)
    verdict = attack(kernel, isolated)
    peak = kernel.value("__import__('h2q').last.peak_bytes") if kernel.alive() else 0
    refused = verdict.outcome == "refused"
    return {
        "name": cell.name,
        "expect": "ok" if cell.expect == "ok" else "any end",
        "outcome": verdict.outcome,
        "error": verdict.ename,
        "past_budget_mib": round(peak / _MIB) - cell.budget_mib,
        "kept_mib": verdict.end_mib,
        "alive": kernel.alive(),
        "problems": [one for one in verdict.problems if _counts(one, cell, refused)],
    }


def _counts(problem: str, cell: Cell, refused: bool) -> bool:
    """An attack may end as it likes, if the kernel lives and has its names.

    An innocent cell that maps more than its budget may not bring that back.
    """
    if cell.expect == "ok":
        return "once it is brought back, over its budget" not in problem and not (
            refused and problem.startswith("an innocent cell lost")
        )
    return not problem.startswith(("not stopped", "the reply says"))


def main() -> None:
    cells = [*ADVERSARIAL_CELLS, *OUT_OF_REACH, *INNOCENT_CELLS]
    wanted, rows, pool = sys.argv[1:], [], KernelPool(SETUPS)
    try:
        for cell in cells:
            if wanted and not any(word in cell.name for word in wanted):
                continue
            if missing_need(cell) or any(word in cell.options for word in _ELSEWHERE):
                continue
            row = measure(cell, pool)
            rows.append(row)
            mark = "FAILED" if row["problems"] else "ok"
            print(
                f"{mark:7} {row['name']:42} {row['outcome']:8} {row['error']:24} "
                f"+{row['past_budget_mib']} MiB kept {row['kept_mib']} "
                f"{' | '.join(row['problems'])}",
                flush=True,
            )
    finally:
        pool.close()
    attacks = [row for row in rows if row["expect"] != "ok"]
    innocent = [row for row in rows if row["expect"] == "ok"]
    result = {
        "attacks": len(attacks),
        "lost_kernels": sum(not row["alive"] for row in rows),
        "failed": [row["name"] for row in rows if row["problems"]],
        "past_budget_mib_worst": max((row["past_budget_mib"] for row in attacks), default=0),
        "innocent": len(innocent),
        "innocent_passed": sum(row["outcome"] == "ok" and not row["problems"] for row in innocent),
        "innocent_too_large_to_come_back": [
            row["name"] for row in innocent if row["outcome"] == "refused"
        ],
        "machine": describe_machine(),
    }
    print(result)
    if not wanted:
        write_result("isolated", {**result, "cells": rows})


if __name__ == "__main__":
    main()
