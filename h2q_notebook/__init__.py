"""h2q: run any cell and load any model without losing your kernel.

The facade: exactly the names in ``__all__``, each imported when it is first used. Importing this
module is cheap and changes nothing; ``%load_ext h2q`` starts the guardian.

Rooms, and who may import whom: ``errors, units <- config <- readings <- policy <- guardian <-
{cell, load, bench} <- startup <- notebook <- magics, extension``; ``views`` takes plain data,
``server`` runs in Jupyter's server.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from h2q_notebook.cell.outcome import CellOutcome

__version__ = "0.1.0"

_WHERE = {
    "BadArgument": "errors",
    "BenchInterrupted": "errors",
    "BenchRun": "bench.outcome",
    "CaseResult": "bench.outcome",
    "CellOutcome": "cell.outcome",
    "CellStopRequested": "errors",
    "CellStopped": "errors",
    "CellTimeExceeded": "errors",
    "GuardUnavailable": "errors",
    "H2QError": "errors",
    "LadderEstimate": "load.outcome",
    "LoadFailed": "errors",
    "LoadOutcome": "load.outcome",
    "LoadRefused": "errors",
    "MemoryBudgetExceeded": "errors",
    "MemoryGuardian": "guardian.guardian",
    "MemorySafeConfig": "config.settings",
    "MemorySafeModelLoader": "load.loader",
    "MemorySafeStartupSystem": "startup.system",
    "MissingExtra": "errors",
    "ModelRefused": "errors",
    "estimate": "api",
    "fit_batch_size": "guardian.batching",
    "raise_budget": "api",
    "register_reclaimer": "guardian.reclaimers",
    "stop": "api",
}

__all__ = sorted([*_WHERE, "history", "last"])  # noqa: PLE0605 - one list, kept in one place


def _history() -> tuple[CellOutcome, ...]:
    from h2q_notebook.notebook.session import current

    session = current()
    return tuple(session.history) if session is not None else ()


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(f"h2q_notebook.{_WHERE[name]}"), name)
    if name == "history":
        return _history()
    if name == "last":
        outcomes = _history()
        return outcomes[-1] if outcomes else None
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
