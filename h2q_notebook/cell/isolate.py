"""``--isolate``: a cell runs in a worker, on copies of the names it needs.

Covers one such cell: its worker, what comes out of it while it runs, how it is stopped, and what
it gives back. The kernel's names are changed by ``notebook.isolating`` alone, once everything is
there.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from h2q_notebook.cell.isolate_facts import WorkerFacts
from h2q_notebook.cell.isolate_reading import Back, Listener, Screen
from h2q_notebook.cell.needs import Copies
from h2q_notebook.cell.pickling import unpack
from h2q_notebook.cell.worker import Worker, WorkerWatch
from h2q_notebook.guardian.arming import Live
from h2q_notebook.policy.strikes import Cause
from h2q_notebook.units import format_bytes

__all__ = ["IsolatedRun", "Order", "Ran", "noted_interrupts"]

_GRACE_S = 1.0
"""From the interrupt to the end: long enough for a ``finally`` that closes a file."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be run, and how the kernel's shell is set."""

    code: str
    limit: str
    """The limit that binds, in words."""
    budget_bytes: int
    room_bytes: int
    """What the machine has beside the copies: no single call, and no packing, may take more."""
    timeout_s: float | None
    execution_count: int
    colors: str
    interactivity: str


@dataclass(slots=True)
class Ran:
    """What became of it. Nothing of the kernel has been changed."""

    facts: WorkerFacts
    seen: dict[str, Any]
    """See ``WorkerWatch.close``; empty if the cell did not begin."""
    missing: list[str]
    values: dict[str, Any] = field(default_factory=dict)
    back: Back | None = None


