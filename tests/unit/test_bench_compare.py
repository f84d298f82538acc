"""Runs are compared only where that says something, and luck is called luck."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from h2q_notebook.bench.compare import compare
from h2q_notebook.bench.generation import Sampling
from h2q_notebook.bench.suite import Suite
from h2q_notebook.errors import BadArgument
from h2q_notebook.views import bench_report
from h2q_notebook.views.bench_plots import comparison_figure
from tests.support.benching import SUITE, stored

WRONG = {f"{a} + 1": "Answer: 99" for a in range(8)}


def test_five_wins_of_eight_are_not_distinguishable_and_six_are(tmp_path: Path) -> None:
    best = stored(tmp_path)
    five = stored(tmp_path, dict(list(WRONG.items())[:5]))
    six = stored(tmp_path, dict(list(WRONG.items())[:6]))
    found = compare([best, five, six])
    assert found.contrasts[0].sentence.startswith("not distinguishable: ")
    assert "p = 0.0625" in found.contrasts[0].sentence
    assert found.contrasts[1].sentence.startswith(f"{found.columns[0].label} is better: ")
    assert found.columns[1].tallies["even"].passed == 1
    assert found.columns[1].scores == (0, 0, 0, 0, 0, 1, 1, 1)


def other_template() -> Suite:
    from h2q_notebook.bench.suite import parse_suite

    cases = [
        {"id": case.id, "category": case.category, "prompt": case.prompt, "grader": "number",
         "expected": case.grader.number}
        for case in SUITE.cases
    ]  # fmt: skip
    templates = {"even": "Please: {prompt}"}
    table = {"name": "sums", "version": "1", "templates": templates, "case": cases}
    return parse_suite(table, "sums")


def test_another_template_is_another_suite(tmp_path: Path) -> None:
    mine = stored(tmp_path)
    suite = other_template()
    theirs = stored(tmp_path, {f"Please: {a} + 1": "1" for a in range(8)}, suite=suite)
    with pytest.raises(BadArgument, match=r"another form of sums .* such results say nothing"):
        compare([mine, theirs])
    renamed = replace(suite, name="others", hash="x")
    theirs = stored(tmp_path, {f"Please: {a} + 1": "1" for a in range(8)}, suite=renamed)
    with pytest.raises(BadArgument, match="is of suite others"):
        compare([mine, theirs])


def test_one_run_or_the_same_twice_is_refused(tmp_path: Path) -> None:
    run = stored(tmp_path)
    with pytest.raises(BadArgument, match="at least two"):
        compare([run])
    with pytest.raises(BadArgument, match="with itself"):
        compare([run, run])


def test_what_else_differs_is_told(tmp_path: Path) -> None:
    first = stored(tmp_path)
    second = stored(tmp_path, sampling=Sampling(samples=2, temperature=0.7), dtype="float32")
    found = compare([first, replace(second, cases=second.cases[:4])])
    assert found.case_ids == ("s/0", "s/1", "s/2", "s/3")
    notes = " | ".join(found.notes)
    assert "only the 4 of 8 cases" in notes
    assert "differ in samples (1, 2)" in notes
    assert "differ in dtype (bfloat16, float32)" in notes


def test_the_plot_and_the_tables_show_every_case_and_run(tmp_path: Path) -> None:
    found = compare([stored(tmp_path), stored(tmp_path, WRONG)])
    figure = comparison_figure(found)
    heat = figure.data[0]
    assert list(heat.y) == list(found.case_ids)
    assert [list(row) for row in heat.z] == [[1.0, 0.0]] * 8
    rates = [one for one in figure.data if one.type == "scatter"]
    assert list(rates[0].y) == [1.0, 1.0, 1.0]
    assert rates[1].error_y.array[-1] == pytest.approx(found.columns[1].tallies["all"].interval[1])
    shown = bench_report.comparison(found)
    assert "8 of 8 passed" in shown["text/plain"]
    assert shown["text/html"].count("✗") == 8


def test_a_report_says_what_holds_and_escapes_what_models_write(tmp_path: Path) -> None:
    run = stored(tmp_path, {"1 + 1": RuntimeError("<script>alert(1)</script>"), "3 + 1": "is 4"})
    shown = bench_report.bundle(run)
    assert "7 of 8 passed (95 % interval" in shown["text/plain"]
    assert "1 passed by the last number" in shown["text/plain"]
    assert "even: 4 of 4 passed" in shown["text/plain"]
    assert "<script" not in shown["text/html"]
    assert str(run.path) in shown["text/plain"]
    fenced = replace(run.cases[0], fences={"landlock": "needs Linux", "rlimits": "held"})
    shown = bench_report.bundle(replace(run, cases=(fenced,), status="incomplete"))
    assert "no security boundary here; not held: landlock (needs Linux)" in shown["text/plain"]
    assert f"--resume {run.run_id[-6:]} goes on" in shown["text/plain"]


def test_several_samples_are_one_row_a_case(tmp_path: Path) -> None:
    run = stored(tmp_path, {"1 + 1": "Answer: 3"}, sampling=Sampling(samples=3, temperature=1.0))
    shown = bench_report.bundle(run)["text/plain"]
    rows = [line for line in shown.splitlines() if line.startswith("  s/")]
    assert len(rows) == 8
    assert "0 of 3" in rows[1]
    assert "answered 3, wanted 2" in rows[1]
    assert "3 of 3" in rows[2]
    assert "pass@1 88%" in shown
