"""Injected refusals: what do libraries do when the compiled gate gives them no memory?

    python -m benchmarks.gate_faults [GROUP ...]

Each operation runs under twenty budgets, each time in a process of its own, with every request of
1 MiB and more asked about (the gate's own threshold is 16 MiB: there is more to refuse here). What
counts is how the process ends: with a result, with a Python exception, or by a signal. One crash
takes a door out of the default set. Writes results/gate_faults.json, which is the evidence for
``gate.DOORS``.

A group's libraries are imported once, in a process with one thread of computation, which is forked
for every run. A library that is absent is named and left out.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from benchmarks.fault_operations import GROUPS, operations
from benchmarks.machine import describe_machine, write_result

BUDGETS_MIB = (0, 1, 2, 3, 5, 8, 12, 16, 20, 26, 32, 40, 50, 64, 80, 100, 130, 160, 200, 260)
_THRESHOLD_BYTES = 1 << 20
_TIMEOUT_S = 60.0


def _run(make: Callable[[], Callable[[], Any]], budget_mib: int, told: int) -> None:
    """In the child: prepare, arm, do it, tell how it ended."""
    import gc

    from h2q_notebook.guardian import _gate
    from h2q_notebook.guardian.page import SharedPage, Word

    operation = make()
    gc.collect()
    page = SharedPage()
    _gate.watch(page.memory, Word.LIMIT, Word.EXTRA, Word.REFUSED)
    page[Word.LIMIT] = _gate.used() + (budget_mib << 20)
    _gate.arm(_THRESHOLD_BYTES)
    try:
        result = operation()
        ended = "ok"
    except BaseException as error:
        result, ended = None, type(error).__name__
    _gate.disarm()
    del result
    gc.collect()  # what a refusal left behind half-made comes to light here
    os.write(told, json.dumps([ended, page[Word.REFUSED]]).encode())


def _forked(make: Callable[[], Callable[[], Any]], budget_mib: int) -> tuple[str, int]:
    """How one run ended, and how many requests were refused in it."""
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read_fd)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        try:
            _run(make, budget_mib, write_fd)
        finally:
            os._exit(0)
    os.close(write_fd)
    deadline_s, text = time.monotonic() + _TIMEOUT_S, b""
    while True:
        left_s = deadline_s - time.monotonic()
        ready, _, _ = select.select([read_fd], [], [], max(left_s, 0))
        part = os.read(read_fd, 4096) if ready else b""
        text += part
        if not part:
            break
    os.close(read_fd)
    if not ready:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if not ready:
        return "hang", 0
    if os.WIFSIGNALED(status):
        return f"crash: {signal.Signals(os.WTERMSIG(status)).name}", 0
    if not text:
        return "crash: no answer", 0
    ended, refused = json.loads(text)
    return ended, refused


def group(name: str) -> None:
    """All operations of a group; a line of JSON for each."""
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"
    from h2q_notebook.guardian import _gate
    from h2q_notebook.guardian.gate import DOORS, let_extensions_pass

    made = operations(name)
    _gate.open_python()
    let_extensions_pass(_gate)
    for module, doors in DOORS.items():
        if module in sys.modules:
            for door in doors:
                _gate.open_door(*door)
    for what, make in made.items():
        ends: Counter[str] = Counter()
        refusals = 0
        for budget_mib in BUDGETS_MIB:
            ended, refused = _forked(make, budget_mib)
            ends[ended] += 1
            refusals += refused
        print(json.dumps({"operation": what, "ends": dict(ends), "refusals": refusals}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("groups", nargs="*", default=[], choices=[*GROUPS, []])
    parser.add_argument("--one", choices=GROUPS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        group(given.one)
        return
    rows: dict[str, dict[str, Any]] = {}
    for name in given.groups or GROUPS:
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.gate_faults", "--one", name]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        found = [json.loads(line) for line in done.stdout.splitlines()]
        for one in found:
            rows[f"{name}: {one['operation']}"] = {"ends": one["ends"], "refusals": one["refusals"]}
            print(f"{name:14} {one['operation']:28} {one['refusals']:6} refused  {one['ends']}")
        if done.returncode:
            print(f"{name}: left out ({done.returncode})")
    runs: Counter[str] = Counter()
    for row in rows.values():
        runs.update(row["ends"])
    bad = sum(n for ended, n in runs.items() if ended.startswith(("crash", "hang")))
    total = {"operations": len(rows), "runs": sum(runs.values()), "crashes_or_hangs": bad,
             "with_a_refusal": sum(1 for row in rows.values() if row["refusals"]),
             "refusals": sum(row["refusals"] for row in rows.values())}  # fmt: skip
    print(total)
    if not given.groups:
        write_result("gate_faults", {"machine": describe_machine(), **total, "rows": rows})


if __name__ == "__main__":
    main()
