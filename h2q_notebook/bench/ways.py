"""Ways of loading one model beside each other, each in a fresh process, measured from outside.

Covers starting, watching and comparing. What a way does is the started command's; it speaks three
lines: ``ready`` once its libraries are imported, ``loaded``, and a JSON object after its first
forward pass. Memory is read every 2 ms and counts from ``ready`` on.
"""

from __future__ import annotations

import json
import os
import selectors
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from h2q_notebook.readings.process import ProcessMemory, ProcessReader

__all__ = ["LoadWays", "WayResult", "compare_ways"]

_INTERVAL_S = 0.002
_TIMEOUT_S = 1800.0


@dataclass(frozen=True, slots=True)
class WayResult:
    """One way, the median of its rounds. Bytes are above what the imported libraries hold."""

    way: str
    load_s: float | None = None
    first_answer_s: float | None = None
    """Until the first forward pass has ended: weights that are only mapped are read then."""
    peak_anon_bytes: int = 0
    peak_file_bytes: int = 0
    resident_anon_bytes: int = 0
    """After the first forward pass."""
    resident_file_bytes: int = 0
    logits: str = ""
    """A hash of the first answer's logits."""
    identical: bool | None = None
    """The logits are those of the first way, bit for bit."""
    error: str = ""


@dataclass(frozen=True, slots=True)
class LoadWays:
    """All ways of one model."""

    model: str
    reference: str
    """The way whose logits the others' were compared with."""
    rounds: int
    budget_bytes: int
    ways: tuple[WayResult, ...]


def compare_ways(
    model: str,
    ways: Sequence[str],
    command: Callable[[str], Sequence[str]],
    *,
    budget_bytes: int,
    rounds: int = 3,
    tell: Callable[[str], None] = lambda text: None,
) -> LoadWays:
    """Load a model in each way.

    Args:
        model: what it is called.
        ways: their names; the first one's logits are the reference.
        command: the arguments of the process that loads in a way.
        budget_bytes: a process that takes more is ended, and its result says so.
        rounds: how often; the ways take turns, as a shared machine drifts.
        tell: told what is being done.
    """
    found: dict[str, list[WayResult]] = {way: [] for way in ways}
    for at in range(rounds):
        for way in ways:
            if found[way] and found[way][-1].error:
                continue  # it failed already
            tell(f"{way} (round {at + 1} of {rounds})")
            found[way].append(_once(way, command(way), budget_bytes))
    results = [_median(way, found[way]) for way in ways]
    wanted = results[0].logits
    judged = [
        replace(one, identical=one.logits == wanted) if one.logits and wanted else one
        for one in results
    ]
    return LoadWays(model, ways[0], rounds, budget_bytes, tuple(judged))


def _median(way: str, rounds: Sequence[WayResult]) -> WayResult:
    failed = next((one for one in rounds if one.error), None)
    if failed is not None:
        return failed
    return WayResult(
        way=way,
        load_s=statistics.median(one.load_s or 0.0 for one in rounds),
        first_answer_s=statistics.median(one.first_answer_s or 0.0 for one in rounds),
        peak_anon_bytes=max(one.peak_anon_bytes for one in rounds),
        peak_file_bytes=max(one.peak_file_bytes for one in rounds),
        resident_anon_bytes=int(statistics.median(one.resident_anon_bytes for one in rounds)),
        resident_file_bytes=int(statistics.median(one.resident_file_bytes for one in rounds)),
        logits=rounds[0].logits if len({one.logits for one in rounds}) == 1 else "",
    )


class _WayError(Exception):
    """The process said something else than it should, or took too much."""


class _Watched:
    """A process that is read line by line, and weighed while it is waited for."""

    def __init__(self, command: Sequence[str], budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._reader = ProcessReader(self._process.pid)
        self._buffer = b""
        self._base: ProcessMemory | None = None
        self.peak_anon_bytes = self.peak_file_bytes = 0
        self.now = (0, 0)

    def next_line(self, deadline_s: float) -> str:
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        with selectors.DefaultSelector() as ready:
            ready.register(fd, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                self._weigh()
                if time.monotonic() > deadline_s:
                    raise _WayError(f"took longer than {_TIMEOUT_S:g} s")
                if ready.select(_INTERVAL_S):
                    chunk = os.read(fd, 1 << 16)
                    if not chunk:
                        raise _WayError(self._last_words())
                    self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode(errors="replace")

    def begin(self) -> None:
        """From now on memory counts."""
        self._base = self._reader.read()

    def go_on(self) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(b"\n")
            self._process.stdin.flush()

    def _weigh(self) -> None:
        if self._base is None:
            return
        with suppress(OSError):
            read = self._reader.read()
            anon = read.used_bytes - self._base.used_bytes
            file = read.file_bytes - self._base.file_bytes
            self.now = (anon, file)
            self.peak_anon_bytes = max(self.peak_anon_bytes, anon)
            self.peak_file_bytes = max(self.peak_file_bytes, file)
            if anon > self._budget_bytes:
                raise _WayError(f"was ended over the budget of {self._budget_bytes >> 20} MiB")

    def weigh(self) -> tuple[int, int]:
        """Anonymous and file bytes now."""
        self._weigh()
        return self.now

    def _last_words(self) -> str:
        try:
            _, error = self._process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            return "stopped speaking"
        lines = error.decode(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else f"ended with {self._process.returncode}"

    def close(self) -> None:
        self._reader.close()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                with suppress(OSError):
                    stream.close()


def _once(way: str, command: Sequence[str], budget_bytes: int) -> WayResult:
    deadline_s = time.monotonic() + _TIMEOUT_S
    child = _Watched(command, budget_bytes)
    try:
        if child.next_line(deadline_s) != "ready":
            raise _WayError("did not get ready")
        child.begin()
        child.go_on()
        child.next_line(deadline_s)
        child.go_on()
        said = json.loads(child.next_line(deadline_s))
        anon, file = child.weigh()
        return WayResult(
            way=way,
            load_s=float(said["load_s"]),
            first_answer_s=float(said["first_answer_s"]),
            peak_anon_bytes=child.peak_anon_bytes,
            peak_file_bytes=child.peak_file_bytes,
            resident_anon_bytes=anon,
            resident_file_bytes=file,
            logits=str(said["logits"]),
        )
    except (_WayError, ValueError, KeyError, TypeError) as error:
        return WayResult(
            way=way,
            peak_anon_bytes=child.peak_anon_bytes,
            peak_file_bytes=child.peak_file_bytes,
            error=str(error) or type(error).__name__,
        )
    finally:
        child.close()
