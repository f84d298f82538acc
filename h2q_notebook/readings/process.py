"""What one process holds, read from /proc (psutil where there is no /proc).

Covers a single process. Not its children (``tree``) nor the machine (``limits``).
Standard library only at import: the sidecar imports this module under ``python -I -S``.

*Use* is RssAnon + RssShmem + VmSwap. File-backed pages (mmapped weights, page cache) are left out:
the system may drop them at any time, and counting them stopped healthy cells.
Cost here: statm 1-4 us, status 10-26 us by pread on an open descriptor; smaps_rollup 13-23 ms,
which is why no sample uses it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

__all__ = ["PROC_AVAILABLE", "ProcessMemory", "ProcessReader", "read_process"]

PROC_AVAILABLE = os.path.exists("/proc/self/statm") and os.path.exists("/proc/self/status")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    """One process's memory at one moment, in bytes."""

    anon_bytes: int
    shmem_bytes: int
    file_bytes: int
    swap_bytes: int
    data_bytes: int
    """VmData: private writable address space, what RLIMIT_DATA counts; 0 where unknown."""
    peak_rss_bytes: int
    """VmHWM since the last reset, file pages included; 0 where unknown."""

    @property
    def used_bytes(self) -> int:
        """What budgets are compared with: anonymous + shared memory + swapped out."""
        return self.anon_bytes + self.shmem_bytes + self.swap_bytes

    @property
    def rss_bytes(self) -> int:
        """Resident memory, file pages included."""
        return self.anon_bytes + self.shmem_bytes + self.file_bytes


class ProcessReader:
    """Reads one process again and again through open descriptors; close it when done.

    Args:
        pid: the process; None for this one.

    Raises:
        OSError: the process does not exist, or may not be read.
    """

    def __init__(self, pid: int | None = None) -> None:
        who = "self" if pid is None else str(pid)
        self.pid = os.getpid() if pid is None else pid
        self._status_fd = -1
        self._statm_fd = os.open(f"/proc/{who}/statm", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._status_fd = os.open(f"/proc/{who}/status", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self.close()
            raise

    def rss_bytes(self) -> int:
        """Resident memory: the cheapest figure (1-4 us), never below what counts as use in RAM."""
        return int(os.pread(self._statm_fd, 128, 0).split(b" ", 2)[1]) * _PAGE_BYTES

    def read(self) -> ProcessMemory:
        """Read the full figure (10-26 us)."""
        blob = os.pread(self._status_fd, 8192, 0)
        return ProcessMemory(
            anon_bytes=_kib_field(blob, b"\nRssAnon:"),
            shmem_bytes=_kib_field(blob, b"\nRssShmem:"),
            file_bytes=_kib_field(blob, b"\nRssFile:"),
            swap_bytes=_kib_field(blob, b"\nVmSwap:"),
            data_bytes=_kib_field(blob, b"\nVmData:"),
            peak_rss_bytes=_kib_field(blob, b"\nVmHWM:"),
        )

    def used_bytes(self) -> int:
        """Use of the process, in bytes."""
        return self.read().used_bytes

    def close(self) -> None:
        """Give the descriptors back."""
        for fd in (self._statm_fd, self._status_fd):
            if fd >= 0:
                os.close(fd)
        self._statm_fd = self._status_fd = -1


def _kib_field(blob: bytes, key: bytes) -> int:
    """The value of a ``Key:   123 kB`` line, in bytes; 0 where the line is absent (a zombie)."""
    start = blob.find(key)
    if start < 0:
        return 0
    end = blob.find(b"kB", start)
    return int(blob[start + len(key) : end]) * 1024 if end >= 0 else 0


def read_process(pid: int | None = None) -> ProcessMemory:
    """Read a process once.

    Args:
        pid: the process; None for this one.

    Raises:
        OSError: the process is gone or may not be read.
    """
    if PROC_AVAILABLE:
        reader = ProcessReader(pid)
        try:
            return reader.read()
        finally:
            reader.close()
    import psutil

    try:
        info = psutil.Process(pid).memory_info()
    except psutil.Error as error:
        raise ProcessLookupError(str(error)) from error
    shared = int(getattr(info, "shared", 0))
    return ProcessMemory(
        anon_bytes=int(info.rss) - shared,
        shmem_bytes=0,
        file_bytes=shared,
        swap_bytes=0,
        data_bytes=0,
        peak_rss_bytes=int(getattr(info, "peak_wset", 0)),
    )
