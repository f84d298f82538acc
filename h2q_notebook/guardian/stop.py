"""One acknowledged stop: raise inside the cell, and nowhere else.

The watcher sends SIGURG. The handler runs in the main thread, between two bytecodes, on whatever
frame is current. It raises only if a frame of *this* cell is on that stack: anywhere else the
exception would unwind ipykernel's event loop, or our own clean-up (in 2 of 16 measured runs a plain
late interrupt landed there). What was tried and does not work:

* ``_thread.interrupt_main`` and ``PyThreadState_SetAsyncExc`` do not wake ``Thread.join`` or
  ``time.sleep``; a real signal does.
* A trace function that raises again is removed by CPython as soon as it raises.
* One exception alone does not leave ``while True: try ... except BaseException: pass``. So after
  one polite strike each raise first queues the next one (``Py_AddPendingCall`` of
  ``PyErr_SetInterruptEx``): the next call or backward jump raises again, until the cell's frames
  are gone. ``finally:`` blocks may be cut short by it; that is the price, and the report says so.
  The queueing must be the very last thing before ``raise``; done any earlier it recursed.

A user's own Ctrl-C stays a KeyboardInterrupt, but only one per cell: a storm of them lost replies
and killed a bare kernel (0 of 8 replies at 50 signals, 1 ms apart).
"""

from __future__ import annotations

import asyncio
import ctypes
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import Any

from h2q_notebook.errors import (
    CellStopped,
    CellStopRequested,
    CellTimeExceeded,
    MemoryBudgetExceeded,
)
from h2q_notebook.guardian.page import SharedPage, Word
from h2q_notebook.policy.strikes import Cause

__all__ = ["EXCEPTIONS", "CellContext", "StopController", "interrupt_thread", "runs_code_of"]

_POLITE_STRIKES = 1
EXCEPTIONS: dict[Cause, type[CellStopped]] = {
    Cause.MEMORY: MemoryBudgetExceeded,
    Cause.TIMEOUT: CellTimeExceeded,
    Cause.REQUEST: CellStopRequested,
    Cause.REFUSED: MemoryBudgetExceeded,
}


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class CellContext:
    """Where the cell runs."""

    token: int
    thread_id: int
    runner_code: CodeType
    """Code of the function that executes cells (``InteractiveShell.run_code``)."""
    global_names: dict[str, Any]
    """The namespace whose frames are the cell's."""
    message: Callable[[Cause], str]
    """The sentence that the exception carries."""
    shielded_file: str = ""
    """Source file in whose functions nothing is raised: the one that handles the cell's end, which
    runs on top of the outer cell when a cell inside a cell fails."""
    task: asyncio.Task[Any] | None = None
    """The cell's task, for a cell with top-level await; never ipykernel's dispatcher."""
    loop: asyncio.AbstractEventLoop | None = None


@dataclass
class _Counts:
    raised: int = 0
    cancelled: int = 0
    interrupts: int = 0
    stale: int = 0


