"""What a load asks before it takes memory: the ``Watch`` protocol, and a meter around one.

Covers the question only. Who answers it (a budget, a guardian, a test) is passed in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

__all__ = ["MeteredWatch", "Watch", "WatchFactory"]


class Watch(Protocol):
    """Admits or ends a load; both methods may raise ``errors.MemoryBudgetExceeded``."""

    def reserve(self, n_bytes: int, what: str) -> None:
        """Ask for *n_bytes* that are about to be allocated for *what*."""

    def check(self) -> None:
        """Ask whether the load may go on; called at least every 8 MiB."""


WatchFactory = Callable[[int, Callable[[], int]], Watch]
"""Makes a watch from an absolute limit in bytes and a function that reads the use in bytes."""


class MeteredWatch:
    """A watch that also remembers the highest use it has seen.

    Args:
        inner: the watch that decides.
        read_used: reads the use of this process, in bytes.
        on_check: called after each passed check with the use in bytes (feeds the progress bar).
    """

    def __init__(
        self, inner: Watch, read_used: Callable[[], int], on_check: Callable[[int], None]
    ) -> None:
        self._inner = inner
        self._read_used = read_used
        self._on_check = on_check
        self.highest_bytes = read_used()

    def reserve(self, n_bytes: int, what: str) -> None:
        """Pass the question on."""
        self._inner.reserve(n_bytes, what)

    def check(self) -> None:
        """Note the use, then pass the question on: an overrun is noted before it raises."""
        used = self._read_used()
        self.highest_bytes = max(self.highest_bytes, used)
        self._inner.check()
        self._on_check(used)
