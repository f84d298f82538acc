"""One large request in a real kernel, with the compiled gate and without it.

    python -m benchmarks.gate_overshoot

Budget 400 MiB; the peak is read from outside every few milliseconds. Each cell runs in a kernel in
which its libraries and its data are there already. Prints and writes results/gate_overshoot.json.
"""

from __future__ import annotations

import os
from typing import Any

from benchmarks.machine import describe_machine, write_result
from tests.support.gate_cells import BUDGET_MIB, GREEDY, INNOCENT, SETUP
from tests.support.kernel import Kernel

_MIB = 1 << 20


def measure(gate: str) -> dict[str, dict[str, Any]]:
    """Every cell under one setting of the gate."""
    os.environ["H2Q_GATE"] = gate
    rows = {}
    for name, cell in {**GREEDY, **(INNOCENT if gate == "on" else {})}.items():
        with Kernel(setup=SETUP) as kernel:
            reply = kernel.run(f"%%h2q_budget {BUDGET_MIB}MiB\n{cell}", timeout=120, sample=True)
            outcome = reply.outcome or {}
            rows[name] = {
                "status": outcome.get("status", reply.status),
                "error": reply.ename,
                "peak_mib": round(reply.peak_bytes / _MIB),
                "alive": kernel.alive(),
                "undone": kernel.alive() and not kernel.value("'x' in globals()"),
            }
        one = rows[name]
        print(f"{gate:5} {name:32} {one['status']:9} peak {one['peak_mib']:5} MiB", flush=True)
    return rows


def main() -> None:
    result = {"budget_mib": BUDGET_MIB, "with": measure("on"), "without": measure("off")}
    worst = max(result["with"][name]["peak_mib"] for name in GREEDY) - BUDGET_MIB
    print(f"worst overshoot with the gate {worst:+} MiB")
    write_result("gate_overshoot", {"machine": describe_machine(), **result})


if __name__ == "__main__":
    main()
