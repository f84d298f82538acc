"""The watcher as a process of its own; it looks on also while C code holds the kernel's GIL.

Started as ``python -I -S -E sidecar.py PID SIGNAL PAGE_FD ROOT``; orders come on stdin and results
go to stdout, one JSON object a line. End of file on stdin (the kernel is gone) ends it.
It uses the standard library and four small modules of this package, which must do the same.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    sys.path.append(sys.argv[4])  # last, so that nothing there can shadow the standard library

from h2q_notebook.guardian.page import SharedPage, Word
from h2q_notebook.guardian.watching import Watching
from h2q_notebook.policy.strikes import Orders
from h2q_notebook.readings.process import ProcessReader
from h2q_notebook.readings.tree import (
    command_of,
    descendants,
    private_tree_bytes,
    unmapped_shared_bytes,
)

if TYPE_CHECKING:
    from h2q_notebook.policy.strikes import Act

__all__ = ["ProcEffects", "main"]

_CLAMP_SLACK_BYTES = 64 << 20
_FULL_EVERY = 10
_SPARED = ("multiprocessing.resource_tracker", "h2q_notebook/guardian/sidecar.py")


class ProcEffects:
    """Sees and strikes a process through /proc and signals.

    Args:
        pid: the kernel.
        signal_number: what the kernel's stop handler listens to.
        own_pid: a process to leave out of the kernel's children (the watcher itself).
    """

    def __init__(self, pid: int, signal_number: int, own_pid: int) -> None:
        self._pid = pid
        self._signal = signal_number
        self._reader = ProcessReader(pid)
        self._without = frozenset({own_pid})
        self._old: frozenset[int] = frozenset()
        self._shared_then = self._shmem_then = 0
        self._ever_born: set[int] = set()
        self._seen: set[int] = set()
        self._round = 0
        self._grown_bytes = 0
        self.now_s = time.monotonic

    def own_bytes(self) -> int:
        """The kernel's own use."""
        return self._reader.used_bytes()

    def mark_start(self) -> None:
        """Remember children and shared memory that are there already."""
        self._old = frozenset(descendants(self._pid, without=self._without))
        self._shared_then = unmapped_shared_bytes(self._pid)
        self._shmem_then = self._reader.read().shmem_bytes
        self._ever_born, self._seen = set(), set()
        self._round = self._grown_bytes = 0

    def extra_bytes(self, own_bytes: int) -> int:
        """What was born in the cell outside the kernel's own pages.

        A full look opens a file for each thread and each descriptor of the kernel (0.5-1 ms), so
        as long as nothing has been born only every tenth is full; the others ask the main thread,
        which is where processes nearly always come from.
        """
        self._round += 1
        full = bool(self._seen or self._grown_bytes or self._round % _FULL_EVERY == 1)
        living = self._living_born(full=full)
        # A child is counted from the second look on: until it execs, a vforked one reports its
        # parent's memory as its own, and a short `!cmd` looked like a second copy of the kernel.
        children = [pid for pid in living if pid in self._seen]
        self._seen = set(living)
        if full:
            grown = unmapped_shared_bytes(self._pid) - self._shared_then
            mapped = max(0, self._reader.read().shmem_bytes - self._shmem_then)
            # shared files that are mapped and touched are in RssShmem already
            self._grown_bytes = max(0, grown - mapped)
        return self._grown_bytes + private_tree_bytes(self._pid, children, own_bytes)

    def _living_born(self, *, full: bool = True) -> list[int]:
        living = descendants(self._pid, without=self._without, main_thread_only=not full)
        found = [pid for pid in living if pid not in self._old]
        fresh = [pid for pid in found if pid not in self._ever_born]
        spared = {pid for pid in fresh if any(word in command_of(pid) for word in _SPARED)}
        self._ever_born.update(pid for pid in fresh if pid not in spared)
        return [pid for pid in found if pid not in spared]

    def born(self) -> list[int]:
        """Children born in the cell that still live."""
        return [pid for pid in self._living_born() if pid in self._ever_born]

    def strike(self, act: Act) -> None:
        """Signal the kernel once; freeze its new children and clamp it where the act says so."""
        if act.freeze_children:
            for pid in self.born():
                _send(pid, signal.SIGSTOP)
        if act.clamp:
            self._clamp()
        _send(self._pid, self._signal)
        if act.insist:
            _send(self._pid, signal.SIGINT)

    def _clamp(self) -> None:
        import resource

        bound = self._reader.read().data_bytes + _CLAMP_SLACK_BYTES
        try:
            soft, hard = resource.prlimit(self._pid, resource.RLIMIT_DATA)
            if soft == resource.RLIM_INFINITY or bound < soft:
                resource.prlimit(self._pid, resource.RLIMIT_DATA, (bound, hard))
        except (OSError, ValueError):
            return  # not allowed here: signals alone must do


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except OSError:
        return


def _serve(effects: ProcEffects, page: SharedPage) -> None:
    watching: Watching | None = None
    interval_s, buffer = 1.0, b""
    while True:
        wait_s = watching.wait_s(interval_s) if watching else None
        ready, _, _ = select.select([0], [], [], wait_s)
        if ready:
            data = os.read(0, 65536)
            if not data:
                return
            buffer += data
            while b"\n" in buffer:
                line, buffer = buffer.split(b"\n", 1)
                message: dict[str, Any] = json.loads(line)
                if message["do"] == "arm":
                    interval_s = message["interval_s"]
                    orders = Orders(**message["orders"])
                    watching = Watching(effects, page, orders, message["token"])
                    watching.begin()
                    _reply({"token": message["token"]})
                elif watching is not None:
                    result, watching = watching.result(), None
                    _reply(result)
                else:
                    _reply({"token": 0})
        if watching is not None:
            watching.look()


def _reply(message: dict[str, Any]) -> None:
    data = json.dumps(message).encode() + b"\n"
    while data:
        data = data[os.write(1, data) :]


def main(argv: list[str]) -> int:
    """Run until stdin ends or the watched process is gone."""
    pid, number, page_fd = (int(text) for text in argv[1:4])
    for stray in (signal.SIGINT, signal.SIGTSTP):  # meant for the kernel's process group
        signal.signal(stray, signal.SIG_IGN)
    with contextlib.suppress(OSError):  # only root may; otherwise it looks a little later
        os.setpriority(os.PRIO_PROCESS, 0, -5)
    try:
        effects = ProcEffects(pid, number, os.getpid())
        page = SharedPage(page_fd)
        page[Word.OWN] = effects.own_bytes()
        _reply({"ready": True})
        _serve(effects, page)
    except (OSError, BrokenPipeError):
        return 0  # the kernel has ended
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