# No generated repr or eq here: signal.signal() passes the old handler through an enum, whose error
# formats the bound method, hence this object, hence the user's whole namespace. It cost a second
# and 83 MiB a cell, and ran the users' own __repr__.
@dataclass(repr=False, eq=False)
class StopController:
    """Owns the signal handlers while a cell is guarded.

    Args:
        page: the page shared with the watcher.
        read_used: own use in bytes, now.
        number: the signal of a strike.
    """

    page: SharedPage
    read_used: Callable[[], int]
    number: int
    counts: _Counts = field(default_factory=_Counts)
    _cell: CellContext | None = None
    _previous: Any = None
    _previous_sigint: Any = None

    def install(self) -> None:
        """Take over the strike signal; main thread only."""
        self._previous = signal.signal(self.number, self._on_strike)

    def uninstall(self) -> None:
        """Give the strike signal back, unless somebody else has taken it since."""
        if signal.getsignal(self.number) == self._on_strike:
            signal.signal(self.number, self._previous or signal.SIG_DFL)

    def begin(self, cell: CellContext) -> None:
        """From here on strikes may raise in *cell*."""
        self.counts = _Counts()
        self._cell = cell
        if threading.current_thread() is threading.main_thread():
            if signal.getsignal(self.number) != self._on_strike:
                signal.signal(self.number, self._on_strike)  # a cell had replaced it
            current = signal.getsignal(signal.SIGINT)
            if current != self._on_interrupt:
                self._previous_sigint = current
                signal.signal(signal.SIGINT, self._on_interrupt)

    def still_inside(self, frame: FrameType | None) -> bool:
        """Whether the cell (or an outer part of it) is still on the stack above *frame*."""
        cell = self._cell
        return cell is not None and _cell_on_stack(frame, cell)

    def unwound(self) -> None:
        """The cell's frames are gone: no more strikes, from either side."""
        if self._cell is not None:
            self.page[Word.UNWOUND] = self._cell.token

    def end(self, *, give_back_sigint: bool) -> None:
        """From here on nothing is raised.

        Args:
            give_back_sigint: restore SIGINT's handler now. ipykernel restores it by itself once
                the reply is out; until then ours, which raises nothing outside a cell, is the
                safer one.
        """
        self.unwound()
        cell, self._cell = self._cell, None
        main = threading.main_thread().ident
        if cell is not None and cell.thread_id != main and self.counts.raised:
            _drain_own_thread()
        if give_back_sigint and signal.getsignal(signal.SIGINT) == self._on_interrupt:
            signal.signal(signal.SIGINT, self._previous_sigint or signal.default_int_handler)

    def _on_strike(self, signum: int, frame: FrameType | None) -> None:
        cell = self._cell
        if cell is None or self.page[Word.UNWOUND] == cell.token or _is_ours(frame):
            return
        cause = Cause(self.page[Word.CAUSE]) or Cause.MEMORY
        if cell.thread_id != threading.main_thread().ident:
            self._strike_thread(cell, cause)
            return
        if not _cell_on_stack(frame, cell):
            self._cancel_task(cell)
            return
        extra = self.page[Word.EXTRA]
        if (
            cause is Cause.MEMORY
            and not self.counts.raised
            and self.read_used() + extra <= self.page[Word.LIMIT]
        ):
            self.counts.stale += 1  # it came back under its limit by itself
            return
        self.counts.raised += 1
        stop = EXCEPTIONS[cause](cell.message(cause))
        if self.counts.raised > _POLITE_STRIKES:
            _PENDING(_TRIP, self.number)
        raise stop

    def _strike_thread(self, cell: CellContext, cause: Cause) -> None:
        """A subshell's cell: signals reach the main thread only, so raise in the other thread."""
        frame = sys._current_frames().get(cell.thread_id)
        if frame is not None and _cell_on_stack(frame, cell):
            self.counts.raised += 1
            interrupt_thread(cell.thread_id, EXCEPTIONS[cause])
        else:
            self._cancel_task(cell)

    def _cancel_task(self, cell: CellContext) -> None:
        """A cell that is suspended in ``await`` has no frame: cancel its task."""
        if cell.task is not None and cell.loop is not None and not cell.task.done():
            self.counts.cancelled += 1
            cell.loop.call_soon_threadsafe(cell.task.cancel)

    def _on_interrupt(self, signum: int, frame: FrameType | None) -> None:
        cell = self._cell
        if cell is None or self.page[Word.UNWOUND] == cell.token or _is_ours(frame):
            return
        if self.page[Word.INSIST]:
            self._on_strike(signum, frame)
            return
        if cell.thread_id == threading.main_thread().ident and _cell_on_stack(frame, cell):
            if not self.counts.interrupts:
                self.counts.interrupts += 1
                raise KeyboardInterrupt
            # A cell that swallowed the first one can still be interrupted, once per 50 ms or so:
            # what must never happen is a second one while the first is being handled.
            if not _handling_interrupt():
                self.counts.interrupts += 1
                raise KeyboardInterrupt
        elif cell.task is not None and callable(self._previous_sigint):
            self._previous_sigint(signum, frame)


def _handling_interrupt() -> bool:
    return isinstance(sys.exc_info()[1], KeyboardInterrupt)


def _is_ours(frame: FrameType | None) -> bool:
    """Whether the interrupted function is one of this module's handlers."""
    return frame is None or frame.f_code.co_filename == __file__


def _cell_on_stack(frame: FrameType | None, cell: CellContext) -> bool:
    """Whether a frame of the cell is on the stack that *frame* is the top of.

    The cell's own frames are those that the shell's runner called directly, with a code name such
    as ``<module>`` or ``<cell line: 1>``, in the user's namespace. IPython's error display, which
    the runner calls too, is not one of them.
    """
    while frame is not None:
        caller = frame.f_back
        if frame.f_code.co_filename == cell.shielded_file:
            return False
        if (
            caller is not None
            and caller.f_code is cell.runner_code
            and frame.f_code.co_name[:1] == "<"
            and frame.f_globals is cell.global_names
        ):
            return True
        frame = caller
    return False


def runs_code_of(thread_id: int, global_names: dict[str, Any]) -> bool:
    """Whether a thread is inside a function whose globals are *global_names*."""
    frame = sys._current_frames().get(thread_id)
    while frame is not None:
        if frame.f_globals is global_names:
            return True
        frame = frame.f_back
    return False


_PENDING = ctypes.pythonapi.Py_AddPendingCall
_PENDING.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
_PENDING.restype = ctypes.c_int
_TRIP = ctypes.cast(ctypes.pythonapi.PyErr_SetInterruptEx, ctypes.c_void_p)
_SET_ASYNC = ctypes.pythonapi.PyThreadState_SetAsyncExc


def interrupt_thread(thread_id: int, exception: type[BaseException]) -> bool:
    """Raise *exception* in another thread at its next bytecode.

    It cannot wake a thread that is blocked in C.

    Returns:
        Whether such a thread exists.
    """
    return bool(_SET_ASYNC(ctypes.c_ulong(thread_id), ctypes.py_object(exception)))


def _drain_own_thread() -> None:
    """Let an exception that may still be pending for this thread happen here, where it is caught.

    Never take one back with NULL, as the C interface offers: CPython 3.11 then sets its eval
    breaker and nothing clears it any more; every thread gets slower, and a trace function (a
    debugger, coverage) makes the interpreter spin for ever.
    """
    try:
        interrupt_thread(threading.get_ident(), CellStopped)  # takes the place of a pending one
        for _ in range(1000):
            pass
    except CellStopped:
        pass
