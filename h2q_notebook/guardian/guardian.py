"""MemoryGuardian: one per kernel; arms and disarms everything that watches a cell.

Covers watcher, stop, refusal and strict limit as one thing with a beginning and an end. Not names,
rollback or reports (the cell room), and no IPython.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING

from h2q_notebook.errors import GuardUnavailable
from h2q_notebook.guardian.arming import GuardRequest, Live, WatchResult
from h2q_notebook.guardian.channel import SidecarWatcher, ThreadWatcher, Watcher, stop_signal
from h2q_notebook.guardian.device_limit import DeviceLimit
from h2q_notebook.guardian.gate import Gate, compiled
from h2q_notebook.guardian.gate_rules import LEVELS
from h2q_notebook.guardian.page import Word
from h2q_notebook.guardian.peak import PeakMark, peak_above
from h2q_notebook.guardian.refuse import Refusal, Refuser
from h2q_notebook.guardian.stop import CellContext, StopController
from h2q_notebook.guardian.strict import StrictLimit
from h2q_notebook.policy.strikes import Act, Cause, Orders
from h2q_notebook.readings.devices import DeviceMemory, DeviceReader
from h2q_notebook.readings.limits import Headroom, capped, read_headroom
from h2q_notebook.readings.process import (
    PROC_AVAILABLE,
    ProcessMemory,
    ProcessReader,
    read_process,
)

if TYPE_CHECKING:
    from h2q_notebook.config.settings import MemorySafeConfig

__all__ = ["SPARED_THREADS", "MemoryGuardian"]

# Threads that a cell's time may bring about but that are not the cell's: ours, and ipykernel's
SPARED_THREADS = ("h2q-", "subshell-", "IPython", "Control", "Heartbeat", "IOPub")


class MemoryGuardian:
    """Watches one cell at a time and stops it at its budget.

    Args:
        config: intervals.
        watcher_factory: makes the watcher; None chooses the sidecar where /proc exists.

    Example:
        >>> guardian = MemoryGuardian(MemorySafeConfig())
        >>> guardian.start()
        >>> guardian.arm(GuardRequest(budget_bytes=400 * MIB), context)
        >>> result = guardian.disarm()
    """

    def __init__(
        self,
        config: MemorySafeConfig,
        *,
        watcher_factory: Callable[[], Watcher] | None = None,
    ) -> None:
        self.config = config
        self.number = stop_signal()
        self._factory = watcher_factory or self._default_watcher
        self._watcher: Watcher | None = None
        self._stop: StopController | None = None
        self._reader = ProcessReader() if PROC_AVAILABLE else None
        self._refuser = Refuser(self.used_bytes, gate=Gate(compiled()))
        self._strict = StrictLimit()
        self._devices = DeviceLimit()
        self._device_reader: DeviceReader | None = None
        self._armed: GuardRequest | None = None
        self._token = 0
        self._granted = 0
        # Held where the limit is written: a look of the kernel's guard may outlast a cell.
        self._limit_lock = threading.Lock()
        self._baseline = self.read()
        self._peak: PeakMark | None = None
        self._start_s = 0.0
        self._threads: frozenset[threading.Thread] = frozenset()
        self.watcher_losses = 0

    # -- life ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the watcher and take over the strike signal; main thread only.

        Also after ``close``: it can be started and closed again and again.
        """
        if self._reader is None and PROC_AVAILABLE:
            self._reader = ProcessReader()
        if self._watcher is None or not self._watcher.alive():
            self._replace_watcher()
        self._refuser.begin(LEVELS[self.config.gate])

    def _replace_watcher(self) -> None:
        if self._watcher is not None:
            self.watcher_losses += 1
            self._close_watcher()
        self._watcher = self._factory()
        self._refuser.watch(self._watcher.page)
        self._stop = StopController(self._watcher.page, self.used_bytes, self.number)
        if threading.current_thread() is threading.main_thread():
            self._stop.install()

    def _close_watcher(self) -> None:
        if self._stop is not None:
            if threading.current_thread() is threading.main_thread():
                self._stop.uninstall()
            self._stop = None
        if self._watcher is not None:
            self._refuser.unwatch()
            self._watcher.close()
            self._watcher = None

    def close(self) -> None:
        """Give everything back: signal, process, page, hooks, limits."""
        if self._armed is not None:
            self.disarm()
        self._strict.lift()
        self._refuser.close()
        self._close_watcher()
        if self._device_reader is not None:
            self._device_reader.close()
            self._device_reader = None
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _default_watcher(self) -> Watcher:
        if PROC_AVAILABLE and sys.platform == "linux":
            try:
                return SidecarWatcher(self.number)
            except GuardUnavailable:
                pass  # no child processes here; a thread can still watch
        return ThreadWatcher(self._strike_from_thread)

    def _strike_from_thread(self, act: Act) -> None:
        if hasattr(signal, "pthread_kill"):
            main = threading.main_thread().ident
            assert main is not None
            signal.pthread_kill(main, self.number)
        else:
            signal.raise_signal(self.number)

    # -- readings -----------------------------------------------------------------------------

    def read(self) -> ProcessMemory:
        """This process's memory now."""
        return self._reader.read() if self._reader is not None else read_process()

    def used_bytes(self) -> int:
        """This process's use now, in bytes."""
        return self.read().used_bytes

    def devices(self) -> tuple[DeviceMemory, ...]:
        """Every GPU in use, and what it holds."""
        if self._device_reader is None:
            self._device_reader = DeviceReader()
        return self._device_reader.read()

    def headroom(self) -> Headroom:
        """What can still be allocated: the machine's limits and the ceiling of the settings."""
        return capped(read_headroom(), self.used_bytes(), self.config.max_bytes)

    @property
    def armed(self) -> bool:
        """Whether a cell is being guarded."""
        return self._armed is not None

    @property
    def watcher_kind(self) -> str:
        """``process``, ``thread`` or ``off``."""
        if self._watcher is None:
            return "off"
        return "process" if isinstance(self._watcher, SidecarWatcher) else "thread"

    def tiers(self) -> tuple[tuple[str, bool, str], ...]:
        """Each line of defence: name, on or off, why."""
        kinds = {
            "process": (True, "a process of its own, also while C code holds the GIL"),
            "thread": (True, "a thread only (no /proc here): blind while C code holds the GIL"),
            "off": (False, "not started"),
        }
        return (
            ("watch and stop", *kinds[self.watcher_kind]),
            *self._refuser.tiers(LEVELS[self.config.gate]),
            ("strict limit", self._strict.saved is not None, "opt-in: --strict"),
        )

    def live(self) -> Live | None:
        """A look at the running cell; None if none is guarded."""
        request, watcher = self._armed, self._watcher
        if request is None or watcher is None:
            return None
        page, base = watcher.page, self._baseline.used_bytes
        used = self.used_bytes() + page[Word.EXTRA] - base
        return Live(
            t_s=time.monotonic() - self._start_s,
            used_bytes=max(0, used),
            budget_bytes=page[Word.LIMIT] - base,
            peak_bytes=max(used, page[Word.PEAK] - base, 0),
            strikes=page[Word.STRIKES],
            cause=Cause(page[Word.CAUSE]),
            devices=self._devices.live(),
        )

    # -- one cell -----------------------------------------------------------------------------

    def arm(self, request: GuardRequest, context: Callable[[int], CellContext]) -> None:
        """Begin to guard the cell that runs in this thread.

        Args:
            request: budget and manners.
            context: makes the cell's context from the token of this arming.

        Raises:
            GuardUnavailable: no watcher can be started.
        """
        if self._watcher is None or not self._watcher.alive():
            self._replace_watcher()
        assert self._watcher is not None
        assert self._stop is not None
        self._threads = frozenset(threading.enumerate())
        self._peak = PeakMark()
        self._baseline = base = self.read()
        limit = base.used_bytes + request.budget_bytes
        page = self._watcher.page
        with self._limit_lock:
            self._token += 1
            self._granted = page[Word.LIMIT] = limit
        page[Word.CAUSE] = page[Word.INSIST] = page[Word.EXTRA] = page[Word.REFUSED] = 0
        if request.strict:
            self._strict.apply(base.data_bytes, request.budget_bytes)
        orders = Orders(
            limit_bytes=limit,
            strike=request.strike,
            strike_interval_s=self.config.strike_interval_s,
            timeout_s=request.timeout_s,
            clamp_at_strike=3 if request.strict else 0,
        )
        self._start_s = time.monotonic()
        self._armed = request
        self._stop.begin(context(self._token))
        try:
            self._watcher.arm(orders, self._token, self.config.sample_interval_s)
        except GuardUnavailable:
            # It died since the last cell. One new try; a second failure is the user's to know.
            self._stop.end(give_back_sigint=True)
            self._replace_watcher()
            self._watcher.page[Word.LIMIT] = limit
            self._stop.begin(context(self._token))
            self._watcher.arm(orders, self._token, self.config.sample_interval_s)
        if request.strike and request.refuse:
            self._refuser.arm(limit, LEVELS[request.gate or self.config.gate])
        if request.gpu is not None:
            self._devices.arm(request.gpu)

    def unwound(self, frame: FrameType | None = None) -> bool:
        """The cell's frames are gone: lift limits and strike no more.

        Args:
            frame: the caller's; if the cell is still on the stack above it (the failure was of
                a cell run by the cell), nothing is done.

        Returns:
            Whether the cell has really been left.
        """
        if self._stop is not None and frame is not None and self._stop.still_inside(frame):
            return False
        self._strict.lift()
        self._refuser.pause()  # what tells the story needs memory too
        if self._stop is not None:
            self._stop.unwound()
        return True

    def disarm(self, *, give_back_sigint: bool = True) -> WatchResult:
        """Stop guarding; what was seen."""
        request, watcher, stop = self._armed, self._watcher, self._stop
        assert request is not None
        assert watcher is not None
        assert stop is not None
        stop.end(give_back_sigint=give_back_sigint)
        self._armed = None
        self._strict.lift()
        passed = self._refuser.passed()
        refusals, devices = self._refuser.disarm(), self._devices.disarm()
        base = self._baseline
        budget = watcher.page[Word.LIMIT] - base.used_bytes
        sampled_peak = watcher.page[Word.PEAK] - base.used_bytes
        end = self.read()
        if self._peak is not None:
            end = replace(end, peak_rss_bytes=self._peak.close(end.peak_rss_bytes))
        raw = watcher.disarm()
        peak, exact = peak_above(base, end, sampled_peak)
        born = [
            thread
            for thread in threading.enumerate()
            if thread not in self._threads
            and thread is not threading.current_thread()
            and not thread.name.startswith(SPARED_THREADS)
        ]
        return WatchResult(
            baseline=base,
            budget_bytes=budget,
            peak_bytes=peak,
            peak_is_exact=exact,
            cause=Cause(raw.get("cause", 0)),
            strikes=raw.get("strikes", 0),
            raised=stop.counts.raised,
            cancelled=stop.counts.cancelled,
            duration_s=time.monotonic() - self._start_s,
            first_over_s=raw.get("first_over_s"),
            refusals=refusals,
            passed=passed,
            born_children=tuple(raw.get("born", ())),
            born_threads=tuple(born),
            points=tuple((t, used - base.used_bytes) for t, used in raw.get("points", ())),
            watcher_lost=not raw,
            granted_bytes=self._granted - base.used_bytes,
            devices=devices,
        )

    def refusals(self) -> tuple[Refusal, ...]:
        """What has been refused so far in the running cell."""
        return self._refuser.refusals()

    def raise_limit(self, extra_bytes: int) -> int:
        """Give the running cell more; any thread. Returns the new budget in bytes, 0 if none."""
        watcher = self._watcher
        if self._armed is None or watcher is None:
            return 0
        with self._limit_lock:
            limit = watcher.page[Word.LIMIT] + extra_bytes
            self._granted += extra_bytes
            watcher.page[Word.LIMIT] = limit
            self._refuser.set_limit(limit)
        self._strict.move(extra_bytes)
        return limit - self._baseline.used_bytes

    def follow_room(self, spare_bytes: int) -> int:
        """Keep the running cell's limit within what there really is; any thread.

        Others may take memory that was free when the cell began. The limit follows what is left
        down, and up again, and is never above what was granted.

        Args:
            spare_bytes: what can still be allocated.

        Returns:
            The new budget in bytes where it was lowered; else 0.
        """
        watcher, token = self._watcher, self._token
        if self._armed is None or watcher is None:
            return 0
        page = watcher.page
        room = self.used_bytes() + page[Word.EXTRA] + spare_bytes
        with self._limit_lock:
            if self._armed is None or self._token != token:
                return 0  # the cell has ended meanwhile; the next one's limit is its own
            before = page[Word.LIMIT]
            limit = page[Word.LIMIT] = min(self._granted, room)
            self._refuser.set_limit(limit)
        return limit - self._baseline.used_bytes if limit < before else 0

    def request_stop(self) -> bool:
        """Ask the watcher to stop the running cell; any thread. False if none is guarded."""
        watcher = self._watcher
        if self._armed is None or watcher is None:
            return False
        watcher.page[Word.STOP_REQUESTED] = self._token
        return True
