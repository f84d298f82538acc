"""Was the machine quiet? What others took of the processors while a run went on.

Covers two readings and a pure judgement. Load averages are kept too, but judge nothing: they are
slow, and count this run itself.
"""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Busy", "Noise", "idle_cores", "judge_noise", "read_busy"]

_TOLERATED_CORES = 0.1
"""Others' work that is always there: a desktop, the front end of the notebook."""


@dataclass(frozen=True, slots=True)
class Busy:
    """Processor seconds spent since some moment, and the time."""

    at_s: float
    machine_s: float
    """By everybody; stolen by the host of a virtual machine included."""
    own_s: float
    """By this process and its ended children."""


@dataclass(frozen=True, slots=True)
class Noise:
    """How quiet it was."""

    others_cores: float
    """Processors that others kept busy, on average."""
    noisy: bool
    why: str

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def read_busy() -> Busy:
    """Read the clocks of the machine and of this process."""
    import psutil

    spent = psutil.cpu_times()
    idle = spent.idle + getattr(spent, "iowait", 0.0)
    # guest is in user already (proc(5)).
    total = sum(spent) - getattr(spent, "guest", 0.0) - getattr(spent, "guest_nice", 0.0)
    own = os.times()
    return Busy(
        at_s=time.monotonic(),
        machine_s=total - idle,
        own_s=own.user + own.system + own.children_user + own.children_system,
    )


def idle_cores(wait_s: float = 0.2) -> float:
    """How many processors nobody used, on average over a short while."""
    before = read_busy()
    time.sleep(wait_s)
    after = read_busy()
    took_s = after.at_s - before.at_s
    return (os.cpu_count() or 1) - (after.machine_s - before.machine_s) / took_s


def judge_noise(before: Busy, after: Busy, *, threads: int, cores: int) -> Noise:
    """Whether others took what this run would have used.

    Args:
        before: when it began.
        after: when it ended.
        threads: that it computed with.
        cores: that the machine has.
    """
    took_s = after.at_s - before.at_s
    if took_s <= 0:
        return Noise(0.0, False, "")
    others_s = (after.machine_s - before.machine_s) - (after.own_s - before.own_s)
    others = max(others_s / took_s, 0.0)
    spare = max(cores - threads, 0) + _TOLERATED_CORES * cores
    if others <= spare:
        return Noise(round(others, 2), False, "")
    why = (
        f"others kept {others:.1f} of {cores} processors busy and this run used {threads}; "
        "speeds are too low"
    )
    return Noise(round(others, 2), True, why)
