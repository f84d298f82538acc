"""What goes to a worker, and whether there is room for it there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from h2q_notebook.cell import sizes
from h2q_notebook.cell.needs import Copies, copies_of, needed_names
from h2q_notebook.cell.outcome import NameSize
from h2q_notebook.errors import GuardUnavailable, LoadRefused
from h2q_notebook.units import MIB, format_bytes

__all__ = ["Sendable", "sendable"]

_SIZES_S = 0.5
_LEAST_BYTES = 64 * MIB


@dataclass(frozen=True, slots=True)
class Sendable:
    """Copies, about how large they are, and what is left beside them; in bytes."""

    copies: Copies
    held: tuple[NameSize, ...]
    """Those of at least 1 MiB, largest first."""
    copied_bytes: int
    left_bytes: int


def sendable(
    transformed: str, user_ns: Mapping[str, Any], free_bytes: int, option: str
) -> Sendable:
    """Copies of what a cell needs.

    Args:
        transformed: the cell after IPython's transformation.
        user_ns: the notebook's names.
        free_bytes: what the worker, copies included, may take in all.
        option: what the user wrote, for the sentences of errors.

    Raises:
        LoadRefused: there is no room for them.
        GuardUnavailable: cloudpickle is absent.
    """
    names = needed_names(transformed, user_ns)
    held = sizes.largest(user_ns, top=len(user_ns), min_bytes=0, time_limit_s=_SIZES_S, born=names)
    copied_bytes = sum(one.n_bytes for one in held)
    left_bytes = _left(free_bytes, copied_bytes, held, option)
    try:
        copies = copies_of(names, user_ns)
    except ImportError:
        raise GuardUnavailable(f"{option}: needs cloudpickle: pip install cloudpickle") from None
    if copies.packed.n_bytes > copied_bytes:  # what the look could not see is in the pickle
        copied_bytes = copies.packed.n_bytes
        left_bytes = _left(free_bytes, copied_bytes, held, option)
    shown = tuple(one for one in held if one.n_bytes >= MIB and one.name in copies.names)
    return Sendable(copies, shown, copied_bytes, left_bytes)


def _left(free_bytes: int, copied_bytes: int, held: tuple[NameSize, ...], option: str) -> int:
    left = free_bytes - 2 * copied_bytes  # the copy, and its pickle while it travels
    if left >= _LEAST_BYTES:
        return left
    what = "probe" if option == "--probe" else "isolate"
    large = [one for one in held[:3] if one.n_bytes >= MIB]
    largest = ", ".join(f"{one.name} {format_bytes(one.n_bytes)}" for one in large)
    raise LoadRefused(
        f"{option}: it needs copies of {format_bytes(copied_bytes)} ({largest or 'small things'}) "
        f"and {format_bytes(free_bytes)} are free; free memory, or {what} a part of the cell"
    )
