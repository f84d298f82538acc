"""A fresh fenced process for one piece of generated code, and what it answers.

Covers starting, asking with a deadline, and ending it with everything it may have begun. The
fences are ``fences``'; which of them held is told with every verdict. Generated code never runs in
the process that uses this.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from h2q_notebook.bench import wire
from h2q_notebook.bench.fences import FENCES
from h2q_notebook.units import MIB

__all__ = ["Limits", "Reply", "Sandbox", "SandboxError"]

_MAX_LINE = 8 * MIB
_START_S = 20.0
"""A fresh interpreter takes 0.1 s; a machine that swaps, longer."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one piece of generated code may take."""

    cpu_s: float = 4.0
    wall_s: float = 10.0
    """For all of its answers together."""
    memory_bytes: int = 512 * MIB


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer: a plain value, or why there is none."""

    value: Any = None
    error: str | None = None


class SandboxError(Exception):
    """The process is gone or was ended; the text says why, for the user of the bench."""


class Sandbox:
    """A fenced process; use it as a context manager.

    Args:
        limits: what it may take.
        fences: which to raise; for tests of a single one.

    Raises:
        SandboxError: it could not be started.
    """

    def __init__(self, limits: Limits | None = None, fences: Sequence[str] = FENCES) -> None:
        self._limits = limits or Limits()
        self._folder = tempfile.TemporaryDirectory(prefix="h2q-bench-", ignore_cleanup_errors=True)
        self._buffer = bytearray()
        self._closed = False
        self.fences: Mapping[str, str] = {}
        """For each fence ``"held"``, or why it does not hold."""
        script = Path(__file__).with_name("harness.py")
        command = [sys.executable, "-I", "-S", "-B", "-X", "utf8", str(script)]
        try:
            # No preexec_fn: with torch's threads around, Python code between fork and exec may
            # hang. All limits are set inside the child.
            self._process = subprocess.Popen(
                [*command, str(script.parents[2])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=self._folder.name,
                env={},
                start_new_session=True,
                bufsize=0,
            )
        except OSError as error:
            self._folder.cleanup()
            raise SandboxError(f"the fenced process could not be started: {error}") from error
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        try:
            self._begin(fences)
        except BaseException:
            self.close()
            raise

    def _begin(self, fences: Sequence[str]) -> None:
        self._deadline_s = time.monotonic() + _START_S
        first = {
            "cpu_s": self._limits.cpu_s,
            "memory_bytes": self._limits.memory_bytes,
            "fences": list(fences),
        }
        told = self._ask(first).get("fences")
        if not isinstance(told, dict):
            raise SandboxError("the fenced process did not tell its fences")
        self.fences = {str(name): str(state) for name, state in told.items()}
        self._deadline_s = time.monotonic() + self._limits.wall_s

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # -- questions ----------------------------------------------------------------------------

    def run(self, code: str) -> Reply:
        """Execute source text as a module's.

        Raises:
            SandboxError: time, processor time or the process ended first.
        """
        return _reply(self._ask({"run": code}))

    def evaluate(self, expression: str) -> Reply:
        """The value of an expression in that module. Raises as ``run``."""
        return _reply(self._ask({"eval": expression}))

    def call(self, message: Any) -> dict[str, Any]:
        """Pass a call of the other process on, undecoded. Raises as ``run``."""
        reply = _reply(self._ask({"call": message}))
        if reply.error is not None:
            return {"error": reply.error}
        return {"value": wire.encode(reply.value)}

    def check(self, preamble: str, source: str, entry: str, other: Sandbox) -> str | None:
        """Run a suite's own ``check(candidate)`` here, its calls in *other*.

        Args:
            preamble: trusted source that runs first (helpers the check uses).
            source: trusted source that defines ``check``.
            entry: the name of the function under test.
            other: the process with the generated code.

        Returns:
            None if the check passed, else what it said.
        """
        said = self._ask({"check": source, "preamble": preamble, "entry": entry})
        while "call" in said:
            said = self._ask(other.call(said["call"]))
        return str(said["error"]) if said.get("error") is not None else None

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._write(json.dumps(question).encode() + b"\n")
            answer = json.loads(self._read_line())
        except (ValueError, RecursionError):
            raise SandboxError("what it answered is not well formed") from None
        except BrokenPipeError:
            raise SandboxError(self._why_ended()) from None
        if not isinstance(answer, dict):
            raise SandboxError("what it answered is not well formed")
        return answer

    def _write(self, blob: bytes) -> None:
        """Everything, but never longer than the deadline: it may not be reading any more."""
        assert self._process.stdin is not None
        fd = self._process.stdin.fileno()
        os.set_blocking(fd, False)
        with selectors.DefaultSelector() as ready:
            ready.register(fd, selectors.EVENT_WRITE)
            while blob:
                self._wait(ready)
                with contextlib.suppress(BlockingIOError):
                    blob = blob[os.write(fd, blob) :]

    def _read_line(self) -> bytes:
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        with selectors.DefaultSelector() as ready:
            ready.register(fd, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if len(self._buffer) > _MAX_LINE:
                    raise SandboxError("it answered too much")
                self._wait(ready)
                chunk = os.read(fd, 1 << 16)
                if not chunk:
                    raise SandboxError(self._why_ended())
                self._buffer += chunk
        line, _, rest = bytes(self._buffer).partition(b"\n")
        self._buffer = bytearray(rest)
        return line

    def _wait(self, ready: selectors.BaseSelector) -> None:
        left_s = self._deadline_s - time.monotonic()
        if left_s <= 0 or not ready.select(left_s):
            raise SandboxError(f"it took longer than {self._limits.wall_s:g} s")

    def _why_ended(self) -> str:
        try:
            code = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            return "it stopped answering"
        if code == -signal.SIGXCPU:
            return f"it used more than {self._limits.cpu_s:g} s of processor time"
        if code < 0:
            return f"it was ended by signal {-code}"
        return f"it left with exit status {code}"

    def close(self) -> None:
        """End the process and all it began; its directory goes too. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        # Its group too: where no fence forbids children, they are in it.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        self._folder.cleanup()


def _reply(message: dict[str, Any]) -> Reply:
    error = message.get("error")
    if error is not None:
        return Reply(error=str(error)[:400])
    try:
        return Reply(value=wire.decode(message.get("value")))
    except wire.WireError as bad:
        return Reply(error=f"the value {bad}")
