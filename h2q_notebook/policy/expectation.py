"""What a cell will take, from what the same cell took before: pure.

Covers judging alone. The median of the last five runs; one that was stopped counts with what it had
taken by then, which is the least it wanted.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from h2q_notebook.units import format_bytes

__all__ = ["PastRun", "expected_bytes", "warning"]

_RECENT = 5


@dataclass(frozen=True, slots=True)
class PastRun:
    """One earlier run of the same cell."""

    peak_bytes: int
    """Above its start."""
    finished: bool
    """False: it was stopped, and would have taken more."""


def expected_bytes(past: Sequence[PastRun]) -> int | None:
    """The median peak; None where the cell is new.

    Args:
        past: oldest first.
    """
    recent = past[-_RECENT:]
    return int(statistics.median(one.peak_bytes for one in recent)) if recent else None


def warning(past: Sequence[PastRun], budget_bytes: int) -> str:
    """What to say before the cell runs; "" where nothing speaks against it.

    Args:
        past: oldest first.
        budget_bytes: what it may take this time.
    """
    recent = past[-_RECENT:]
    if not recent:
        return ""
    stopped = [one for one in recent if not one.finished]
    budget = format_bytes(budget_bytes)
    if not recent[-1].finished and recent[-1].peak_bytes >= budget_bytes:
        return (
            f"this cell was stopped the last time, at {format_bytes(recent[-1].peak_bytes)}; its "
            f"budget is {budget}"
        )
    expected = expected_bytes(recent)
    assert expected is not None
    if expected <= budget_bytes:
        return ""
    least = "at least " if len(stopped) * 2 >= len(recent) else ""
    runs = "the last run" if len(recent) == 1 else f"the last {len(recent)} runs"
    return (
        f"this cell took {least}{format_bytes(expected)} in {runs}, and its budget is {budget}: "
        "it will probably be stopped"
    )
