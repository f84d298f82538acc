"""Runs one cell of the tables in a real kernel and says what is wrong, if anything.

The tables are in ``cells_*``; ``tests/kernel`` asserts on the verdicts and
``benchmarks/adversarial.py`` writes them down, so both judge by the same rule.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from tests.support.kernel import Kernel, Reply

__all__ = ["Cell", "Expect", "KernelPool", "Verdict", "attack", "missing_need"]

Expect = Literal["stopped", "lives", "ok"]
"""stopped: ended by h2q and rolled back. lives: the kernel and its variables survive, however the
cell ends (the reason is in ``note``). ok: innocent, must end by itself and keep its names."""

MIB = 1 << 20
_PREFIX = "h2q_new = 'made by the cell'\nh2q_rebound = 'changed by the cell'\n"
# What one cell left (an innocent one, above all) must not count for the next.
_CLEAN = """
for _name in set(globals()) - h2q_names - {'h2q_names'}:
    if _name[:1] != '_':
        del globals()[_name]
get_ipython().displayhook.flush()
__import__('gc').collect()
__import__('ctypes').CDLL(None).malloc_trim(0)
"""
_STOP_NAMES = ("MemoryBudgetExceeded", "MemoryError", "RuntimeError", "_ArrayMemoryError")


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a table; ``source`` comes below the ``%%h2q_budget`` line.

    ``setup`` and ``teardown`` run unguarded before and after. ``kernel`` names the kernel that is
    shared with the other cells of the same name. ``prefix`` False: the source must come first
    (it begins with a cell magic of its own).
    """

    name: str
    source: str
    expect: Expect = "stopped"
    kernel: str = "plain"
    setup: str = ""
    teardown: str = ""
    budget_mib: int = 400
    options: str = ""
    note: str = ""
    needs: str = ""
    subshell: bool = False
    prefix: bool = True
    timeout_s: float = 40.0
    out_of_reach: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one cell did; ``problems`` is empty when it kept the promise."""

    name: str
    expect: str
    outcome: str
    ename: str
    overshoot_mib: int
    end_mib: int
    latency_ms: int | None
    """From the first outside reading over the budget to the reply, rollback and report included."""
    stop_latency_ms: int | None
    """What h2q itself measured: from its first reading over the limit to the end of the cell."""
    wall_ms: int
    problems: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


class KernelPool:
    """Kernels by name; a dead one is replaced at its next use."""

    def __init__(self, setups: dict[str, str]) -> None:
        self._setups = setups
        self._kernels: dict[str, Kernel] = {}

    def get(self, name: str) -> Kernel:
        """The kernel called *name*, alive. Only one is kept, so that memory stays small."""
        kernel = self._kernels.get(name)
        if kernel is None or not kernel.alive():
            self.close()
            kernel = self._kernels[name] = Kernel(setup=self._setups.get(name, ""))
        return kernel

    def drop(self, name: str) -> None:
        """Close one kernel."""
        kernel = self._kernels.pop(name, None)
        if kernel is not None:
            kernel.close()

    def close(self) -> None:
        """Close them all."""
        for name in list(self._kernels):
            self.drop(name)


def missing_need(cell: Cell) -> str:
    """Why this machine cannot run the cell, or an empty string."""
    if cell.needs == "dev_shm":
        try:
            facts = os.statvfs("/dev/shm")
        except OSError:
            return "no /dev/shm"
        if facts.f_bavail * facts.f_frsize < 1200 * MIB:
            return "/dev/shm is smaller than the cell needs (a write would end in SIGBUS)"
    return ""


def attack(kernel: Kernel, cell: Cell) -> Verdict:
    """Run one cell and judge it."""
    kernel.run("h2q_rebound = 'before'\nh2q_names = set(globals())")
    if cell.setup:
        ready = kernel.run(cell.setup, timeout=120)
        if ready.status != "ok":
            return _verdict(cell, Reply("none"), 0, (f"setup failed: {ready.shown[-400:]}",))
    line = f"%%h2q_budget {cell.budget_mib}MiB --no-gauge {cell.options}".rstrip()
    body = (_PREFIX if cell.prefix else "") + cell.source
    reply = kernel.run(
        f"{line}\n{body}",
        cell.timeout_s,
        sample=True,
        limit_bytes=cell.budget_mib * MIB,
        **({"subshell": kernel.subshell()} if cell.subshell else {}),
    )
    problems = list(_problems(kernel, cell, reply))
    end_bytes = kernel.used_bytes() - reply.base_bytes if kernel.alive() else 0
    if kernel.alive():
        cleaned = kernel.run(f"{cell.teardown}\n{_CLEAN}", timeout=60)
        if cleaned.status != "ok":
            problems.append(f"teardown failed: {cleaned.shown[-300:]}")
    return _verdict(cell, reply, end_bytes, tuple(problems))


def _problems(kernel: Kernel, cell: Cell, reply: Reply) -> Iterable[str]:
    if reply.status in ("lost", "dead"):
        yield f"the kernel is {reply.status}"
        return
    outcome = reply.outcome
    status = outcome["status"] if outcome else "none"
    stopped = status in ("overrun", "refused", "timeout", "stopped")
    if outcome is None:
        yield f"no outcome in the output metadata; shown: {reply.shown[-300:]!r}"
    if cell.expect == "stopped":
        if not stopped:
            yield f"not stopped: outcome {status}, reply {reply.status} {reply.ename}"
        if reply.status != "error" or reply.ename not in _STOP_NAMES:
            yield f"the reply says {reply.status} {reply.ename!r}, not a stop"
    if cell.expect == "ok" and (status != "ok" or reply.status != "ok"):
        yield f"innocent, but {status}: {reply.ename} {reply.evalue[:200]} {reply.shown[-300:]!r}"
    try:
        pid, sentinel, rebound, kept = kernel.value(
            "[h2q_os.getpid(), h2q_sentinel, h2q_rebound, 'h2q_new' in globals()]", 60
        )
    except (RuntimeError, KeyError) as error:
        yield f"the kernel does not answer afterwards: {error}"
        return
    if pid != kernel.pid or sentinel != {"kept": [1, 2, 3]}:
        yield f"pid {pid} (was {kernel.pid}), sentinel {sentinel}"
    if cell.prefix and stopped and (kept or rebound != "before"):
        yield f"not rolled back: new name kept={kept}, rebound={rebound!r}"
    if cell.expect == "ok" and cell.prefix and not kept:
        yield "an innocent cell lost its names"


def _verdict(cell: Cell, reply: Reply, end_bytes: int, problems: tuple[str, ...]) -> Verdict:
    outcome = reply.outcome or {}
    latency, own = reply.breach_to_reply_s, outcome.get("stop_latency_s")
    return Verdict(
        name=cell.name,
        expect=cell.expect,
        outcome=outcome.get("status", reply.status),
        ename=reply.ename,
        overshoot_mib=max(0, round(reply.peak_bytes / MIB) - cell.budget_mib),
        end_mib=round(end_bytes / MIB),
        latency_ms=None if latency is None else round(latency * 1000),
        stop_latency_ms=None if own is None else round(own * 1000),
        wall_ms=round(reply.wall_s * 1000),
        problems=problems,
    )
