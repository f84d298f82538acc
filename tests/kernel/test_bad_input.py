"""Wrong input gives one sentence, runs nothing and changes nothing."""

from __future__ import annotations

import pytest

from tests.support.kernel import Kernel

STATE = (
    "[sorted(n for n in globals() if not n.startswith('_')), "
    "repr(__import__('signal').getsignal(__import__('signal').SIGURG)), "
    "__import__('resource').getrlimit(__import__('resource').RLIMIT_DATA), "
    "len(__import__('h2q').history)]"
)
BAD_CELL_LINES = [
    "0", "-5MB", "1e3", "５GB", "1_0GB", "inf", "nanGB", "101%", "0%", "12QB", "9999999TB",
    "400MiB 500MiB", "400MiB --on-overrun", "400MiB --on-overrun explode", "400MiB --rollback all",
    "400MiB --deep-limit many", "400MiB --timeout 0", "400MiB --timeout -3",
    "400MiB --timeout soon", "400MiB --no-such-option", "400MiB --stri", "'400MiB",
    "400MiB --name", "{1/0}", "$h2q_tmp",
]  # fmt: skip
BAD_LINES = [
    "%h2q_budget 0", "%h2q_budget on", "%h2q_budget 400MiB --timeout never",
    "%h2q_status --what", "%h2q_gauge sideways", "%h2q_load", "%h2q_load /no/such/directory",
    "%h2q_load . --as 1x", "%h2q_load . --as class", "%h2q_load . --dtype fp4",
    "%h2q_load . --budget none",
]  # fmt: skip


def assert_one_sentence(kernel: Kernel, code: str) -> None:
    before = kernel.value(STATE)
    reply = kernel.run(code)
    assert reply.status == "error", code
    shown = reply.shown.strip()
    assert "Traceback" not in shown
    lines = [line for line in shown.splitlines() if line.strip()]
    assert len(lines) == 1, shown
    assert len(lines[0]) <= 400
    assert kernel.value(STATE) == before


@pytest.mark.parametrize("line", BAD_CELL_LINES)
def test_a_wrong_cell_line_is_one_sentence_and_runs_nothing(kernel: Kernel, line: str) -> None:
    assert_one_sentence(kernel, f"%%h2q_budget {line}\nmust_not_exist = 1")


@pytest.mark.parametrize("line", BAD_LINES)
def test_a_wrong_line_magic_is_one_sentence_and_changes_nothing(kernel: Kernel, line: str) -> None:
    assert_one_sentence(kernel, line)


def test_a_percentage_and_no_size_at_all_are_fine(kernel: Kernel) -> None:
    for size in ("25%", "", "1.5g", "'800 MiB'"):
        assert kernel.run(f"%%h2q_budget {size} --no-gauge\nvalue = 1").status == "ok", size
