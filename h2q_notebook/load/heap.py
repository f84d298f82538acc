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
_AFTER_BYTES = 4 << 20
"""Afterwards. At 32 MiB, where glibc's own rule ends up, activations lie in the heap and fragment
it: a prompt of 4096 tokens through a dense model of 950 MiB took 458 MiB instead of 250, and 99 MiB
stayed after one of 2048. At 4 MiB a prompt of 2048 took 7 % longer (7.2 and 7.5 s, not 6.8 and
6.9), one of 512 no longer (four runs each)."""


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
