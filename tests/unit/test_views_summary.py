from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h2q_notebook.cell.outcome import CellOutcome, Event, Sample
from h2q_notebook.views import summary
from h2q_notebook.views.spark import sparkline, thinned

MIB = 1 << 20
SVG = "{http://www.w3.org/2000/svg}"


def outcome(**changes: Any) -> CellOutcome:
    base = CellOutcome(
        label="<img src=x onerror=alert(1)>",
        status="overrun",
        on_overrun="rollback",
        budget_bytes=400 * MIB,
        budget_source="budget 400 MiB",
        baseline_bytes=0,
        peak_bytes=431 * MIB,
        retained_bytes=0,
        returned_bytes=0,
        duration_s=10.123456789,
        samples=tuple(Sample(at / 100, at * MIB * 431 // 1000) for at in range(1001)),
        events=(Event(8.0, 330 * MIB, '80 % <b onclick="x">', "warn"), Event(9, MIB, "up", "info")),
    )
    return replace(base, **changes)


def attributes(page: str) -> set[str]:
    found: set[str] = set()
    parser = HTMLParser()
    parser.handle_starttag = lambda _, attrs: found.update(dict(attrs))  # type: ignore
    parser.feed(page)
    return found


def drawing(one: CellOutcome) -> ElementTree.Element:
    return ElementTree.fromstring(summary.chart_svg(one))


def test_the_drawing_is_well_formed_and_labelled() -> None:
    svg = drawing(outcome())
    assert svg.get("role") == "img"
    assert "peak 431 MiB of a budget of 400 MiB (108 percent)" in str(svg.get("aria-label"))
    assert len(svg.findall(f"{SVG}rect")) == 2
    assert len(svg.findall(f"{SVG}circle")) == 2
    assert {child.tag.removeprefix(SVG) for child in svg.iter()} <= {
        "svg", "title", "rect", "path", "circle", "text"
    }  # fmt: skip
    dashed = [path for path in svg.findall(f"{SVG}path") if path.get("stroke-dasharray") == "5 3"]
    assert [path.get("stroke") for path in dashed] == ["currentColor"]


def test_a_bundle_is_a_few_kb_and_static() -> None:
    many = tuple(Event(at / 10, MIB, "x" * 500, "info") for at in range(500))
    for one in (outcome(), outcome(status="ok"), outcome(events=many)):
        made = summary.bundle(one, chart=True)
        assert made.keys() == {"text/plain", "text/html"}
        assert len(made["text/html"].encode()) < 14_000
        assert not re.search(r"<script|<img|<link|<style|url\(|href", made["text/html"])
        assert not [name for name in attributes(made["text/html"]) if name.startswith("on")]
        assert len(made["text/plain"]) < 2500
    assert len(summary.bundle(outcome(), chart=True)["text/html"].encode()) < 6_000


def test_without_a_chart_only_the_words_stay() -> None:
    made = summary.bundle(outcome(status="ok"), chart=False)
    assert "<svg" not in made["text/html"]
    assert "\n" not in made["text/plain"]
    assert "<svg" not in summary.bundle(outcome(samples=()), chart=True)["text/html"]


@pytest.mark.parametrize(
    "changes",
    [
        {"samples": (Sample(0, 0), Sample(0, 0)), "duration_s": 0.0, "peak_bytes": 0},
        {"samples": (Sample(0, -5 * MIB), Sample(1, -9 * MIB)), "peak_bytes": -MIB},
        {"budget_bytes": 0},
        {"peak_bytes": 1 << 50},
        {"samples": (Sample(-1, 1 << 60), Sample(99, 5))},
    ],
)
def test_odd_figures_are_drawn_inside_the_frame(changes: dict[str, Any]) -> None:
    svg = drawing(outcome(**changes))
    for path in svg.iter(f"{SVG}path"):
        assert "nan" not in str(path.get("d"))
        assert "inf" not in str(path.get("d"))
    for mark in svg.iter(f"{SVG}circle"):
        assert 0 <= float(str(mark.get("cx"))) <= 640
        assert 0 <= float(str(mark.get("cy"))) <= 132


def test_metadata_is_plain_rounded_data_without_the_samples() -> None:
    data = summary.metadata(outcome())
    again = json.loads(json.dumps(data))
    assert again == data
    assert data.keys() == {"h2q"}
    assert data["h2q"]["duration_s"] == 10.123
    assert data["h2q"]["share"] == 1.077
    assert data["h2q"]["undone"]["added"] == []
    assert not {"samples", "events"} & data["h2q"].keys()


@given(st.lists(st.integers(-(10**9), 10**9), max_size=600), st.integers(4, 120))
def test_thinning_keeps_ends_and_extremes(values: list[int], limit: int) -> None:
    kept = thinned(values, limit, key=float)
    assert len(kept) <= limit
    if values:
        assert (kept[0], kept[-1]) == (values[0], values[-1])
        assert (min(kept), max(kept)) == (min(values), max(values))


def test_a_short_peak_shows_in_the_text_line() -> None:
    values = [0.0] * 1000
    values[500] = 100.0
    line = sparkline(values, top=100.0)
    assert len(line) == 40
    assert line.count("█") == 1
    assert sparkline([], top=1.0) == ""
