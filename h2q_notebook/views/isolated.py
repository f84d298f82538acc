"""What is told of an isolated cell beside the rest: what crossed between kernel and worker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from h2q_notebook.errors import MemoryBudgetExceeded, WorkerLost
from h2q_notebook.units import MIB, format_bytes, shorten

if TYPE_CHECKING:
    from h2q_notebook.cell.outcome import CellOutcome, Isolation

__all__ = ["ENDING", "crossed", "rows", "why_refused"]

ENDING = "the kernel is alive and has not changed: the cell ran in a worker, and that is gone"
_MAX_NAMES = 5
_OURS = (WorkerLost.__name__, MemoryBudgetExceeded.__name__)
_UNCHANGED = "; the kernel has not changed"


def crossed(outcome: CellOutcome, isolated: Isolation) -> str:
    """What came back, in a few words."""
    if outcome.status != "ok":
        return "nothing came back from the worker; the kernel has not changed"
    size = f" ({format_bytes(isolated.back_bytes)})" if isolated.back_bytes >= MIB else ""
    parts = [f"back from the worker: {_listed(isolated.back)}{size}" if isolated.back else ""]
    parts.append(f"deleted: {_listed(isolated.deleted)}" if isolated.deleted else "")
    return ", ".join(filter(None, parts)) or "no name changed in the worker"


def rows(outcome: CellOutcome) -> list[tuple[str, str]]:
    """What did not cross, and what to do; empty where all is well."""
    isolated, found = outcome.isolated, list[tuple[str, str]]()
    if isolated is None:
        return found
    if isolated.left:
        found.append(
            (
                "left",
                f"{_listed(isolated.left)}: cannot be pickled, so it ended with the worker; use it "
                "within its cell, and keep plain data of it",
            )
        )
    if isolated.missing and outcome.status == "error":
        found.append(
            (
                "missing",
                f"{_listed(isolated.missing)}: could not be copied to the worker; make it within "
                "the cell, or run the cell without --isolate",
            )
        )
    return found


def why_refused(outcome: CellOutcome) -> str:
    """Why, where it was no exception of the cell's own; "" where it was."""
    name, _, text = (outcome.error or "").partition(": ")
    return shorten(text.removesuffix(_UNCHANGED), 200) if name in _OURS else ""


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(shorten(name, 40) for name in names[:_MAX_NAMES])
    rest = len(names) - _MAX_NAMES
    return f"{shown} and {rest} more" if rest > 0 else shown
