"""Injected refusals: what do libraries do when the compiled gate gives them no memory?

    python -m benchmarks.gate_faults [--repeat N] [--into NAME] [GROUP ...]

Each operation runs under twenty budgets, each time in a process of its own, with every request of
1 MiB and more asked about (the gate's own threshold is 16 MiB: there is more to refuse here). What
counts is how the process ends: with a result, with a Python exception, or by a signal. One crash
takes a door out of its level. Writes results/gate_faults.json, which is the evidence for
``gate_rules``; groups that are named are measured again, the others stay as they are there.
Another environment (another numpy, another Python) has a record of its own: ``--into``.

A group's libraries are imported once, in a process with one thread of computation, which is forked
for every run. A library that is absent is named and left out.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
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
from benchmarks.machine import RESULTS, describe_machine, write_result
from h2q_notebook.guardian.gate_rules import DOORS, RULES, Level

BUDGETS_MIB = (0, 1, 2, 3, 5, 8, 12, 16, 20, 26, 32, 40, 50, 64, 80, 100, 130, 160, 200, 260)
_THRESHOLD_BYTES = 1 << 20
_TIMEOUT_S = 60.0


def _run(make: Callable[[], Callable[[], Any]], budget_mib: int, level: Level, told: int) -> None:
    """In the child: prepare, arm, do it, tell how it ended."""
    from h2q_notebook.guardian import _gate
    from h2q_notebook.guardian.page import SharedPage, Word

    faulthandler.enable(os.fdopen(told, "w", closefd=False))  # where a crash happens
    operation = make()
    gc.collect()
    page = SharedPage()
    _gate.watch(page.memory, Word.LIMIT, Word.EXTRA, Word.REFUSED)
    page[Word.LIMIT] = _gate.used() + (budget_mib << 20)
    _gate.arm(_THRESHOLD_BYTES, level)
    try:
        result = operation()
        ended = "ok"
    except BaseException as error:
        result, ended = None, type(error).__name__
    _gate.disarm()
    del result
    gc.collect()  # what a refusal left behind half-made comes to light here
    passed = sum(count for _, count, _, _ in _gate.passed())
    os.write(told, json.dumps([ended, page[Word.REFUSED], passed]).encode())


def _forked(
    make: Callable[[], Callable[[], Any]], budget_mib: int, level: Level
) -> tuple[str, int, int, str]:
    """How one run ended, what was refused in it, what granted, and the stack if it crashed."""
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read_fd)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        try:
            _run(make, budget_mib, level, write_fd)
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
    stack = text.decode(errors="replace")
    if not ready:
        return "hang", 0, 0, stack
    if os.WIFSIGNALED(status):
        return f"crash: {signal.Signals(os.WTERMSIG(status)).name}", 0, 0, stack
    if not text.startswith(b"["):
        return "crash: no answer", 0, 0, stack
    return (*json.loads(text), "")


def group(name: str, budgets_mib: tuple[int, ...]) -> None:
    """All operations of a group; a line of JSON for each."""
    threads = "2" if "threads" in name else "1"
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = threads
    from h2q_notebook.guardian import _gate
    from h2q_notebook.guardian.extension_loading import let_extensions_pass

    level = Level.WIDE if name.startswith("wide") else Level.SAFE
    made = operations(name)
    for rule in RULES:
        _gate.know(rule.text, rule.kind, rule.level)
    _gate.open_python()
    let_extensions_pass(_gate, lambda: _gate.scan(level is Level.WIDE))
    for door in DOORS:
        if door.library in sys.modules and door.level <= level:
            _gate.open_door(door.file, door.symbol)
    for what, make in made.items():
        ends: Counter[str] = Counter()
        row: dict[str, Any] = {"operation": what, "refusals": 0, "passed": 0, "stacks": []}
        for budget_mib in budgets_mib:
            ended, refused, passed, stack = _forked(make, budget_mib, level)
            ends[ended] += 1
            row["refusals"] += refused
            row["passed"] += passed
            if stack:
                row["stacks"].append(f"{budget_mib} MiB: {stack[:2000]}")
        print(json.dumps({**row, "ends": dict(ends)}), flush=True)


def measure(name: str, rows: dict[str, dict[str, Any]]) -> None:
    """One group once more, in a process of its own; added to *rows*."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.gate_faults", "--one", name]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    for line in done.stdout.splitlines():
        one = json.loads(line)
        print(
            f"{name:14} {one['operation']:28} {one['refusals']:6} refused  {one['ends']}",
            flush=True,
        )
        row = rows.setdefault(
            f"{name}: {one['operation']}", {"ends": {}, "refusals": 0, "passed": 0, "stacks": []}
        )
        row["ends"] = dict(Counter(row["ends"]) + Counter(one["ends"]))
        row["refusals"] += one["refusals"]
        row["passed"] += one["passed"]
        row["stacks"] += one["stacks"]
    if done.returncode:
        print(f"{name}: left out ({done.returncode})")


def totals(rows: dict[str, dict[str, Any]]) -> dict[str, int]:
    """What the README quotes."""
    runs: Counter[str] = Counter()
    for row in rows.values():
        runs.update(row["ends"])
    bad = sum(n for ended, n in runs.items() if ended.startswith(("crash", "hang")))
    return {
        "operations": len(rows),
        "runs": sum(runs.values()),
        "crashes_or_hangs": bad,
        "with_a_refusal": sum(1 for row in rows.values() if row["refusals"]),
        "refusals": sum(row["refusals"] for row in rows.values()),
        "passed": sum(row["passed"] for row in rows.values()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("groups", nargs="*", default=[], choices=[*GROUPS, []])
    parser.add_argument("--repeat", type=int, default=1, help="how often each run is made")
    parser.add_argument("--into", default="gate_faults", help="the name of the result file")
    parser.add_argument("--one", choices=GROUPS, help=argparse.SUPPRESS)
    parser.add_argument("--budgets", nargs="*", default=[], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        group(given.one, tuple(map(int, given.budgets)) or BUDGETS_MIB)
        return
    wanted = given.groups or GROUPS
    rows: dict[str, dict[str, Any]] = {}
    for name in wanted:
        for _ in range(given.repeat):
            measure(name, rows)
    kept: dict[str, dict[str, Any]] = {}
    path = RESULTS / f"{given.into}.json"
    if given.groups and path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))["rows"]
        kept = {key: row for key, row in before.items() if key.split(": ")[0] not in wanted}
    rows = {**kept, **rows}
    print(totals(rows))
    write_result(given.into, {"machine": describe_machine(), **totals(rows), "rows": rows})


if __name__ == "__main__":
    main()
