"""glibc's heap around a load: big temporaries returned at once, the rest trimmed.

glibc keeps freed blocks of 1 to 30 MiB in its arenas because its mmap threshold grows by itself;
fixing the threshold took the peak of an int8 load from 2929 to 620 MiB. No effect off glibc.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from h2q_notebook.guardian.reclaim import trim_heap

__all__ = ["give_back", "prompt_returns"]

_M_MMAP_THRESHOLD = -3
_DURING_BYTES = 256 << 10
_AFTER_BYTES = 32 << 20  # glibc's own upper bound: every activation as an mmap of its own is slow


@lru_cache(maxsize=1)
def _libc() -> Any:
    try:
        libc = ctypes.CDLL("libc.so.6")
        return libc if hasattr(libc, "mallopt") else None
    except OSError:
        return None


@contextmanager
def prompt_returns() -> Iterator[None]:
    """Blocks of 256 KiB and more go back to the system as soon as they are freed."""
    libc = _libc()
    if libc is not None:
        libc.mallopt(_M_MMAP_THRESHOLD, _DURING_BYTES)
    try:
        yield
    finally:
        if libc is not None:
            libc.mallopt(_M_MMAP_THRESHOLD, _AFTER_BYTES)


def give_back(*, collect: bool = True) -> None:
    """Return free heap pages to the system, after a garbage collection unless told otherwise."""
    if collect:
        gc.collect()
    trim_heap()
