"""What the user of one guarded cell may rely on: line, options, interrupt, the next cell."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.support.kernel import Kernel, after

GROW = "held = []\nfor n in range(1300):\n    held.append(b'x' * 1_000_000)"
PART = "held = [b'x' * 1_000_000 for n in range(250)]\ndel held"
BUDGET = "%%h2q_budget 200MiB --no-gauge"


def answers(kernel: Kernel) -> None:
    """The kernel lives, kept its variable and runs a guarded cell."""
    assert kernel.alive()
    assert kernel.value("[h2q_os.getpid(), h2q_sentinel]") == [kernel.pid, {"kept": [1, 2, 3]}]
    reply = kernel.run(f"{BUDGET}\nafterwards = 6 * 7")
    assert (reply.status, kernel.value("afterwards")) == ("ok", 42)


def test_a_good_cell_gives_exactly_one_line(kernel: Kernel) -> None:
    reply = kernel.run(f"{BUDGET}\nvalue = 6 * 7")
    assert reply.status == "ok"
    assert reply.text == ""
    assert len(reply.display) == 1
    assert len(reply.display[0]["text/plain"].strip().splitlines()) == 1
    (outcome,) = reply.h2q
    assert outcome["status"] == "ok"
    assert outcome["budget_bytes"] == 200 << 20
    assert "samples" not in outcome


def test_the_value_of_the_last_expression_is_still_shown(kernel: Kernel) -> None:
    reply = kernel.run(f"{BUDGET}\n6 * 7")
    assert "42" in [each.get("text/plain") for each in reply.display]
    assert kernel.value("_") == 42


def test_quiet_shows_nothing_after_a_good_cell_and_the_story_after_an_overrun(
    kernel: Kernel,
) -> None:
    assert kernel.run(f"{BUDGET} --quiet\nvalue = 1").display == []
    assert kernel.run(f"{BUDGET} --quiet\n{GROW}").ename == "MemoryBudgetExceeded"


def test_an_overrun_tells_a_short_story_without_a_wall_of_traceback(kernel: Kernel) -> None:
    reply = kernel.run(f"{BUDGET} --name 'my cell'\n{GROW}")
    assert (reply.status, reply.ename) == ("error", "MemoryBudgetExceeded")
    assert "Traceback (most recent call last)" not in reply.shown
    assert len(reply.traceback.splitlines()) <= 3
    (outcome,) = reply.h2q
    assert outcome["status"] == "overrun"
    assert outcome["label"] == "my cell"
    assert outcome["line"]["text"].strip() in GROW
    # Counted as the user sees the cell: the budget's line is line 1.
    assert outcome["line"]["number"] in (3, 4)
    assert "held" in [each["name"] for each in outcome["holders"]]
    assert "held" in outcome["undone"]["added"]
    assert outcome["peak_bytes"] > outcome["budget_bytes"]
    assert abs(outcome["retained_bytes"]) < 60 << 20


def test_names_added_rebound_and_deleted_are_put_back(kernel: Kernel) -> None:
    kernel.run("one, two, three = 1, 2, 3")
    reply = kernel.run(f"{BUDGET}\none = 'changed'\ndel two\nfour = 4\nimport fractions\n{GROW}")
    assert reply.ename == "MemoryBudgetExceeded"
    assert kernel.value("[one, two, three]") == [1, 2, 3]
    assert kernel.value("['four' in globals(), 'fractions' in globals()]") == [False, False]


def test_keep_stops_the_cell_and_leaves_its_names(kernel: Kernel) -> None:
    reply = kernel.run(
        f"{BUDGET} --on-overrun keep\npartial = []\nfor n in range(1300):\n"
        "    partial.append(b'x' * 1_000_000)"
    )
    assert reply.ename == "MemoryBudgetExceeded"
    assert 150 < kernel.value("len(partial)") < 1300
    kernel.run("del partial")
    answers(kernel)


def test_warn_lets_the_cell_end_and_says_so(kernel: Kernel) -> None:
    reply = kernel.run(
        f"{BUDGET} --on-overrun warn\nheld = []\nfor n in range(350):\n"
        "    held.append(b'x' * 1_000_000)\ncount = len(held)\ndel held"
    )
    assert reply.status == "ok"
    assert reply.outcome is not None
    assert reply.outcome["status"] == "warned"
    assert kernel.value("count") == 350


def test_a_timeout_ends_a_busy_and_a_sleeping_cell(kernel: Kernel) -> None:
    for body in ("while True:\n    pass", "import time\ntime.sleep(20)"):
        reply = kernel.run(f"%%h2q_budget 200MiB --no-gauge --timeout 300ms\n{body}", timeout=15)
        assert (reply.status, reply.ename) == ("error", "CellTimeExceeded")
        assert reply.outcome is not None
        assert reply.outcome["status"] == "timeout"
    answers(kernel)


def test_the_line_form_guards_every_following_cell_until_off(kernel: Kernel) -> None:
    assert kernel.run("%h2q_budget 200MiB --no-gauge").status == "ok"
    try:
        assert kernel.run(GROW).ename == "MemoryBudgetExceeded"
        assert kernel.run("after_line = 1").h2q[-1]["status"] == "ok"
        # A cell's own line binds before the one that holds for all.
        own = kernel.run(f"%%h2q_budget 600MiB --no-gauge\n{PART}")
        assert own.h2q[-1]["status"] == "ok"
    finally:
        off = kernel.run("%h2q_budget off")
    assert off.status == "ok"
    plain = kernel.run("held = [bytes([n % 250]) * 1_000_000 for n in range(300)]\ndel held")
    assert (plain.status, plain.h2q) == ("ok", [])


def test_the_users_own_error_keeps_its_traceback_and_its_names(kernel: Kernel) -> None:
    reply = kernel.run(f"{BUDGET}\nkept_name = 5\n1 / 0")
    assert (reply.status, reply.ename) == ("error", "ZeroDivisionError")
    assert "1 / 0" in reply.shown
    assert reply.outcome is not None
    assert reply.outcome["status"] == "error"
    assert kernel.value("kept_name") == 5


def test_an_interrupt_during_a_guarded_cell_is_a_keyboard_interrupt(kernel: Kernel) -> None:
    after(0.5, kernel.interrupt)
    reply = kernel.run(f"{BUDGET}\nwhile True:\n    pass", timeout=15)
    assert (reply.status, reply.ename) == ("error", "KeyboardInterrupt")
    answers(kernel)


@pytest.mark.parametrize(
    "body",
    ["while True:\n    pass", "import time\ntime.sleep(20)", GROW + "\nwhile True:\n    pass"],
    ids=["busy", "asleep", "growing"],
)
def test_a_storm_of_interrupts_loses_no_reply(kernel: Kernel, body: str) -> None:
    storm = (
        "import os, sys, time\ntime.sleep(0.5)\nfor n in range(50):\n"
        f"    os.kill({kernel.pid}, {int(signal.SIGINT)})\n    time.sleep(0.001)\n"
    )
    for _ in range(3):
        sender = subprocess.Popen([sys.executable, "-c", storm])
        reply = kernel.run(f"{BUDGET}\n{body}", timeout=20)
        assert sender.wait() == 0
        assert reply.status == "error"
        assert reply.ename in ("KeyboardInterrupt", "MemoryBudgetExceeded")
        answers(kernel)


def test_two_cells_in_quick_succession_see_no_late_stop(kernel: Kernel) -> None:
    for _ in range(10):
        first = kernel.send(f"{BUDGET}\n{GROW}")
        innocent = [kernel.send(f"quick_{n} = [n * n for n in range(20_000)]") for n in range(5)]
        assert kernel.wait(first).ename == "MemoryBudgetExceeded"
        # The replies came in order and iopub was read past them: ask the names, not the messages.
        assert kernel.value(f"[len(quick_{len(innocent) - 1}), len(quick_0)]") == [20_000, 20_000]


def sidecars(kernel: Kernel) -> list[int]:
    """The pids of the kernel's children while no cell runs."""
    return kernel.children()


