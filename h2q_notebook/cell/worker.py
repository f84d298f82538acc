"""A worker: the process in which a cell runs on copies, seen from the kernel.

Covers starting, feeding, watching and ending it; ``worker_side`` is the other end. A new process,
not a fork: after a fork the pools of torch and polars wait for threads that are not there
(measured: hangs).

The protocol: the kernel writes blocks to the worker's standard input, each after its length (a
JSON head, the pickle, its buffers), and later single bytes that say "go on"; its end ends the
worker. The worker writes JSON lines to a pipe of its own, some of them followed by as many bytes
as they say.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from h2q_notebook.cell.needs import Copies
from h2q_notebook.errors import GuardUnavailable
from h2q_notebook.guardian.page import SharedPage, Word
from h2q_notebook.guardian.sidecar import ProcEffects
from h2q_notebook.guardian.watching import Watching
from h2q_notebook.policy.strikes import Act, Cause, Orders
from h2q_notebook.readings.process import PROC_AVAILABLE
from h2q_notebook.readings.tree import descendants

__all__ = ["Worker", "WorkerWatch"]

TRACE_SIGNAL = signal.SIGUSR2
"""Has the worker write where it is (its default action ends a process: only after its start)."""
_LOOK_S = 0.005
_TOKEN = 1
_TRACE_S = 0.02


class Worker:
    """One worker, from its start to its end.

    Args:
        program: the module it runs.
        option: what the user wrote, for the sentences of errors.
        environ: variables that it has and the kernel has not.
        streams: whether its standard output and error come through pipes, or go nowhere.

    Raises:
        GuardUnavailable: it cannot be started here.
    """

    def __init__(
        self, program: str, option: str, *, environ: Mapping[str, str], streams: bool = False
    ) -> None:
        if not PROC_AVAILABLE:
            raise GuardUnavailable(f"{option}: needs Linux's /proc; not available here")
        # Outlives a worker that crashes; ``end`` closes it.
        self._trace = tempfile.TemporaryFile()  # noqa: SIM115
        self._where = ""
        self.told_fd, told = os.pipe()
        line, self._lifeline = os.pipe()
        paths = [*filter(None, sys.path), os.environ.get("PYTHONPATH", "")]
        passed = (told, self._trace.fileno(), line)
        out = subprocess.PIPE if streams else subprocess.DEVNULL
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", program, *map(str, passed)],
                stdin=subprocess.PIPE, stdout=out, stderr=out,
                pass_fds=passed, start_new_session=True,
                env={**os.environ, **environ, "PYTHONPATH": os.pathsep.join(paths).rstrip(":")},
            )  # fmt: skip
        except OSError as error:
            os.close(self.told_fd)
            os.close(self._lifeline)
            self._trace.close()
            raise GuardUnavailable(f"{option}: no worker could be started: {error}") from error
        finally:
            os.close(told)
            os.close(line)

    @property
    def pid(self) -> int:
        """Of the process; its session has the same number."""
        return self.process.pid

    @property
    def output_fds(self) -> tuple[int, ...]:
        """Its standard output and error, where they come through pipes."""
        both = (self.process.stdout, self.process.stderr)
        return tuple(file.fileno() for file in both if file is not None)

    def send(self, head: Mapping[str, Any], copies: Copies) -> None:
        """Give it its work; a worker that is gone is seen when it is listened to.

        Args:
            head: what the program knows how to read.
            copies: the names of the notebook that it gets.
        """
        packed = copies.packed
        whole = {
            **head,
            "path": sys.path,
            "pythonpath": os.environ.get("PYTHONPATH"),
            "kernel_pid": os.getpid(),
            "modules": copies.modules,
            "n_buffers": len(packed.buffers),
        }
        pipe = self.process.stdin
        assert pipe is not None
        with suppress(BrokenPipeError):
            first = [memoryview(json.dumps(whole).encode()), memoryview(packed.blob)]
            for view in (*first, *(one.raw() for one in packed.buffers)):
                pipe.write(struct.pack("<Q", view.nbytes))
                pipe.write(view)
            pipe.flush()

    def go_on(self) -> None:
        """Answer what it waits for."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write(b"g")
            self.process.stdin.flush()

    def has_ended(self) -> bool:
        """Whether it is gone; its number stays its own until ``end``."""
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.pid, flags) is not None

    def kill(self) -> None:
        """End it and all that it started, without waiting; any thread."""
        if self.process.returncode is not None:
            return  # its number may be another's by now
        elsewhere = descendants(self.pid)  # in sessions of their own, too
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        for pid in elsewhere:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)

    def end(self) -> int:
        """End it and all that it started; its exit code, negative for a signal."""
        self.kill()  # its session: what the cell had started goes with it
        self.process.wait()
        for file in (self.process.stdin, self.process.stdout, self.process.stderr):
            if file is not None:
                with suppress(OSError):
                    file.close()
        if self.told_fd >= 0:
            os.close(self.told_fd)
            os.close(self._lifeline)
            self.told_fd = -1
            self._where = self.where()
            self._trace.close()
        return self.process.returncode

    def where(self) -> str:
        """The stack that it wrote when it was asked, or crashed; most recent call first."""
        if self._trace.closed:
            return self._where
        return os.pread(self._trace.fileno(), 1 << 16, 0).decode("utf-8", "replace")


