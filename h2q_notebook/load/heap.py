"""glibc's heap around a load: big temporaries returned at once, the rest trimmed.

glibc keeps freed blocks of 1 to 30 MiB in its arenas because its mmap threshold grows by itself;
fixing the threshold took the peak of an int8 load from 2929 to 620 MiB. No effect off glibc.
"""

from __future__ import annotations

import ctypes
import gc
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["give_back", "let_go", "prompt_returns"]

_M_MMAP_THRESHOLD = -3
_DURING_BYTES = 256 << 10
_AFTER_BYTES = 32 << 20  # glibc's own upper bound: every activation as an mmap of its own is slow


def _libc() -> Any:
    try:
        libc = ctypes.CDLL("libc.so.6")
        return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
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
    libc = _libc()
    if libc is not None:
        libc.malloc_trim(0)


def let_go(error: BaseException) -> None:
    """Empty the frames that an exception, its causes and its contexts keep alive.

    Without it a half-loaded model lives as long as the traceback, which IPython keeps.
    """
    seen: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        one = queue.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        traceback.clear_frames(one.__traceback__)
        queue += [one.__cause__, one.__context__]
