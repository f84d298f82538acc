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

__all__ = ["advise_huge", "give_back", "prompt_returns"]

_M_MMAP_THRESHOLD = -3
_DURING_BYTES = 256 << 10
_HUGE_BYTES = 2 << 20  # x86-64 and most arm64 kernels; elsewhere the advice is void
_MADV_HUGEPAGE = 14
_AFTER_BYTES = 32 << 20  # glibc's own upper bound: every activation as an mmap of its own is slow


@lru_cache(maxsize=1)
def _libc() -> Any:
    try:
        libc = ctypes.CDLL("libc.so.6")
        return libc if hasattr(libc, "mallopt") else None
    except OSError:
        return None


def advise_huge(address: int, n_bytes: int) -> None:
    """Ask for huge pages for the whole ones inside a block; only where they lie entirely in it.

    A load spends most of its time on page faults, and this takes 511 of 512 away. Best effort:
    without the call, or where the system has it switched off, nothing changes.
    """
    first = -(-address // _HUGE_BYTES) * _HUGE_BYTES
    length = (address + n_bytes - first) // _HUGE_BYTES * _HUGE_BYTES
    libc = _libc()
    if libc is not None and length > 0:
        libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(length), _MADV_HUGEPAGE)


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
