"""h2q: run any cell and load any model without losing your kernel.

The facade: exactly the names in ``__all__``, each imported when it is first used. Importing this
module is cheap and changes nothing; ``%load_ext h2q`` starts the guardian.

Rooms, and who may import whom: ``errors, units <- config <- readings <- policy <- guardian <-
{cell, load} <- session <- magics, extension``; ``views`` takes plain data.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from h2q_notebook.cell.outcome import CellOutcome
    from h2q_notebook.load.outcome import LoadOutcome

__version__ = "0.1.0"

_WHERE = {
    "BadArgument": "errors",
    "CellOutcome": "cell.outcome",
    "CellStopRequested": "errors",
    "CellStopped": "errors",
    "CellTimeExceeded": "errors",
    "GuardUnavailable": "errors",
    "H2QError": "errors",
    "LoadFailed": "errors",
    "LoadOutcome": "load.outcome",
    "LoadRefused": "errors",
    "MemoryBudgetExceeded": "errors",
    "MemoryGuardian": "guardian.guardian",
    "MemorySafeConfig": "config.settings",
    "MemorySafeModelLoader": "load.loader",
    "MissingExtra": "errors",
    "ModelRefused": "errors",
}

__all__ = sorted([*_WHERE, "history", "last", "load", "raise_budget", "stop"])  # noqa: PLE0605


def _history() -> tuple[CellOutcome, ...]:
    from h2q_notebook.session import current

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


def stop() -> bool:
    """Stop the guarded cell that is running, from any thread.

    Returns:
        Whether there was one.
    """
    from h2q_notebook.session import current

    session = current()
    return session.stop() if session is not None else False


def raise_budget(size: str | int) -> int:
    """Give the running guarded cell more, from any thread.

    Args:
        size: what to add: bytes, or a spelling such as ``512MB``.

    Returns:
        The cell's new budget in bytes; 0 if no guarded cell is running.

    Raises:
        BadArgument: the size cannot be read.
    """
    from h2q_notebook.session import current
    from h2q_notebook.units import parse_bytes

    extra_bytes = parse_bytes(str(size))
    session = current()
    return session.raise_budget(extra_bytes) if session is not None else 0


def load(source: str, *, budget: str | int | None = None, dtype: str = "auto") -> LoadOutcome:
    """Load a transformers model under a memory budget, with or without IPython.

    Args:
        source: a directory, a GGUF file, a hub name, or ``h2q://smollm2``.
        budget: what the load may add: bytes or a spelling such as ``2GiB``; None takes what the
            machine can spare.
        dtype: ``auto``, ``bf16``, ``fp16`` or ``fp32``.

    Returns:
        The model, its tokenizer, and what they cost.

    Raises:
        BadArgument, ModelRefused, LoadRefused, LoadFailed, MissingExtra: one sentence each;
            nothing stays loaded.
    """
    from h2q_notebook.cell.options import resolve_budget
    from h2q_notebook.config.settings import MemorySafeConfig
    from h2q_notebook.load.loader import MemorySafeModelLoader
    from h2q_notebook.readings.limits import read_headroom

    size = None if budget is None else str(budget)
    resolved = resolve_budget(size, read_headroom(), MemorySafeConfig().reserve_bytes)
    return MemorySafeModelLoader().load(source, budget_bytes=resolved.n_bytes, dtype=dtype)
