"""The guardian itself, without IPython: real signals, a real watcher process, this process."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from h2q_notebook.config.settings import MemorySafeConfig
from h2q_notebook.errors import CellStopRequested, CellTimeExceeded, MemoryBudgetExceeded
from h2q_notebook.guardian.arming import GuardRequest, WatchResult
from h2q_notebook.guardian.channel import ThreadWatcher
from h2q_notebook.guardian.guardian import MemoryGuardian
from h2q_notebook.guardian.page import Word
from h2q_notebook.guardian.reclaim import clear_exception, release_memory
from h2q_notebook.guardian.stop import CellContext
from h2q_notebook.policy.strikes import Cause
from h2q_notebook.readings.process import PROC_AVAILABLE
from h2q_notebook.units import MIB

pytestmark = pytest.mark.skipif(not PROC_AVAILABLE, reason="reads /proc")

GROW = "data = []\nwhile True: data.append(bytearray(b'x') * (1 << 20))"
SPIN = "while True: pass"


@pytest.fixture
def guardian() -> Iterator[MemoryGuardian]:
    release_memory()  # free pages of the heap would hide what a cell takes
    before = signal.getsignal(signal.SIGURG), signal.getsignal(signal.SIGINT)
    one = MemoryGuardian(MemorySafeConfig())
    one.start()
    yield one
    one.close()
    assert (signal.getsignal(signal.SIGURG), signal.getsignal(signal.SIGINT)) == before
    release_memory()


def run_code(source: str, names: dict[str, Any]) -> None:
    """Stands for the shell's runner: the code right below it is the cell."""
    exec(compile(source, "<cell>", "exec"), names)


def _arm(guardian: MemoryGuardian, request: GuardRequest) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "cell"}
    guardian.arm(
        request,
        lambda token: CellContext(
            token, threading.get_ident(), run_code.__code__, names, lambda cause: cause.name
        ),
    )
    return names


def run(
    guardian: MemoryGuardian,
    source: str,
    request: GuardRequest,
    *,
    after_arm: Callable[[], object] = lambda: None,
) -> tuple[BaseException | None, WatchResult]:
    names = _arm(guardian, request)
    after_arm()
    error: BaseException | None = None
    try:
        run_code(source, names)
    except BaseException as caught:
        guardian.unwound()
        error = caught
    result = guardian.disarm()
    clear_exception(error)
    names.clear()
    return error, result


def test_a_growing_cell_is_stopped_at_its_budget(guardian: MemoryGuardian) -> None:
    error, result = run(guardian, GROW, GuardRequest(100 * MIB))
    assert isinstance(error, MemoryBudgetExceeded)
    assert result.cause is Cause.MEMORY
    assert result.raised == 1
    assert 100 * MIB < result.peak_bytes < 180 * MIB
    assert result.points


def test_without_proc_a_thread_stops_it_too() -> None:
    alone = MemoryGuardian(MemorySafeConfig())
    alone._factory = lambda: ThreadWatcher(alone._strike_from_thread)
    alone.start()
    try:
        assert alone.watcher_kind == "thread"
        error, result = run(alone, GROW, GuardRequest(100 * MIB))
        assert isinstance(error, MemoryBudgetExceeded)
        assert result.strikes >= 1
    finally:
        alone.close()


def test_a_cell_inside_its_budget_is_left_alone(guardian: MemoryGuardian) -> None:
    error, result = run(guardian, "x = bytearray(50 << 20)", GuardRequest(400 * MIB))
    assert error is None
    assert result.strikes == 0
    assert 49 * MIB < result.peak_bytes < 60 * MIB


# The first statement matters: CPython 3.11 looks up the handler of an exception raised at a
# backward jump one instruction before the jump's target, and that must be inside the try.
SWALLOW = """data = []
while True:
    try:
        kept = True
        while True:
            data.append(bytearray(b'x') * (1 << 20))
    HANDLER
"""


@pytest.mark.parametrize("handler", ["except BaseException: pass", "finally: continue"])
def test_a_cell_that_swallows_its_stop_is_forced_out(
    guardian: MemoryGuardian, handler: str
) -> None:
    error, result = run(guardian, SWALLOW.replace("HANDLER", handler), GuardRequest(100 * MIB))
    assert isinstance(error, MemoryBudgetExceeded)
    assert result.raised >= 2


def test_a_late_strike_outside_the_cell_raises_nothing(guardian: MemoryGuardian) -> None:
    os.kill(os.getpid(), guardian.number)
    time.sleep(0.01)

    def strike_between_arm_and_cell() -> None:
        for _ in range(20):
            os.kill(os.getpid(), guardian.number)
            time.sleep(0.001)

    error, result = run(
        guardian, "x = 1", GuardRequest(400 * MIB), after_arm=strike_between_arm_and_cell
    )
    assert error is None
    assert result.raised == 0
    os.kill(os.getpid(), guardian.number)
    time.sleep(0.01)


