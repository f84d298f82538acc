"""Watches a process tree from outside through /proc; shares no code with h2q on purpose.

Use is RssAnon + VmSwap of the kernel, what its children own privately, and shared memory: the
larger of what is mapped (RssShmem) and what memfds and /dev/shm hold.
"""

from __future__ import annotations

import os
import re
import threading
import time
from contextlib import suppress
from pathlib import Path

__all__ = ["OutsideSampler", "descendants", "threads_of", "used_by_tree"]

_INTERVAL_S = 0.004
_OWN = re.compile(rb"^(Private_Dirty|Pss_Shmem|SwapPss):\s+(\d+) kB", re.M)


def _field(blob: bytes, key: bytes) -> int:
    found = re.search(rb"^" + key + rb":\s+(\d+) kB", blob, re.M)
    return int(found[1]) * 1024 if found else 0


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


def threads_of(pid: int) -> list[str]:
    """The thread ids of a process."""
    try:
        return os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []


def _ended(pid: int) -> bool:
    """Whether the process is gone or waits to be reaped."""
    return _read(f"/proc/{pid}/stat").rpartition(b")")[2][1:2] in (b"", b"Z", b"X")


def descendants(pid: int) -> list[int]:
    """Children, their children and so on, as far as they still run."""
    found: list[int] = []
    todo = [pid]
    while todo:
        parent = todo.pop()
        for tid in threads_of(parent):
            for child in _read(f"/proc/{parent}/task/{tid}/children").split():
                found.append(int(child))
                todo.append(int(child))
    return [child for child in found if not _ended(child)]


def _memfd_bytes(pid: int) -> int:
    total, folder = 0, f"/proc/{pid}/fd"
    try:
        names = os.listdir(folder)
    except OSError:
        return 0
    for name in names:
        try:
            if os.readlink(f"{folder}/{name}").startswith("/memfd:"):
                total += os.stat(f"{folder}/{name}").st_blocks * 512
        except OSError:
            continue
    return total


def _dev_shm_bytes() -> int:
    """What the cells' own files in /dev/shm hold; other programs use that folder too."""
    total = 0
    for path in Path("/dev/shm").glob("h2q_test*"):
        with suppress(OSError):
            total += path.stat().st_blocks * 512
    return total


def _children_bytes(pid: int) -> int:
    total = 0
    for child in descendants(pid):
        rollup = _read(f"/proc/{child}/smaps_rollup")
        total += sum(int(kib) * 1024 for _, kib in _OWN.findall(rollup))
    return total


def used_by_tree(pid: int) -> int:
    """Private memory of the kernel and its children, and mapped shared memory, in bytes."""
    blob = _read(f"/proc/{pid}/status")
    own = sum(_field(blob, key) for key in (b"RssAnon", b"RssShmem", b"VmSwap"))
    return own + _children_bytes(pid)


class OutsideSampler:
    """Samples every 4 ms from a thread of the *test* process, children and memfds every 20 ms."""

    def __init__(self, pid: int, limit_bytes: int | None = None) -> None:
        self.pid = pid
        self.limit_bytes = limit_bytes
        self.peak_bytes = 0
        self.breach_at: float | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._shm_start = _dev_shm_bytes() + _memfd_bytes(pid)
        self._slow_bytes = self._children = 0
        self._children_start = _children_bytes(pid)
        blob = _read(f"/proc/{pid}/status")
        self._shmem_start = _field(blob, b"RssShmem")
        self.base_bytes = _field(blob, b"RssAnon") + _field(blob, b"VmSwap") + self._shmem_start

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; the figures are final afterwards."""
        self._stop.set()
        self._thread.join()

    def _added_bytes(self, round_number: int) -> int:
        blob = _read(f"/proc/{self.pid}/status")
        private = _field(blob, b"RssAnon") + _field(blob, b"VmSwap")
        mapped = _field(blob, b"RssShmem") - self._shmem_start
        if round_number % 5 == 0:
            self._slow_bytes = _dev_shm_bytes() + _memfd_bytes(self.pid) - self._shm_start
            self._children = _children_bytes(self.pid) - self._children_start
        shared = max(mapped, self._slow_bytes, 0)
        return private + self._shmem_start - self.base_bytes + shared + max(self._children, 0)

    def _watch(self) -> None:
        round_number = 0
        while not self._stop.is_set():
            added = self._added_bytes(round_number)
            round_number += 1
            self.peak_bytes = max(self.peak_bytes, added)
            over = self.limit_bytes is not None and added > self.limit_bytes
            if over and self.breach_at is None:
                self.breach_at = time.monotonic()
            self._stop.wait(_INTERVAL_S)
