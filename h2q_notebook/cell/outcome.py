"""What became of one guarded cell, as plain frozen data.

Covers the shape only: filled by ``lifecycle``, shown by ``views``, kept by ``session``.
Imports nothing of h2q, so that every room may take it as a type.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = [
    "CellOutcome",
    "DeviceUse",
    "Event",
    "EventKind",
    "Isolation",
    "NameSize",
    "OnOverrun",
    "ProbeResult",
    "Sample",
    "SourceLine",
    "Status",
    "Undone",
]

Status = Literal["ok", "error", "overrun", "refused", "timeout", "stopped", "warned"]
"""ok: ended inside its budget. error: the user's own exception. overrun: stopped over its budget.
refused: one request that could not fit was refused before it grew. timeout, stopped: ended by
``--timeout`` or by Stop. warned: went over, but ``--on-overrun warn`` let it run on."""
OnOverrun = Literal["rollback", "keep", "warn"]
EventKind = Literal["info", "warn", "bad"]


@dataclass(frozen=True, slots=True)
class Sample:
    """Memory added by the cell at one moment."""

    t_s: float
    used_bytes: int


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened while the cell ran (seconds since its start)."""

    t_s: float
    used_bytes: int
    text: str
    kind: EventKind


@dataclass(frozen=True, slots=True)
class SourceLine:
    """The line of the cell that was running when it was stopped (1-based, as the user sees it)."""

    number: int
    text: str


@dataclass(frozen=True, slots=True)
class NameSize:
    """A name and about how many bytes it holds."""

    name: str
    type_name: str
    n_bytes: int


@dataclass(frozen=True, slots=True)
class DeviceUse:
    """What the cell did with one GPU whose memory it had a budget of (``--gpu``)."""

    name: str
    """As torch spells it: ``cuda:0``, ``mps``."""
    budget_bytes: int
    peak_bytes: int
    retained_bytes: int


@dataclass(frozen=True, slots=True)
class Undone:
    """Names that were put back."""

    added: tuple[str, ...] = ()
    rebound: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()
    contents: tuple[str, ...] = ()
    """Names whose content was put back (``--rollback deep``)."""

    @property
    def count(self) -> int:
        """How many names were put back in all."""
        return len(self.added) + len(self.rebound) + len(self.deleted) + len(self.contents)


@dataclass(frozen=True, slots=True)
class Isolation:
    """What crossed between the kernel and the worker of an isolated cell (``--isolate``)."""

    sent: tuple[NameSize, ...] = ()
    """Names of at least 1 MiB that were copied to the worker."""
    sent_bytes: int = 0
    missing: tuple[str, ...] = ()
    """Names that could not be copied, each with its type."""
    back: tuple[str, ...] = ()
    """Names that came back: new, bound anew, or changed in place."""
    back_bytes: int = 0
    deleted: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    """Names that could not come back, each with its type."""


@dataclass(frozen=True, slots=True)
class CellOutcome:
    """One guarded cell. Every ``*_bytes`` of use is relative to the cell's start."""

    label: str
    status: Status
    on_overrun: OnOverrun
    budget_bytes: int
    budget_source: str
    """Which limit bound, in words: ``budget 400 MiB``, ``what the machine can spare`` ..."""
    baseline_bytes: int
    """What the kernel held when the cell began (absolute)."""
    peak_bytes: int
    retained_bytes: int
    """What the kernel holds more (or less) than before, once everything was given back."""
    returned_bytes: int
    """What rollback and reclaim gave back after the stop; 0 for a cell that ended by itself."""
    duration_s: float
    stop_latency_s: float | None = None
    """From the first reading over the limit to the moment the cell had ended."""
    strikes: int = 0
    line: SourceLine | None = None
    holders: tuple[NameSize, ...] = ()
    undone: Undone = Undone()
    not_undone: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()
    error: str | None = None
    samples: tuple[Sample, ...] = ()
    events: tuple[Event, ...] = ()
    started_at: str = ""
    """ISO 8601, UTC."""
    execution_count: int | None = None
    devices: tuple[DeviceUse, ...] = ()
    device_full: bool = False
    """It was a device's memory that had no room for what was asked."""
    isolated: Isolation | None = None
    """It ran in a worker: every figure but ``baseline_bytes`` and ``retained_bytes`` is of that."""

    @property
    def share(self) -> float:
        """Peak over budget; 1.0 is exactly the budget."""
        return self.peak_bytes / self.budget_bytes if self.budget_bytes else 0.0

    @property
    def ended_early(self) -> bool:
        """True if h2q, not the cell itself, ended it."""
        return self.status in ("overrun", "refused", "timeout", "stopped")

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON-ready data (tuples become lists when dumped)."""
        return {**asdict(self), "share": self.share}


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What one run on copies, in another process, took. Bytes above its start."""

    status: str
    """``ok``, ``error`` (the cell's own), ``over`` (all that was free did not do), ``timeout``, or
    ``lost`` (the worker crashed)."""
    peak_bytes: int
    exact: bool
    """True if the peak is the system's own high-water mark; False if the largest of the samples."""
    retained_bytes: int
    duration_s: float
    budget_bytes: int
    limit_bytes: int
    """Where the worker would have been, or was, ended."""
    copied: tuple[NameSize, ...] = ()
    copied_bytes: int = 0
    missing: tuple[str, ...] = ()
    """Names that could not be copied, with why."""
    error: str = ""
