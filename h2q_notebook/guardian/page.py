"""One page of memory that the kernel and its watcher share.

Live figures and flags cross here without a system call; orders and results cross the channel.
Each word has one writer, given in ``Word``. Standard library only at import.
"""

from __future__ import annotations

import mmap
import os
from enum import IntEnum

__all__ = ["SharedPage", "Word"]


class Word(IntEnum):
    """Index of each 64-bit word; (k) written by the kernel, (w) by the watcher."""

    UNWOUND = 0  # (k) token of the arming whose cell has been left
    STOP_REQUESTED = 1  # (k) token of the arming that shall be stopped by request
    LIMIT = 2  # (k) absolute limit in bytes; Raise moves it while the cell runs
    OWN = 3  # (w) the kernel's own use, bytes
    EXTRA = 4  # (w) use of children and shared memory born in the cell, bytes
    PEAK = 5  # (w) largest own + extra seen, bytes
    STRIKES = 6  # (w) strikes so far
    CAUSE = 7  # (w) policy.strikes.Cause of the strikes
    INSIST = 8  # (w) 1 once SIGINT carries strikes too
    REFUSED = 9  # (k) requests that the compiled gate has refused since it was armed


class SharedPage:
    """A page of 64-bit words; aligned single words are written whole on every supported CPU.

    Args:
        fd: the descriptor of an existing page (the watcher's side); None makes a new one.
    """

    def __init__(self, fd: int | None = None) -> None:
        if fd is None:
            if hasattr(os, "memfd_create"):
                self.fd = os.memfd_create("h2q", os.MFD_CLOEXEC)
                os.ftruncate(self.fd, mmap.PAGESIZE)
            else:
                self.fd = -1  # same process only
        else:
            self.fd = fd
        self._map = mmap.mmap(self.fd, mmap.PAGESIZE)
        self._words = memoryview(self._map).cast("q")

    @property
    def memory(self) -> mmap.mmap:
        """The page itself, for the compiled gate; who takes its buffer must let it go first."""
        return self._map

    def __getitem__(self, word: Word) -> int:
        return self._words[word]

    def __setitem__(self, word: Word, value: int) -> None:
        self._words[word] = value

    def close(self) -> None:
        """Unmap the page and close its descriptor."""
        self._words.release()
        self._map.close()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
