"""What is asked of the guardian for one cell, and what it saw: frozen data."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from h2q_notebook.guardian.device_limit import DeviceUse
from h2q_notebook.guardian.gate import GatePassed
from h2q_notebook.guardian.refuse import Refusal
from h2q_notebook.policy.strikes import Cause
from h2q_notebook.readings.process import ProcessMemory

__all__ = ["GuardRequest", "Live", "WatchResult"]


@dataclass(frozen=True, slots=True)
class GuardRequest:
    """How one cell shall be guarded."""

    budget_bytes: int
    strike: bool = True
    strict: bool = False
    refuse: bool = True
    """Check single large requests of numpy and torch before they grow."""
    gate: str | None = None
    """What the compiled gate may refuse: ``off``, ``on``, ``wide``; None: as the settings say."""
    timeout_s: float | None = None
    gpu: str | None = None
    """Budget of each device, as typed; None: devices are not limited."""


@dataclass(frozen=True, slots=True)
class Live:
    """What the gauge may know while a cell runs; bytes above the baseline."""

    t_s: float
    used_bytes: int
    budget_bytes: int
    peak_bytes: int
    strikes: int
    cause: Cause
    devices: tuple[DeviceUse, ...] = ()


@dataclass(frozen=True, slots=True)
class WatchResult:
    """What was seen between arm and disarm; bytes of use above the baseline."""

    baseline: ProcessMemory
    budget_bytes: int
    peak_bytes: int
    peak_is_exact: bool
    """True if it is the system's own high-water mark; False if the largest of the samples."""
    cause: Cause
    strikes: int
    raised: int
    cancelled: int
    duration_s: float
    first_over_s: float | None
    refusals: tuple[Refusal, ...]
    passed: tuple[GatePassed, ...]
    """What was granted beyond the limit, as refusing it could have ended the kernel."""
    born_children: tuple[int, ...]
    born_threads: tuple[threading.Thread, ...]
    points: tuple[tuple[float, int], ...]
    watcher_lost: bool
    granted_bytes: int = 0
    """What the cell was promised; more than ``budget_bytes`` where others took memory meanwhile."""
    devices: tuple[DeviceUse, ...] = ()