def test_a_killed_sidecar_is_replaced_and_the_user_told_once(fresh_kernel: Kernel) -> None:
    kernel = fresh_kernel
    answers(kernel)
    (old,) = sidecars(kernel)
    os.kill(old, signal.SIGKILL)
    stopped = kernel.run(f"{BUDGET}\n{GROW}")
    assert stopped.ename == "MemoryBudgetExceeded"
    again = kernel.run(f"{BUDGET}\nvalue = 1")
    (new,) = sidecars(kernel)
    assert new != old
    told = [reply for reply in (stopped, again) if "watcher" in reply.shown.lower()]
    assert len(told) == 1, (stopped.shown, again.shown)


def test_a_sidecar_killed_during_the_cell_does_not_lose_the_cell(fresh_kernel: Kernel) -> None:
    kernel = fresh_kernel
    answers(kernel)
    (old,) = sidecars(kernel)
    after(0.4, lambda: os.kill(old, signal.SIGKILL))
    reply = kernel.run(
        f"{BUDGET}\nimport time\nend = time.time() + 1\nwhile time.time() < end:\n    pass"
    )
    assert reply.status == "ok"
    assert kernel.run(f"{BUDGET}\n{GROW}").ename == "MemoryBudgetExceeded"
    answers(kernel)


def test_no_sidecar_outlives_its_kernel() -> None:
    with Kernel() as kernel:
        answers(kernel)
        left = sidecars(kernel)
        assert left
        os.kill(kernel.pid, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while any(os.path.exists(f"/proc/{pid}") for pid in left):
            assert time.monotonic() < deadline, left
            time.sleep(0.05)


def test_children_of_a_stopped_cell_are_gone(kernel: Kernel) -> None:
    before = set(kernel.children())
    eater = (
        "import time\\nheld = []\\nfor n in range(600):\\n    held.append(b'x' * 1_000_000)\\n"
        "time.sleep(20)"
    )
    run = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', \"{eater}\"])"
    reply = kernel.run(f"{BUDGET}\n{run}")
    assert reply.ename == "MemoryBudgetExceeded"
    assert set(kernel.children()) - before == set()


def test_h2q_last_and_history_hold_the_outcomes(kernel: Kernel) -> None:
    kernel.run(f"{BUDGET} --name first\nvalue = 1")
    kernel.run(f"{BUDGET} --name second\n{GROW}")
    kernel.run("import h2q")
    assert kernel.value("[h2q.last.label, h2q.last.status]") == ["second", "overrun"]
    assert kernel.value("[each.label for each in h2q.history[-2:]]") == ["first", "second"]
    assert kernel.value("issubclass(h2q.MemoryBudgetExceeded, Exception)") is False


def test_async_and_subshell_cells_keep_working(kernel: Kernel) -> None:
    reply = kernel.run(f"{BUDGET}\nimport asyncio\nawait asyncio.sleep(0.01)\nasync_done = 1")
    assert (reply.status, kernel.value("async_done")) == ("ok", 1)
    reply = kernel.run(f"{BUDGET}\nsub_done = 1", subshell=kernel.subshell())
    assert (reply.status, kernel.value("sub_done")) == ("ok", 1)


def test_a_guarded_cell_never_asks_the_users_objects_for_their_repr(kernel: Kernel) -> None:
    """signal.getsignal formats its handler with %r; a handler that knew the namespace showed it."""
    kernel.run(
        "class Asked:\n    times = 0\n    def __repr__(self):\n        Asked.times += 1\n"
        "        return 'asked'\nasked = Asked()"
    )
    assert kernel.run(f"{BUDGET}\nvalue = 1").status == "ok"
    assert kernel.run(f"{BUDGET}\n{GROW}").ename == "MemoryBudgetExceeded"
    assert kernel.value("Asked.times") == 0


def test_tracing_works_after_a_guarded_subshell_cell(fresh_kernel: Kernel) -> None:
    """Taking back an undelivered exception with NULL left CPython's eval breaker set for ever."""
    kernel = fresh_kernel
    assert kernel.run(f"{BUDGET}\nvalue = 1", subshell=kernel.subshell()).status == "ok"
    traced = "import sys\nsys.settrace(lambda *event: None)\nvalue = 2\nsys.settrace(None)"
    assert kernel.run(traced, timeout=15).status == "ok"
