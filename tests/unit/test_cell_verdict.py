"""How a cell ended, from what was seen of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h2q_notebook.cell.verdict import Facts, advice_for, judge_status, notes_for, told_error
from h2q_notebook.errors import MemoryBudgetExceeded
from h2q_notebook.guardian.gate import GatePassed
from h2q_notebook.policy.strikes import Cause

MIB = 1 << 20
GOOD = Facts(
    error=None, cause=Cause.NONE, raised=0, cancelled=0, strikes=0, refused=0, strict=False,
    on_overrun="rollback", budget_bytes=400 * MIB, peak_bytes=100 * MIB, end_bytes=50 * MIB,
)  # fmt: skip
STOPPED = replace(
    GOOD, error=MemoryBudgetExceeded("x"), cause=Cause.MEMORY, raised=1, strikes=1,
    peak_bytes=401 * MIB, end_bytes=401 * MIB,
)  # fmt: skip


@pytest.mark.parametrize(
    ("facts", "status"),
    [
        (GOOD, "ok"),
        (replace(GOOD, error=ValueError("its own")), "error"),
        (STOPPED, "overrun"),
        (replace(STOPPED, raised=0, cancelled=1), "overrun"),
        (replace(STOPPED, cause=Cause.TIMEOUT), "timeout"),
        (replace(STOPPED, cause=Cause.REQUEST), "stopped"),
        (replace(GOOD, error=MemoryError("no"), refused=1), "refused"),
        (replace(GOOD, error=RuntimeError("can't allocate memory"), refused=1), "refused"),
        (replace(GOOD, error=MemoryError("no"), strict=True), "refused"),
        (replace(GOOD, error=MemoryError("its own")), "error"),
        (replace(GOOD, error=RuntimeError("no such device"), refused=1), "error"),
        (replace(GOOD, refused=3), "ok"),
        (replace(GOOD, peak_bytes=500 * MIB), "ok"),
        (replace(GOOD, peak_bytes=500 * MIB, end_bytes=500 * MIB), "overrun"),
        (replace(GOOD, on_overrun="warn", peak_bytes=500 * MIB, end_bytes=500 * MIB), "warned"),
        (replace(GOOD, on_overrun="warn"), "ok"),
    ],
)
def test_the_end_of_a_cell_is_named(facts: Facts, status: str) -> None:
    assert judge_status(facts) == status


@given(
    st.builds(
        Facts,
        error=st.sampled_from([None, ValueError("x"), MemoryError("y")]),
        cause=st.just(Cause.NONE),
        raised=st.just(0),
        cancelled=st.just(0),
        strikes=st.just(0),
        refused=st.just(0),
        strict=st.just(False),
        on_overrun=st.sampled_from(["rollback", "keep", "warn"]),
        budget_bytes=st.just(400 * MIB),
        peak_bytes=st.integers(0, 400 * MIB),
        end_bytes=st.integers(-400 * MIB, 400 * MIB),
    )
)
def test_a_cell_that_stayed_inside_its_budget_is_never_blamed(facts: Facts) -> None:
    status = judge_status(facts)
    assert status == ("error" if facts.error is not None else "ok")
    assert notes_for(facts, status) == ()
    assert advice_for(facts, status) == ()


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        (replace(GOOD, peak_bytes=500 * MIB), "inside one call"),
        (replace(STOPPED, raised=2), "finally blocks may be incomplete"),
        (replace(GOOD, end_bytes=500 * MIB), "undone afterwards"),
        (replace(GOOD, refused=3), "3 requests were refused, and the cell handled that"),
        (replace(GOOD, refused=1), "a request was refused, and the cell handled that"),
        (replace(GOOD, watcher_lost=True), "the watcher was lost"),
    ],
)
def test_what_a_user_should_know_is_noted(facts: Facts, says: str) -> None:
    (note,) = notes_for(facts, judge_status(facts))
    assert says in note


def test_a_budget_that_would_have_been_enough_is_proposed() -> None:
    first, *_ = advice_for(STOPPED, "overrun")
    assert first == "more room: %%h2q_budget 768MiB"


def test_after_a_refusal_the_proposed_budget_holds_what_was_asked_for() -> None:
    refused = replace(GOOD, error=MemoryError("no"), refused=1, asked_bytes=1600 * MIB)
    first, *_ = advice_for(refused, "refused")
    assert "1.75GiB" in first  # 100 MiB at the peak and 1600 MiB asked for, in steps of 256


def test_isolation_is_proposed_only_where_one_call_outran_the_watcher() -> None:
    assert not any("--isolate" in text for text in advice_for(STOPPED, "overrun"))
    far = replace(STOPPED, peak_bytes=900 * MIB)
    assert any("--isolate" in text for text in advice_for(far, "overrun"))


def test_a_refusal_says_who_asked_for_how_much_what_was_left_and_of_which_budget() -> None:
    refused = replace(
        GOOD,
        error=MemoryError("no"),
        refused=1,
        asked_bytes=1600 * MIB,
        asked_by="torch",
        left_bytes=300 * MIB,
        budget_source="budget 400 MiB",
    )
    assert notes_for(refused, "refused") == (
        "torch asked for 1.56 GiB with 300 MiB left (budget 400 MiB); it was refused before it "
        "grew",
    )


def test_a_library_that_is_never_refused_is_named_where_it_went_over() -> None:
    polars = GatePassed("polars", 3, 1280 * MIB, 200 * MIB)
    far = replace(STOPPED, peak_bytes=900 * MIB, passed=polars)
    assert any(
        note.startswith("polars asked for 1.25 GiB with 200 MiB left; it was granted")
        for note in notes_for(far, "overrun")
    )
    assert notes_for(replace(GOOD, passed=polars), "ok") == (), "it fitted after all"


def test_a_timeout_asks_for_time_and_a_pressed_stop_for_nothing() -> None:
    assert "--timeout" in advice_for(STOPPED, "timeout")[0]
    assert advice_for(STOPPED, "stopped") == ()


def test_an_error_without_words_is_told_by_its_name() -> None:
    assert told_error(MemoryError()) == "MemoryError"
    assert told_error(ValueError("no")) == "ValueError: no"
    assert told_error(None) is None
