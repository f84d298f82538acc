"""Admission by budget: asked before memory is taken, and again while it is filled.

Covers loads, which know beforehand what they will take. Cells, which do not, have the sidecar.
"""

from __future__ import annotations

from collections.abc import Callable

from h2q_notebook.errors import MemoryBudgetExceeded
from h2q_notebook.units import format_bytes

__all__ = ["BudgetWatch"]


class BudgetWatch:
    """Ends a load before it passes an absolute limit.

    Args:
        limit_bytes_absolute: the ceiling for the use of this process.
        read_used: reads that use, in bytes.
    """

    def __init__(self, limit_bytes_absolute: int, read_used: Callable[[], int]) -> None:
        self._limit_bytes = limit_bytes_absolute
        self._read_used = read_used

    def reserve(self, n_bytes: int, what: str) -> None:
        """Admit *n_bytes* for *what*, or raise before a byte of it is allocated.

        Raises:
            MemoryBudgetExceeded: the use plus *n_bytes* would pass the limit.
        """
        left = self._limit_bytes - self._read_used()
        if n_bytes > left:
            raise MemoryBudgetExceeded(
                f"{what} needs {format_bytes(n_bytes)}, and {format_bytes(max(left, 0))} of the "
                "budget are left"
            )

    def check(self) -> None:
        """Raise if the use has passed the limit.

        Raises:
            MemoryBudgetExceeded: it has.
        """
        over = self._read_used() - self._limit_bytes
        if over > 0:
            raise MemoryBudgetExceeded(f"the load went {format_bytes(over)} over its budget")