class IsolatedRun:
    """One isolated cell; ``run`` it once, in the cell's thread.

    Args:
        order: what to run.
        copies: of the names that it needs.
        home: the kernel's names, which are read only.
        screen: where it shows what it has to show.
        free_bytes: reads what the kernel can still take.
    """

    def __init__(
        self,
        order: Order,
        copies: Copies,
        home: MutableMapping[str, Any],
        screen: Screen,
        free_bytes: Callable[[], int],
    ) -> None:
        self._order = order
        self._copies = copies
        self._home = home
        self._screen = screen
        self._free_bytes = free_bytes
        self._lock = threading.RLock()  # a Ctrl-C may come while this thread holds it
        self._worker: Worker | None = None
        self._watch: WorkerWatch | None = None
        self._seen: dict[str, Any] = {}
        self._budget_bytes = order.budget_bytes
        self._interrupts = 0
        self._stopped = False
        self._no_room = ""

    # -- from any thread --------------------------------------------------------------------------

    def stop(self) -> bool:
        """End it as politely as possible."""
        with self._lock:
            self._stopped = True
            if self._watch is not None:
                self._watch.request_stop()
            elif self._worker is not None:
                self._worker.kill()  # nothing of the cell's runs yet
            return True

    def raise_budget(self, extra_bytes: int) -> int:
        """Give it more while it runs; the new budget in bytes, 0 if it does not run."""
        with self._lock:
            if self._seen:
                return 0
            self._budget_bytes += extra_bytes
            if self._watch is not None:
                self._watch.limit_bytes = self._budget_bytes
            return self._budget_bytes

    def live(self) -> Live | None:
        """Live figures for a gauge."""
        with self._lock:
            if self._seen:
                return None  # it has ended
            if self._watch is None:  # it is getting its copies
                return Live(0.0, 0, self._budget_bytes, 0, 0, Cause.NONE)
            return Live(
                t_s=self._watch.seconds,
                used_bytes=self._watch.used_bytes,
                budget_bytes=self._budget_bytes,
                peak_bytes=self._watch.peak_bytes,
                strikes=int(self._watch.cause is not Cause.NONE),
                cause=self._watch.cause,
            )

    # -- the cell's thread ------------------------------------------------------------------------

    def run(self) -> Ran:
        """Run it to its end, and read what it gives back.

        Raises:
            GuardUnavailable: no worker can be started.
        """
        order = self._order
        with noted_interrupts(self._interrupt):
            worker = Worker(
                "h2q_notebook.cell.isolate_worker", "--isolate", environ={}, streams=True
            )
            self._worker = worker
            listener = Listener(worker, self._screen, self)
            try:
                worker.send(self._head(), self._copies)
                listener.listen()
            finally:
                self._close_watch(final=True)
                code = worker.end()
        back, refused = listener.back, self._no_room or listener.refused
        ran = Ran(WorkerFacts(), self._seen, listener.missing)
        if back is not None and back.complete and not self._ended_by_us():
            try:
                ran.values, ran.back = self._unpacked(back), back
            except Exception as error:  # whatever a class of theirs raises
                refused = f"what it made cannot be read here: {type(error).__name__}: {error}"[:300]
        ran.facts = WorkerFacts(
            cause=self._cause(),
            interrupted=self._interrupts > 0,
            begun=bool(self._seen),
            ended=listener.ended,
            code=code if not (back is not None and back.complete) else 0,
            trace=worker.where(),
            said=listener.said,
            limit=order.limit,
            refused=refused,
            no_room=bool(self._no_room),
        )
        return ran

    def begun(self, base_bytes: int) -> None:
        """The worker has its copies: watch it, and let the cell begin."""
        assert self._worker is not None
        watch = WorkerWatch(
            self._worker, base_bytes, self._budget_bytes,
            timeout_s=self._order.timeout_s, grace_s=_GRACE_S,
        )  # fmt: skip
        with self._lock:
            self._watch = watch
            if self._stopped:
                watch.request_stop()
        self._worker.go_on()

    def ended(self, base_bytes: int) -> None:
        """The cell has ended: what it gives back is packed, which is not its own use."""
        self._close_watch()
        assert self._worker is not None
        watch = WorkerWatch(self._worker, base_bytes, self._order.room_bytes, grace_s=_GRACE_S)
        with self._lock:
            self._watch = watch
            if self._stopped:
                watch.request_stop()

    def fits(self, back: Back, retained_bytes: int) -> bool:
        """Whether the kernel has room for what would come; asked before it is read."""
        # As objects it takes what it took there, less what stays there; no pickle tells that, and
        # small objects are up to ten times their pickle. While it is read the pickle is there too.
        whole = sum(back.sizes)
        need = back.sizes[0] + max(whole, retained_bytes)
        free, budget = self._free_bytes(), self._budget_bytes
        if whole > budget:  # a mapped file, or an np.zeros that was never touched
            self._no_room = (
                f"what it made takes {format_bytes(whole)} once it is brought back, over its budget"
                f" of {format_bytes(budget)}: what is only mapped in the worker is memory here"
            )
        elif need > free:
            self._no_room = (
                f"what it made takes about {format_bytes(need)} to be brought back and "
                f"{format_bytes(free)} are free in the kernel"
            )
        return not self._no_room

    def _head(self) -> dict[str, Any]:
        order = self._order
        return {
            "code": order.code,
            # Of address space, which is not use: a bound at the budget refused what only maps
            # (safetensors of 700 MB, an np.zeros that is hardly touched). The watcher ends what
            # really grows, in the middle of a native call too; this is for the case that it
            # cannot look in time.
            "bound_bytes": max(order.room_bytes, order.budget_bytes),
            "execution_count": order.execution_count,
            "colors": order.colors,
            "interactivity": order.interactivity,
        }

    def _interrupt(self) -> None:
        """Ctrl-C: first a request, then the end."""
        self._interrupts += 1
        if self._interrupts == 1:
            self.stop()
        elif self._worker is not None:
            self._worker.kill()

    def _ended_by_us(self) -> bool:
        return self._stopped or self._cause() is not Cause.NONE

    def _cause(self) -> Cause:
        cause = Cause(self._seen.get("cause", 0))
        return cause or (Cause.REQUEST if self._stopped else Cause.NONE)

    def _close_watch(self, *, final: bool = False) -> None:
        """Keep what was seen of the cell; what is seen of the packing tells only who ended it."""
        with self._lock:
            watch, self._watch = self._watch, None
        if watch is None:
            return
        seen = watch.close()
        if not self._seen:
            self._seen = seen
        elif final and seen["cause"] == Cause.MEMORY:
            self._no_room = "there is no room in the worker to pack what it made"

    def _unpacked(self, back: Back) -> dict[str, Any]:
        return unpack(back.blocks[0], back.blocks[1:], self._home, self._home)


@contextmanager
def noted_interrupts(note: Callable[[], None]) -> Iterator[None]:
    """Have SIGINT call *note*, and raise nothing: what runs here must not be left half done."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python raises it in the main thread alone
        return
    before = signal.signal(signal.SIGINT, lambda number, frame: note())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler if before is None else before)
