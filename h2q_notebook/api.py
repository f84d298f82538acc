"""What Python callers use beside the magics: ``h2q.load``, ``h2q.stop``, ``h2q.raise_budget``.

``load`` is public as ``h2q.load`` alone: in the package that name is the room of the loader.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from h2q_notebook.load.outcome import LoadOutcome

__all__ = ["load", "raise_budget", "stop"]


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
