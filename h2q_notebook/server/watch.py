"""Looks at the server's kernels from outside, and says of a dead one what the evidence says.

Covers kernels that run as processes of this machine, with h2q in them or not. A kernel elsewhere
(a gateway, a cluster) has no process here and is listed without figures.

The server restarts a dead kernel within 3 s, and after that nobody can tell how the old one ended.
So the server calls us before it does, and what is needed then (groups, counters) is read while all
is well. Looking alone was not enough: one death in three fell between two looks.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from h2q_notebook.policy.death import CAUSES, DeathEvidence, Verdict, explain
from h2q_notebook.readings.figures import (
    DeathNote,
    Figures,
    figures_path,
    note_path,
    read_figures,
    write_note,
)
from h2q_notebook.readings.killed import (
    AddressSpace,
    MemoryGroup,
    address_space,
    group_of,
    read_kills,
)
from h2q_notebook.readings.process import read_process

__all__ = ["Death", "KernelLook", "KernelWatch"]

_INTERVAL_S = 1.0
_COUNTED_S = 5.0
"""Kills of the last seconds are this death's: one look may come between the kill and the end."""
_DEATHS_KEPT = 50


@dataclass(frozen=True, slots=True)
class KernelLook:
    """One kernel at one moment, seen from outside."""

    kernel_id: str
    pid: int | None
    """None: it runs elsewhere."""
    at_s: float
    """Monotonic."""
    used_bytes: int | None
    told: Figures | None
    """What it says of itself; None: h2q is not loaded in it."""
    group: MemoryGroup | None = None
    address: AddressSpace | None = None


@dataclass(frozen=True, slots=True)
class Death:
    """One kernel that died unasked."""

    kernel_id: str
    at_s: float
    """Seconds since the epoch."""
    verdict: Verdict


@dataclass(slots=True)
class _Followed:
    look: KernelLook
    file: Path
    """What the kernel tells of itself."""
    kills: deque[tuple[float, int | None]] = field(default_factory=lambda: deque(maxlen=60))


