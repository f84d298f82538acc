"""pyarrow's memory from the system's allocator while a cell is guarded by the wide gate.

pyarrow's own pools (mimalloc, jemalloc) reserve address space and fill it later: nothing can be
asked there. Its system pool asks for each block (measured: 1.4 GB in one request was refused).
Buffers know the pool they came from, so that changing it back leaves them as they are.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

__all__ = ["ArrowPool"]


class ArrowPool:
    """pyarrow's default pool, changed and put back."""

    def __init__(self) -> None:
        self._before: Any = None

    def arm(self) -> None:
        """From now on, until ``disarm``; pyarrow has been imported."""
        arrow: Any = sys.modules.get("pyarrow")
        if arrow is None or self._before is not None:
            return
        with suppress(Exception):  # a pyarrow unlike any we know keeps its pool
            before = arrow.default_memory_pool()
            arrow.set_memory_pool(arrow.system_memory_pool())
            self._before = before

    def disarm(self) -> None:
        """Put back what was there, if the cell has not chosen another meanwhile."""
        before, self._before = self._before, None
        if before is None:
            return
        arrow: Any = sys.modules["pyarrow"]
        with suppress(Exception):
            if arrow.default_memory_pool().backend_name == "system":
                arrow.set_memory_pool(before)
