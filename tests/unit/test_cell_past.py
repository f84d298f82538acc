"""What a cell took is remembered by its statements' hash, and told before it runs again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h2q_notebook.cell.outcome import CellOutcome
from h2q_notebook.cell.past import CellMemory, cell_key
from h2q_notebook.line_file import LineFile
from h2q_notebook.policy.expectation import PastRun, expected_bytes, warning
from h2q_notebook.units import GIB, MIB

OUTCOME = CellOutcome("", "ok", "rollback", GIB, "budget 1 GiB", 0, 300 * MIB, 0, 0, 1.0)


def test_the_key_is_of_the_statements_alone() -> None:
    bare = cell_key("x = 1\ny = 2")
    assert cell_key("%%h2q_budget 2GiB\n# a note\nx = 1   \n\ny = 2\n") == bare
    assert cell_key("x = 1\ny = 3") != bare
    assert cell_key("if a:\n    x = 1") != cell_key("if a:\nx = 1")


def test_it_is_there_again_in_the_next_kernel_and_holds_no_text(tmp_path: Path) -> None:
    memory, key = CellMemory(lambda: tmp_path), cell_key("secret = 'hunter2'")
    memory.record(key, OUTCOME)
    memory.record(key, replace(OUTCOME, status="overrun", peak_bytes=GIB))
    memory.record(key, replace(OUTCOME, status="error"))
    expected = (PastRun(300 * MIB, True), PastRun(GIB, False))
    assert CellMemory(lambda: tmp_path).past(key) == memory.past(key) == expected
    text = (tmp_path / "cells.jsonl").read_text()
    assert "secret" not in text
    assert "hunter2" not in text


def test_a_cell_that_took_more_than_its_budget_is_warned_about_before_it_runs() -> None:
    past = [PastRun(n * GIB, True) for n in (1, 3, 3)]
    assert warning(past, 2 * GIB) == (
        "this cell took 3.00 GiB in the last 3 runs, and its budget is 2.00 GiB: it will probably "
        "be stopped"
    )
    assert warning(past, 4 * GIB) == ""
    assert warning([], MIB) == ""


def test_a_cell_that_was_stopped_the_last_time_is_told_with_what_it_had_taken() -> None:
    past = [PastRun(GIB, True), PastRun(2 * GIB, False)]
    assert "was stopped the last time, at 2.00 GiB" in warning(past, GIB)
    assert warning([PastRun(GIB, False)], 4 * GIB) == ""


@given(st.lists(st.integers(0, 1 << 40), min_size=1), st.integers(1, 1 << 40))
def test_it_warns_of_finished_runs_exactly_where_their_median_is_over(
    peaks: list[int], budget: int
) -> None:
    past = [PastRun(peak, True) for peak in peaks]
    expected = expected_bytes(past)
    assert expected is not None
    assert bool(warning(past, budget)) == (expected > budget)


def test_a_file_that_cannot_be_used_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    memory = CellMemory(lambda: tmp_path / "file")
    memory.record("k", OUTCOME)
    assert memory.past("k") == (PastRun(300 * MIB, True),)
    (tmp_path / "cells.jsonl").write_bytes(
        b'\xff\n{"cell": 1}\n[]\n{"cell": "k", "peak_bytes": "x", "finished": true}\n{"ce'
    )
    assert CellMemory(lambda: tmp_path).past("k") == ()


@pytest.mark.parametrize("n", [10, 400])
def test_the_file_stays_bounded_and_keeps_the_newest(tmp_path: Path, n: int) -> None:
    lines = LineFile(tmp_path / "lines.jsonl", keep=20)
    for i in range(n):
        lines.append({"i": i, "padding": "x" * 100})
    assert lines.path.stat().st_size < 2 * 20 * 400
    found = [one["i"] for one in lines.read()]
    assert found == list(range(n - len(found), n))
    assert lines.path.stat().st_mode & 0o777 == 0o600