class KernelWatch:
    """Looks once a second, in the server's own loop (about 0.2 ms for a kernel).

    Args:
        manager: the server's kernel manager.
        log: tells the server's log.
        clock: seconds, monotonic.
        now: seconds since the epoch.
    """

    def __init__(
        self,
        manager: Any,
        log: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._manager = manager
        self._log = log
        self._clock, self._now = clock, now
        self._followed: dict[str, _Followed] = {}
        self._deaths: deque[Death] = deque(maxlen=_DEATHS_KEPT)
        self._counts: Counter[str] = Counter()
        self._heard: set[str] = set()
        self._ticks: Any = None

    def start(self) -> None:
        """Begin; the server's loop must run, or be about to."""
        from tornado.ioloop import PeriodicCallback

        self._ticks = PeriodicCallback(self.look, _INTERVAL_S * 1000)
        self._ticks.start()

    def close(self) -> None:
        """Look no more."""
        if self._ticks is not None:
            self._ticks.stop()

    # -- what handlers ask --------------------------------------------------------------------

    def kernels(self) -> tuple[KernelLook, ...]:
        """Every running kernel, looked at now."""
        return tuple(self._look_at(kernel_id) for kernel_id in self._manager.list_kernel_ids())

    def deaths(self) -> tuple[Death, ...]:
        """The latest ones, oldest first."""
        return tuple(self._deaths)

    def death_counts(self) -> dict[str, int]:
        """How many died of which cause, since the server was started."""
        return {cause: self._counts[cause] for cause in CAUSES}

    # -- looking ------------------------------------------------------------------------------

    async def look(self) -> None:
        """Look at every kernel; note those that died."""
        living = set(self._manager.list_kernel_ids())
        for kernel_id in living:
            with suppress(Exception):  # a kernel that is being taken down has no parts any more
                await self._follow(kernel_id)
        for kernel_id in set(self._followed) - living:
            _forget(self._followed.pop(kernel_id).file)
        self._heard &= living

    async def _follow(self, kernel_id: str) -> None:
        kernel = self._manager.get_kernel(kernel_id)
        followed = self._followed.get(kernel_id)
        if _pid(kernel) is None:
            return
        code = await kernel.provisioner.poll()
        if code is not None:
            if followed is not None and followed.look.pid == _pid(kernel):
                del self._followed[kernel_id]
                if not kernel.shutting_down:
                    self._bury(kernel, followed, code)
            return
        look = self._look_at(kernel_id)
        if followed is None or followed.look.pid != look.pid:
            followed = _Followed(look, figures_path(kernel.connection_file))
            self._followed[kernel_id] = followed
            if kernel_id not in self._heard:
                self._heard.add(kernel_id)
                self._manager.add_restart_callback(kernel_id, lambda: self._died(kernel_id))
        if not look.used_bytes:
            return  # it is ending and has given its memory back: the last look is the better one
        followed.look = look
        if look.group is not None:
            followed.kills.append((look.at_s, read_kills(look.group).kills))

    def _died(self, kernel_id: str) -> None:
        """The server found it dead, and is about to start another one in its place."""
        kernel, followed = self._manager.get_kernel(kernel_id), self._followed.get(kernel_id)
        if followed is None or followed.look.pid != _pid(kernel):
            return  # a look has come before
        del self._followed[kernel_id]
        process = getattr(kernel.provisioner, "process", None)
        self._bury(kernel, followed, None if process is None else process.poll())

    def _look_at(self, kernel_id: str) -> KernelLook:
        kernel = self._manager.get_kernel(kernel_id)
        pid, at_s = _pid(kernel), self._clock()
        if pid is None:
            return KernelLook(kernel_id, None, at_s, None, None)
        told = read_figures(figures_path(kernel.connection_file))
        if told is not None and told.pid != pid:
            told = None  # the one before it left this
        try:
            used = read_process(pid).used_bytes
        except OSError:
            return KernelLook(kernel_id, pid, at_s, None, told)
        return KernelLook(kernel_id, pid, at_s, used, told, group_of(pid), address_space(pid))

    def _bury(self, kernel: Any, followed: _Followed, code: int | None) -> None:
        look = followed.look
        verdict = explain(self._evidence(followed, code))
        death = Death(look.kernel_id, self._now(), verdict)
        self._deaths.append(death)
        self._counts[verdict.cause] += 1
        self._log(f"h2q: kernel {look.kernel_id}: {verdict.text}")
        told = read_figures(followed.file)  # it may have begun to tell since the last look
        _forget(followed.file)
        if (
            told is not None and told.pid == look.pid
        ):  # the next one will have h2q too, and can tell its user
            note = DeathNote(death.at_s, verdict.cause, verdict.text)
            write_note(note_path(kernel.connection_file), note)

    def _evidence(self, followed: _Followed, code: int | None) -> DeathEvidence:
        look, now_s = followed.look, self._clock()
        counted = read_kills(look.group) if look.group is not None else None
        known = [n for at_s, n in followed.kills if at_s >= now_s - _COUNTED_S and n is not None]
        before = known[0] if known else None
        kills = None
        if counted is not None and counted.kills is not None and before is not None:
            kills = counted.kills - before
        return DeathEvidence(
            exit_code=code,
            kills=kills,
            limit_bytes=None if counted is None else counted.limit_bytes,
            peak_bytes=None if counted is None else counted.peak_bytes,
            limit_source="" if counted is None else counted.source,
            held_bytes=look.used_bytes,
            held_before_s=round(now_s - look.at_s, 1),
            address_used_bytes=None if look.address is None else look.address.used_bytes,
            address_limit_bytes=None if look.address is None else look.address.limit_bytes,
        )


def _forget(file: Path) -> None:
    with suppress(OSError):
        file.unlink()


def _pid(kernel: Any) -> int | None:
    """The process of a kernel on this machine."""
    provisioner = getattr(kernel, "provisioner", None)
    if provisioner is None or not provisioner.has_process:
        return None
    pid = getattr(provisioner, "pid", None)
    return pid if isinstance(pid, int) and pid > 0 else None
