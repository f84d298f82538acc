"""The worker's end of what ``worker`` describes: what every program that runs a cell begins with.

Covers the start, the copies, the lines it tells. It ends with its kernel: when its input ends, or
by the system's own signal where C code holds the GIL then.
"""

from __future__ import annotations

import base64
import ctypes
import faulthandler
import fcntl
import gc
import importlib
import json
import os
import signal
import struct
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, BinaryIO

from h2q_notebook.cell.pickling import unpack
from h2q_notebook.guardian.reclaim import trim_heap
from h2q_notebook.readings.process import ProcessMemory, read_process

__all__ = ["Channel", "Started", "Waiter", "bound", "start"]

_TRACE_SIGNAL = signal.SIGUSR2
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_F_SETSIG = 10  # of Linux's fcntl.h; Python has no name for it


class Channel:
    """The pipe of JSON lines to the kernel; any thread.

    An interrupt never leaves a line half written: it waits until the line is out.

    Args:
        fd: the pipe.
    """

    def __init__(self, fd: int) -> None:
        os.set_inheritable(fd, False)
        self._fd = fd
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._owner = 0
        self._late: list[bytes] = []
        self._main = threading.get_ident()
        self._main_busy = self._interrupted = False
        self.interruptible = False

    @property
    def is_mine(self) -> bool:
        """False in a process that the cell forked: the pipe is its parent's."""
        return os.getpid() == self._pid

    def tell(self, message: dict[str, Any], *blocks: Any) -> None:
        """Write one line, and the blocks it announces."""
        line = json.dumps(message, default=_plain).encode() + b"\n"
        me = threading.get_ident()
        if self._owner == me:  # by a destructor, in the middle of a line
            self._late.append(line)
            return
        self._main_busy = self._main_busy or me == self._main
        try:
            with self._lock:
                self._owner = me
                self._write(line)
                for block in blocks:
                    self._write(block)
                while self._late:
                    self._write(self._late.pop(0))
                self._owner = 0
        except BrokenPipeError:
            os._exit(1)  # the kernel is gone, or has had enough
        if me == self._main:
            self._main_busy = False
            if self._interrupted:
                self._interrupted = False
                raise KeyboardInterrupt

    def _write(self, data: Any) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def on_interrupt(self, number: int, frame: object) -> None:
        """The handler of SIGINT while a cell runs."""
        if not self.interruptible:
            return
        if self._main_busy:
            self._interrupted = True
            return
        raise KeyboardInterrupt


def _plain(value: Any) -> str:
    """What JSON does not know: pictures as base64, the rest in words."""
    return base64.b64encode(value).decode() if isinstance(value, bytes) else repr(value)


class Waiter:
    """Waits for the kernel's word, and ends everything when the kernel is gone."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._words = threading.Semaphore(0)
        threading.Thread(target=self._listen, name="h2q-kernel", daemon=True).start()

    def _listen(self) -> None:
        while self._source.read(1):
            self._words.release()
        with suppress(OSError):
            os.killpg(0, signal.SIGKILL)
        os._exit(1)

    def wait(self) -> None:
        """Until it says "go on"."""
        self._words.acquire()


@dataclass(slots=True)
class Started:
    """A worker that has its copies and waits for the word to begin."""

    head: dict[str, Any]
    shell: Any
    channel: Channel
    waiter: Waiter
    base: ProcessMemory
    missing: list[str]


def start(
    make_shell: Callable[[dict[str, Any], Channel], Any],
    prepare: Callable[[Any, dict[str, Any]], None] = lambda shell, head: None,
) -> Started:
    """Read head and copies, make the shell, tell what it uses, and wait for the word.

    Args:
        make_shell: makes the IPython shell, from the head and the channel.
        prepare: called with the shell and the names it got, before its use is measured.
    """
    told, trace, lifeline = map(int, sys.argv[1:4])
    sys.argv = [""]  # as in a kernel, nothing there is the cell's
    channel = Channel(told)
    source = _own_input()
    head = json.loads(_block(source))
    _end_with(head["kernel_pid"], lifeline)
    _keep_traces(trace)
    sys.path[:] = head["path"]
    os.environ.pop("PYTHONPATH", None)
    if head["pythonpath"] is not None:
        os.environ["PYTHONPATH"] = head["pythonpath"]
    signal.signal(signal.SIGINT, channel.on_interrupt)
    shell = make_shell(head, channel)
    try:
        names, missing = _names(head, source, shell.user_ns)
    except Exception as error:  # whatever a class of theirs raises
        channel.tell({"kind": "unread", "why": f"{type(error).__name__}: {error}"[:300]})
        os._exit(1)
    shell.user_ns.update(names)
    prepare(shell, names)
    del names
    waiter = Waiter(source)
    gc.collect()
    trim_heap()
    base = read_process()
    channel.tell({"kind": "begun", "base_bytes": base.used_bytes, "missing": missing})
    waiter.wait()
    return Started(head, shell, channel, waiter, base, missing)


def bound(data_bytes: int | None) -> None:
    """A single call must not take more than this, however fast; None: no bound of ours.

    Args:
        data_bytes: of private writable address space, in all.
    """
    with suppress(ImportError, OSError, ValueError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        if data_bytes is None or hard != resource.RLIM_INFINITY:
            soft = hard if data_bytes is None else min(data_bytes, hard)
        else:
            soft = data_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _own_input() -> BinaryIO:
    """The kernel's pipe, away from standard input: what a cell starts must not read from it."""
    source = os.fdopen(os.dup(0), "rb")
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 0)
    os.close(nowhere)
    return source


def _end_with(kernel_pid: int, lifeline: int) -> None:
    """Have the system end us with the kernel, also while C code holds the GIL."""
    os.set_inheritable(lifeline, False)
    try:
        # Nothing is ever written to this pipe: its one event is that the kernel's end is closed,
        # and the signal of that goes to everything the cell has started. (The signal of prctl
        # comes to this process alone, and before that.)
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(lifeline, _F_SETSIG, int(signal.SIGKILL))
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    except (OSError, AttributeError):
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    with suppress(OSError, AttributeError):
        # What the cell starts stays ours, also where its own parent ends (a daemon): it counts.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    if os.getppid() != kernel_pid:
        os._exit(1)
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # where the machine is out of memory: this process, not the kernel


def _keep_traces(fd: int) -> None:
    """Where it was when it crashed, or was ended, goes to a file of the kernel's."""
    os.set_inheritable(fd, False)
    # Of all threads: what crashes is often a pool of Rust's or C's, and the cell waits for it.
    faulthandler.enable(fd, all_threads=True)
    faulthandler.register(_TRACE_SIGNAL, fd, all_threads=True, chain=False)


def _names(
    head: dict[str, Any], source: BinaryIO, home: dict[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    blob = _block(source)
    buffers = [_block(source) for _ in range(head["n_buffers"])]
    names: dict[str, Any] = {}
    missing = []
    for name, module in head["modules"].items():
        try:
            names[name] = importlib.import_module(module)
        except Exception as error:  # a module that was made by hand, or a file that is gone
            missing.append(f"{name} ({type(error).__name__})")
    names.update(unpack(blob, buffers, home))
    return names, missing


def _block(source: BinaryIO) -> bytearray:
    (n_bytes,) = struct.unpack("<Q", source.read(8))
    block = bytearray(n_bytes)  # writable: arrays that lie in it must be, too
    view, at = memoryview(block), 0
    while at < n_bytes:
        got = source.readinto(view[at:])  # type: ignore[attr-defined]
        if not got:
            os._exit(1)
        at += got
    return block
