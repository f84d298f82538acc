"""The kernel's end of the watcher: start it, arm it, disarm it, notice when it dies.

Covers two watchers with one face: ``SidecarWatcher`` (a process, Linux) and ``ThreadWatcher`` (a
thread: all that is possible without /proc; it is blind while C code holds the GIL).
Messages are one JSON object a line over inherited pipes: no port, no file, and the death of either
side is an end of file for the other.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from h2q_notebook.errors import GuardUnavailable
from h2q_notebook.guardian.page import SharedPage
from h2q_notebook.guardian.watching import Watching
from h2q_notebook.readings.process import ProcessReader, read_process

if TYPE_CHECKING:
    from h2q_notebook.policy.strikes import Act, Orders

__all__ = ["SidecarWatcher", "ThreadWatcher", "Watcher"]

_ANSWER_S = 5.0  # starting takes 20 ms, arming 0.6 ms; a box that swaps may need far longer


class Watcher(Protocol):
    """Looks at the kernel while a cell runs, and strikes."""

    page: SharedPage

    def alive(self) -> bool:
        """Whether it can be armed."""

    def arm(self, orders: Orders, token: int, interval_s: float) -> None:
        """Begin to look. Raises GuardUnavailable if the watcher is gone."""

    def disarm(self) -> dict[str, Any]:
        """Stop looking; the result of ``Watching.result``, empty if the watcher died."""

    def close(self) -> None:
        """End it and give everything back."""


class SidecarWatcher:
    """The watcher process.

    Args:
        signal_number: what it sends to this process on a strike.

    Raises:
        GuardUnavailable: the process could not be started or did not answer.
    """

    def __init__(self, signal_number: int) -> None:
        self.page = SharedPage()
        script = Path(__file__).with_name("sidecar.py")
        root = str(script.parent.parent.parent)
        command = [sys.executable, "-I", "-S", "-E", str(script), str(os.getpid())]
        try:
            self._process = subprocess.Popen(
                [*command, str(signal_number), str(self.page.fd), root],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                pass_fds=(self.page.fd,),
                start_new_session=True,  # a Ctrl-C in a terminal must not reach it
            )
        except OSError as error:
            self.page.close()
            raise GuardUnavailable(f"the watcher process could not be started: {error}") from error
        self._buffer = b""
        try:
            self._answer()
        except GuardUnavailable:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Process id of the sidecar."""
        return self._process.pid

    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def arm(self, orders: Orders, token: int, interval_s: float) -> None:
        """See ``Watcher.arm``."""
        self._send(
            {"do": "arm", "orders": asdict(orders), "token": token, "interval_s": interval_s}
        )
        while self._answer().get("token") != token:
            continue  # an answer that an interrupted disarm left behind

    def disarm(self) -> dict[str, Any]:
        """See ``Watcher.disarm``."""
        try:
            self._send({"do": "disarm"})
            return self._answer()
        except GuardUnavailable:
            return {}

    def close(self) -> None:
        """End the process by closing its stdin; kill it if it lingers."""
        process = self._process
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
        try:
            process.wait(1.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self.page.close()

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
        except (OSError, ValueError) as error:
            raise GuardUnavailable("the watcher process has ended") from error

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        deadline_s = time.monotonic() + _ANSWER_S
        while b"\n" not in self._buffer:
            left_s = deadline_s - time.monotonic()
            try:
                fd = self._process.stdout.fileno()
                ready = left_s > 0 and select.select([fd], [], [], left_s)[0]
                data = os.read(fd, 65536) if ready else b""
            except (OSError, ValueError) as error:
                raise GuardUnavailable("the watcher process has ended") from error
            if not data:
                raise GuardUnavailable("the watcher process does not answer")
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        answer: dict[str, Any] = json.loads(line)
        return answer


class ThreadWatcher:
    """The watcher as a thread of the kernel, for systems without /proc.

    Args:
        strike: called for each strike, in the watcher's thread.
    """

    def __init__(self, strike: Callable[[Act], None]) -> None:
        self.page = SharedPage()
        self._strike = strike
        self._halt = threading.Event()
        self._thread: threading.Thread | None = None
        self._watching: Watching | None = None

    def alive(self) -> bool:
        """Always: its thread is made anew for each cell."""
        return True

    def arm(self, orders: Orders, token: int, interval_s: float) -> None:
        """See ``Watcher.arm``; never faster than 10 ms, for it competes for the GIL."""
        self._halt.clear()
        self._watching = Watching(_ThreadEffects(self._strike), self.page, orders, token)
        self._watching.begin()
        self._thread = threading.Thread(
            target=self._run,
            args=(self._watching, max(0.01, interval_s)),
            name="h2q-watcher",
            daemon=True,
        )
        self._thread.start()

    def _run(self, watching: Watching, interval_s: float) -> None:
        while not self._halt.wait(watching.wait_s(interval_s)):
            watching.look()

    def disarm(self) -> dict[str, Any]:
        """See ``Watcher.disarm``."""
        self._halt.set()
        if self._thread is not None:
            self._thread.join(1.0)
        watching, self._watching = self._watching, None
        return watching.result() if watching is not None else {}

    def close(self) -> None:
        """Stop the thread and unmap the page."""
        self.disarm()
        self.page.close()


class _ThreadEffects:
    """Own use only: children and shared memory need /proc."""

    def __init__(self, strike: Callable[[Act], None]) -> None:
        self.strike = strike
        self.now_s = time.monotonic
        try:
            self._reader: ProcessReader | None = ProcessReader()
        except OSError:
            self._reader = None

    def own_bytes(self) -> int:
        return self._reader.used_bytes() if self._reader else read_process().used_bytes

    def mark_start(self) -> None:
        return None

    def extra_bytes(self, own_bytes: int) -> int:
        return 0

    def born(self) -> list[int]:
        return []


def stop_signal() -> int:
    """SIGURG, whose default action is to be ignored: a stray one never kills a kernel.

    (SIGUSR1 would.) Windows has no such signal; SIGINT serves there.
    """
    return int(getattr(signal, "SIGURG", signal.SIGINT))
