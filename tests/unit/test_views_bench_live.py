"""A run is shown while it runs: a line a case, or a table that fills; and never breaks it."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from h2q_notebook.bench.generation import Sampling
from h2q_notebook.bench.outcome import CaseResult
from h2q_notebook.bench.run import Step, run_cases
from h2q_notebook.views import bench_live
from h2q_notebook.views.bench_live import BenchLive
from tests.support.benching import SUITE, FakeModel


def steps() -> list[Step]:
    found: list[Step] = []
    run_cases(
        SUITE, Sampling(), FakeModel({"1 + 1": "Answer: 9"}), lambda one: None, tell=found.append
    )
    return found


def test_plain_text_gets_one_line_a_case_with_the_time_left() -> None:
    clock = itertools.count(0.0, 1.0)
    written: list[str] = []
    live = BenchLive("text", "t", write=written.append, now=lambda: next(clock))
    for step in steps():
        live(step)
    assert len(written) == 8
    assert written[0].startswith("h2q [1 of 8 · about ")
    assert "✓ passed" in written[0]
    assert "✗ failed" in written[1]
    assert "answered 9, wanted 2" in written[1]


def test_a_notebook_gets_a_table_that_fills_and_is_told_where_the_run_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown: list[Any] = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    clock = itertools.count(0.0, 1.0)
    live = BenchLive("widgets", "<b>suite</b>", now=lambda: next(clock))
    (html,) = shown
    for step in steps():
        live(step)
    assert html.value.count("<tr>") == 9
    assert "&lt;b&gt;suite" in html.value
    live(replace(steps()[1], tokens=17, max_new_tokens=256))
    assert "17 of at most 256 tokens" in html.value
    live.close()
    live.close()


def test_tokens_are_shown_four_times_a_second_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    asked: list[Step] = []
    monkeypatch.setattr(bench_live, "html_table", lambda *a: asked.append(a) or "")
    monkeypatch.setattr("IPython.display.display", lambda one: None)
    live = BenchLive("widgets", "t", now=lambda: now[0])
    step = steps()[1]
    for at in range(1000):
        now[0] = 1.0 + at / 1000
        live(step)
    assert 4 <= len(asked) <= 5


def test_a_front_end_that_went_away_does_not_end_the_run() -> None:
    def broken(text: str) -> None:
        raise BrokenPipeError

    live = BenchLive("text", "t", write=broken)
    kept: list[CaseResult] = []
    run_cases(SUITE, Sampling(), FakeModel(), kept.append, tell=live)
    assert len(kept) == 8


def test_off_is_silent() -> None:
    written: list[str] = []
    live = BenchLive("off", "t", write=written.append)
    for step in steps():
        live(step)
    assert written == []
