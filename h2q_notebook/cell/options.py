"""What a user asked for one guarded cell, and what budget that comes to.

Covers the decision which limit binds. Reading the machine and parsing the line are others' work.
"""

from __future__ import annotations

from dataclasses import dataclass

from h2q_notebook.cell.outcome import OnOverrun
from h2q_notebook.cell.snapshot import ContentsMode
from h2q_notebook.errors import BadArgument
from h2q_notebook.readings.limits import Headroom
from h2q_notebook.units import MIB, format_bytes, parse_bytes

__all__ = ["BudgetOptions", "ResolvedBudget", "resolve_budget"]

_MIN_BUDGET_BYTES = MIB


@dataclass(frozen=True, slots=True)
class BudgetOptions:
    """The options of ``%%h2q_budget`` and ``%h2q_budget``."""

    size: str | None = None
    """As typed; None means what the machine can spare."""
    on_overrun: OnOverrun = "rollback"
    contents: ContentsMode = "names"
    deep_limit_bytes: int | None = None
    strict: bool = False
    refuse: bool = True
    gate: str | None = None
    """What the compiled gate may refuse: ``off``, ``on``, ``wide``; None: as the settings say."""
    gpu: str | None = None
    """Budget of each GPU, as typed; None: no limit but the device's own."""
    gauge: bool = True
    quiet: bool = False
    timeout_s: float | None = None
    probe: bool = False
    """Run it on copies in another process, to learn what it takes; not here."""
    isolate: bool = False
    """Run it on copies in another process; what it made comes back if all went well."""
    label: str = ""


@dataclass(frozen=True, slots=True)
class ResolvedBudget:
    """A number of bytes, and which limit it comes from, in words."""

    n_bytes: int
    source: str


def resolve_budget(size: str | None, room: Headroom, reserve_bytes: int) -> ResolvedBudget:
    """Turn a size into bytes; the tighter of what was asked and what is free binds.

    Args:
        size: as typed; a percentage is of the total of the limit that binds the machine; None
            asks for all that is free but the reserve.
        room: what the machine can give.
        reserve_bytes: left to the machine when no size is given.

    Raises:
        BadArgument: the size cannot be read, or is under 1 MiB.
    """
    if size is None:
        own = room.source == "max_memory_mb"  # a ceiling of the user's own keeps nothing back
        spare = max(_MIN_BUDGET_BYTES, room.free_bytes - (0 if own else reserve_bytes))
        whose = room.source if own else f"the {room.source}"
        return ResolvedBudget(spare, f"budget of what {whose} can spare: {format_bytes(spare)}")
    asked = parse_bytes(size, of_bytes=room.total_bytes)
    if asked < _MIN_BUDGET_BYTES:
        raise BadArgument(f"size: {size!r} is under 1 MiB; no cell can run in that")
    if asked > room.free_bytes >= _MIN_BUDGET_BYTES:
        return ResolvedBudget(
            room.free_bytes,
            f"what is free ({room.source}): {format_bytes(room.free_bytes)}"
            f" of the {format_bytes(asked)} asked for",
        )
    return ResolvedBudget(asked, f"budget {format_bytes(asked)}")