def test_a_strike_on_a_stale_reading_raises_nothing(guardian: MemoryGuardian) -> None:
    source = "import os, time\nfor _ in range(20):\n  os.kill(os.getpid(), number)\n"
    source = source.replace("number", str(guardian.number)) + "done = True"
    error, result = run(guardian, source, GuardRequest(400 * MIB))
    assert error is None
    assert result.raised == 0


def test_a_storm_of_interrupts_gives_one_keyboard_interrupt(guardian: MemoryGuardian) -> None:
    pid = os.getpid()

    def storm() -> None:
        for _ in range(50):
            os.kill(pid, signal.SIGINT)
            time.sleep(0.001)

    sender = threading.Thread(target=storm)
    # As in ipykernel: around the cell stands a handler that raises nothing.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        request = GuardRequest(400 * MIB, timeout_s=10)
        error, _ = run(guardian, SPIN, request, after_arm=sender.start)
        sender.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert isinstance(error, KeyboardInterrupt)


def test_a_lost_watcher_is_replaced_before_the_next_cell(guardian: MemoryGuardian) -> None:
    watcher: Any = guardian._watcher
    os.kill(watcher.pid, signal.SIGKILL)
    watcher._process.wait()
    error, _ = run(guardian, GROW, GuardRequest(100 * MIB))
    assert isinstance(error, MemoryBudgetExceeded)
    assert guardian.watcher_losses == 1


def test_a_watcher_lost_during_the_cell_is_noticed_and_does_no_harm(
    guardian: MemoryGuardian,
) -> None:
    watcher: Any = guardian._watcher
    error, result = run(
        guardian,
        "x = 1",
        GuardRequest(100 * MIB),
        after_arm=lambda: (os.kill(watcher.pid, signal.SIGKILL), watcher._process.wait()),
    )
    assert error is None
    assert result.watcher_lost


def test_raise_lets_the_running_cell_go_past_its_first_budget(guardian: MemoryGuardian) -> None:
    source = "data = bytearray(b'x') * (150 << 20)\nfor _ in range(20): time.sleep(0.005)"
    error, result = run(
        guardian,
        "import time\n" + source,
        GuardRequest(100 * MIB),
        after_arm=lambda: guardian.raise_limit(200 * MIB),
    )
    assert error is None
    assert result.budget_bytes == 300 * MIB


def test_a_cell_is_kept_within_what_others_leave_it_and_gets_it_back(
    guardian: MemoryGuardian,
) -> None:
    seen: list[int] = []

    def others_take_and_give_back() -> None:
        seen.append(guardian.follow_room(20 * MIB))
        seen.append(guardian.follow_room(1 << 40))
        live = guardian.live()
        assert live is not None
        seen.append(live.budget_bytes)
        guardian.follow_room(50 * MIB)

    error, result = run(
        guardian, GROW, GuardRequest(200 * MIB), after_arm=others_take_and_give_back
    )
    assert isinstance(error, MemoryBudgetExceeded)
    assert seen[0] <= 30 * MIB
    assert seen[1:] == [0, 200 * MIB], "it goes up again, and never above what was granted"
    assert result.budget_bytes < 100 * MIB
    assert guardian.follow_room(0) == 0, "nothing is guarded any more"


def test_what_was_looked_up_for_one_cell_never_moves_the_limit_of_the_next(
    guardian: MemoryGuardian,
) -> None:
    """A look that lasted from one cell into the next gave it the other's limit: +142 MiB."""
    limits: list[int] = []
    read = guardian.used_bytes

    def slow_read() -> int:
        guardian.used_bytes = read  # type: ignore[method-assign]
        guardian.disarm()
        _arm(guardian, GuardRequest(50 * MIB))
        assert guardian._watcher is not None
        limits.append(guardian._watcher.page[Word.LIMIT])
        return read()

    _arm(guardian, GuardRequest(300 * MIB))
    guardian.used_bytes = slow_read  # type: ignore[method-assign]
    assert guardian.follow_room(1 << 40) == 0
    assert guardian._watcher is not None
    limits.append(guardian._watcher.page[Word.LIMIT])
    guardian.disarm()
    assert limits[0] == limits[1]


def test_stop_ends_a_cell_and_timeout_too(guardian: MemoryGuardian) -> None:
    error, result = run(guardian, SPIN, GuardRequest(400 * MIB), after_arm=guardian.request_stop)
    assert isinstance(error, CellStopRequested)
    assert result.cause is Cause.REQUEST
    error, result = run(guardian, SPIN, GuardRequest(400 * MIB, timeout_s=0.1))
    assert isinstance(error, CellTimeExceeded)
    assert result.cause is Cause.TIMEOUT


def test_closing_leaves_no_child_descriptor_or_thread() -> None:
    MemoryGuardian(MemorySafeConfig()).close()  # lazily opened things are open now
    fds, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    for _ in range(5):
        one = MemoryGuardian(MemorySafeConfig())
        one.start()
        pid = one._watcher.pid  # type: ignore[union-attr]
        one.close()
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert len(os.listdir("/proc/self/fd")) == fds
    assert threading.active_count() == threads
