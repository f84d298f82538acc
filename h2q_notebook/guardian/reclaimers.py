"""Functions of the user's that give memory back when the kernel gets full.

Covers keeping them and calling them, each judged by its effect: one that frees next to nothing
twice is left alone until the kernel has been calm again, as the guard does with its own cleaning.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from h2q_notebook.errors import BadArgument
from h2q_notebook.guardian.reclaim import release_memory, trim_heap
from h2q_notebook.units import MIB, format_bytes, shorten

__all__ = ["RECLAIMERS", "Reclaimed", "Reclaimers", "clean", "register_reclaimer"]

_NOTHING_BYTES = MIB
_IDLE_CALLS = 2


@dataclass(frozen=True, slots=True)
class Reclaimed:
    """What one of them did."""

    name: str
    freed_bytes: int
    error: str = ""
    """What it raised, in words; it is not called again."""

    def words(self) -> str:
        """For the user."""
        if self.error:
            return f"{self.name} failed and is not called again ({self.error})"
        return f"{self.name} gave back {format_bytes(self.freed_bytes)}"


@dataclass(slots=True)
class _Registered:
    name: str
    function: Callable[[], object]
    idle_calls: int = 0


class Reclaimers:
    """Those of one kernel, in the order they were registered."""

    def __init__(self) -> None:
        self._registered: list[_Registered] = []
        self._lock = threading.Lock()

    def add(self, function: Callable[[], object], name: str) -> Callable[[], None]:
        """Register one; returns what takes it away again."""
        one = _Registered(name, function)
        with self._lock:
            self._registered.append(one)

        def forget() -> None:
            with self._lock:
                if one in self._registered:
                    self._registered.remove(one)

        return forget

    def names(self) -> tuple[str, ...]:
        """Of all that are registered."""
        with self._lock:
            return tuple(one.name for one in self._registered)

    def run(self, read_used: Callable[[], int]) -> tuple[Reclaimed, ...]:
        """Call each that has shown an effect, or has not been called yet.

        Args:
            read_used: the kernel's use, in bytes.
        """
        with self._lock:
            chosen = [one for one in self._registered if one.idle_calls < _IDLE_CALLS]
        return tuple(self._call(one, read_used) for one in chosen)

    def calm(self) -> None:
        """The kernel has room again: the next time each gets a new chance."""
        with self._lock:
            for one in self._registered:
                one.idle_calls = 0

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._registered.clear()

    def _call(self, one: _Registered, read_used: Callable[[], int]) -> Reclaimed:
        before = read_used()
        try:
            one.function()
        except Exception as error:  # theirs; the next one may still help
            with self._lock:
                if one in self._registered:
                    self._registered.remove(one)
            return Reclaimed(one.name, 0, shorten(f"{type(error).__name__}: {error}", 120))
        freed = max(before - read_used(), 0)
        one.idle_calls = one.idle_calls + 1 if freed < _NOTHING_BYTES else 0
        return Reclaimed(one.name, freed)


RECLAIMERS = Reclaimers()
"""One list for the process: it may be filled before the extension is loaded."""


def clean(read_used: Callable[[], int]) -> str:
    """Collect, empty pools and caches, call the reclaimers; what these did, in words.

    Args:
        read_used: the kernel's use, in bytes.
    """
    release_memory()
    done = RECLAIMERS.run(read_used)
    if done:
        trim_heap()
    return "; ".join(one.words() for one in done)


def register_reclaimer(function: Any, *, name: str = "") -> Callable[[], None]:
    """Have *function* called when the kernel passes 90 % of its ceiling, after h2q's own cleaning.

    It runs in the guard's thread while your cells go on, so it should drop references (a cache, a
    memo, a pool) and return soon. One that frees less than 1 MiB twice in a row is not called again
    before the kernel has been calm; one that raises is dropped, and both are told.

    Args:
        function: called without arguments; what it returns is ignored.
        name: for the messages; empty for the function's own.

    Returns:
        A function that takes it away again.

    Raises:
        BadArgument: it cannot be called.

    Example:
        >>> forget = h2q.register_reclaimer(my_cache.clear, name="my cache")
    """
    if not callable(function):
        raise BadArgument(f"function: {shorten(repr(function), 60)} cannot be called")
    return RECLAIMERS.add(function, name or getattr(function, "__qualname__", "a reclaimer"))