class WorkerWatch:
    """Watches a worker as the kernel's own cells are watched, in a thread.

    Over its limit it is killed at once, as nothing of it is needed; at its time, and on request,
    it is interrupted first and killed after *grace_s*.

    Args:
        worker: a worker that has its copies.
        base_bytes: what it uses before the cell begins.
        limit_bytes: what the cell may add.
        timeout_s: end it after so long.
        grace_s: between the interrupt and the end; 0: it is killed at once.
    """

    def __init__(
        self,
        worker: Worker,
        base_bytes: int,
        limit_bytes: int,
        *,
        timeout_s: float | None = None,
        grace_s: float = 0.0,
    ) -> None:
        self._base_bytes = base_bytes
        self._page = SharedPage()
        self._page[Word.LIMIT] = base_bytes + limit_bytes
        orders = Orders(base_bytes + limit_bytes, timeout_s=timeout_s, strike_interval_s=grace_s)
        self._effects = _Effects(worker, polite=grace_s > 0)
        self._watching = Watching(self._effects, self._page, orders, _TOKEN)
        self._halt = threading.Event()
        self._watching.begin()
        self._thread = threading.Thread(target=self._run, name="h2q-worker-watch", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with suppress(OSError):  # it has ended
            while not self._halt.wait(self._watching.wait_s(_LOOK_S)):
                self._watching.look()

    @property
    def cause(self) -> Cause:
        """Why it is being ended; NONE as long as it is not."""
        return Cause(self._page[Word.CAUSE])

    @property
    def used_bytes(self) -> int:
        """What the cell has added, as last seen."""
        return max(0, self._page[Word.OWN] + self._page[Word.EXTRA] - self._base_bytes)

    @property
    def peak_bytes(self) -> int:
        """The largest of the samples, above the base."""
        return max(0, self._page[Word.PEAK] - self._base_bytes)

    @property
    def limit_bytes(self) -> int:
        """What the cell may add; can be set while it runs."""
        return self._page[Word.LIMIT] - self._base_bytes

    @limit_bytes.setter
    def limit_bytes(self, n_bytes: int) -> None:
        self._page[Word.LIMIT] = self._base_bytes + n_bytes

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._watching.start_s

    def request_stop(self) -> None:
        """End it as politely as possible; any thread."""
        self._page[Word.STOP_REQUESTED] = _TOKEN

    def close(self) -> dict[str, Any]:
        """Watch no more; what was seen (see ``Watching.result``), bytes above the base."""
        self._halt.set()
        self._thread.join()
        seen = self._watching.result()
        seen["peak_bytes"] = self.peak_bytes
        seen["points"] = [(t_s, used - self._base_bytes) for t_s, used in seen["points"]]
        seen["limit_bytes"] = self.limit_bytes
        self._effects.close()
        self._page.close()
        return seen


class _Effects(ProcEffects):
    """Sees a worker as the sidecar sees a kernel; ends it where that would signal."""

    def __init__(self, worker: Worker, *, polite: bool) -> None:
        super().__init__(worker.pid, 0, own_pid=-1)
        self._worker = worker
        self._polite = polite

    def close(self) -> None:
        """Give its descriptors back."""
        self._reader.close()

    def strike(self, act: Act) -> None:
        """Interrupt or kill."""
        with suppress(OSError):
            if self._polite and act.strike == 1 and act.cause is not Cause.MEMORY:
                os.kill(self._worker.pid, signal.SIGINT)
                return
            os.kill(self._worker.pid, TRACE_SIGNAL)
            deadline_s = time.monotonic() + _TRACE_S
            while not self._worker.where() and time.monotonic() < deadline_s:
                time.sleep(0.001)
            self._worker.kill()
