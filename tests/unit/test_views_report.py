from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from h2q_notebook.cell.outcome import CellOutcome, NameSize, SourceLine, Undone
from h2q_notebook.views import report

MIB = 1 << 20
ATTACK = "<img src=x onerror=alert(1)>\"'&\x1b[31m\n"


def outcome(**changes: Any) -> CellOutcome:
    base = CellOutcome(
        label="etl",
        status="overrun",
        on_overrun="rollback",
        budget_bytes=400 * MIB,
        budget_source="budget 400 MiB",
        baseline_bytes=200 * MIB,
        peak_bytes=431 * MIB,
        retained_bytes=3 * MIB,
        returned_bytes=428 * MIB,
        duration_s=1.3,
        line=SourceLine(7, "    rows.append(make(i))"),
        holders=(NameSize("rows", "list", 310 * MIB), NameSize("df", "DataFrame", 80 * MIB)),
        undone=Undone(added=("rows",), rebound=("x",), deleted=("y",), contents=("log",)),
        not_undone=("seen (set: 2 items → 3 items)",),
        notes=("2 threads it had started were ended",),
        advice=("read the file in pieces",),
    )
    return replace(base, **changes)


STATUSES = ("ok", "error", "overrun", "refused", "timeout", "stopped", "warned")


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.attributes: set[str] = set()
        self.depth = 0
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.attributes.update(name for name, _ in attrs)
        self.depth += 1

    def handle_endtag(self, tag: str) -> None:
        self.depth -= 1


def test_a_good_cell_is_told_in_one_line() -> None:
    text = report.line(
        outcome(status="ok", label="", notes=(), peak_bytes=100 * MIB, retained_bytes=0)
    )
    assert text == "h2q ✓ peak 100 MiB of 400 MiB (25 %) · kept 0 MiB · 1.3 s"
    freed = report.line(outcome(status="ok", retained_bytes=-20 * MIB))
    assert "freed 20 MiB" in freed
    assert "ValueError" in report.line(outcome(status="error", error="ValueError: bad"))


def test_the_story_of_an_overrun_says_everything_once() -> None:
    text = report.story_text(outcome())
    lines = text.splitlines()
    assert len(lines) <= 12
    for said in (
        "used 431 MiB, over its budget of 400 MiB (108 %)",
        "line 7: rows.append(make(i))",
        "rows (list) 310 MiB",
        "removed rows; put back x; brought back y; content restored: log",
        "seen (set: 2 items → 3 items)",
        "428 MiB given back",
        "2 threads",
        "read the file in pieces",
        "kernel is alive",
    ):
        assert text.count(said) == 1, said
    assert "Traceback" not in text


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("keep", ["rollback", "keep", "warn"])
def test_every_kind_of_end_can_be_told(status: Any, keep: Any) -> None:
    bare = outcome(
        status=status, on_overrun=keep, line=None, holders=(), undone=Undone(), label="",
        not_undone=(), notes=(), advice=(), budget_source="", error=None,
    )  # fmt: skip
    for one in (outcome(status=status, on_overrun=keep), bare):
        assert "\n" not in report.line(one)
        assert "\n" not in report.error_line(one)
        assert len(report.story_text(one).splitlines()) <= 12
        assert Tags(report.story_html(one)).depth == 0
        assert Tags(report.line_html(one)).depth == 0


@pytest.mark.parametrize(
    ("status", "name"),
    [
        ("overrun", "MemoryBudgetExceeded"),
        ("timeout", "CellTimeExceeded"),
        ("stopped", "CellStopRequested"),
        ("refused", "MemoryError"),
    ],
)
def test_the_error_line_names_the_exception_and_the_line(status: Any, name: str) -> None:
    text = report.error_line(outcome(status=status, error=None))
    assert text.startswith(f"{name}: ")
    assert " at line 7; " in text


def test_nothing_is_promised_that_was_not_done() -> None:
    assert "what the cell had made is kept" in report.story_text(outcome(on_overrun="keep"))
    assert "except what is listed" in report.story_text(outcome())
    assert "as before" in report.story_text(outcome(not_undone=()))


def hostile() -> CellOutcome:
    return outcome(
        label=ATTACK,
        line=SourceLine(3, ATTACK),
        holders=(NameSize(ATTACK, ATTACK, 5 * MIB),) * 9,
        undone=Undone(added=(ATTACK,) * 50),
        not_undone=(ATTACK * 40,) * 50,
        notes=(ATTACK * 40,) * 9,
        advice=(ATTACK * 40,) * 9,
        budget_source=ATTACK,
        error=ATTACK * 30,
    )


@pytest.mark.parametrize("status", STATUSES)
def test_hostile_words_stay_words(status: Any) -> None:
    one = replace(hostile(), status=status)
    for html in (report.story_html(one), report.line_html(one)):
        tags = Tags(html)
        assert tags.seen <= {"div", "span", "b", "code", "pre"}
        assert tags.attributes <= {"style"}
        assert len(html.encode()) <= 6 * 1024
        assert "\x1b" not in html
    for text in (report.story_text(one), report.line(one), report.error_line(one)):
        assert "\x1b" not in text
    assert "\n" not in report.line(one) + report.error_line(one)
    assert len(report.story_text(one).splitlines()) <= 12


def test_the_page_is_static_and_loads_nothing() -> None:
    html = report.story_html(outcome())
    assert not re.search(r"<script|<link|<style|https?:|url\(|\son\w+=", html)
    assert len(html.encode()) <= 6 * 1024
    assert "310 MiB" in html


def test_a_limit_that_is_not_the_users_budget_is_named() -> None:
    text = report.story_text(outcome(budget_source="what the machine can spare"))
    assert "over its limit of 400 MiB (what the machine can spare)" in text


def test_a_good_cell_with_something_to_know_says_it_on_its_line() -> None:
    assert report.line(outcome(status="ok")).endswith(" · 2 threads it had started were ended")
