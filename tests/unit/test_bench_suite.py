"""Suites are data: what is wrong in one is named, and what comes with h2q proves itself."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from benchmarks.train_tiny_deepseek import pairs
from h2q_notebook.bench.grade import grade
from h2q_notebook.bench.suite import Case, built_in_suites, load_suite, parse_suite
from h2q_notebook.errors import BadArgument

GOOD: dict[str, Any] = {
    "name": "mine",
    "version": "1",
    "templates": {"code": "Do: {prompt} ({entry})"},
    "case": [
        {
            "id": "a", "category": "code", "level": 2, "prompt": "double", "grader": "calls",
            "entry": "f", "calls": [["f(2)", "4"], ["f('x')", "raises TypeError"]],
        },
        {"id": "b", "category": "words", "prompt": "?", "grader": "text", "expected": ["Paris"]},
    ],
}  # fmt: skip


def answers(case: Case) -> tuple[str, list[str]]:
    """The reference and the near misses, dressed as a model would."""
    if case.grader.kind in ("calls", "check"):
        dress = "Here it is:\n\n```python\n{}\n```\n\nIt works.".format
    else:
        dress = "{}".format
    return dress(case.reference), [dress(one) for one in case.near_misses]


BUILT_IN = [case for name in built_in_suites() for case in load_suite(name).cases]


@pytest.mark.parametrize("case", BUILT_IN, ids=lambda case: case.id)
def test_the_reference_passes_and_every_near_miss_fails(case: Case) -> None:
    reference, near_misses = answers(case)
    verdict = grade(case, reference)
    assert verdict.passed, verdict.reason
    assert verdict.checks_passed == verdict.checks_total
    assert len(near_misses) >= 2
    for one in near_misses:
        verdict = grade(case, one)
        assert not verdict.passed, one
        assert verdict.reason


def test_the_fifteen_are_five_of_each_from_level_one_to_five() -> None:
    suite = load_suite("h2q-15")
    assert suite.categories == ("code", "maths", "algorithms")
    for category in suite.categories:
        levels = [case.level for case in suite.cases if case.category == category]
        assert levels == [1, 2, 3, 4, 5]


def test_no_prompt_gives_its_number_away() -> None:
    for case in load_suite("h2q-15").cases:
        if case.grader.kind == "number":
            assert str(case.grader.number) not in case.prompt.replace(",", "")


def test_the_sums_were_never_seen_in_training() -> None:
    held_out, seen = pairs()
    for case in load_suite("addition-20").cases:
        a, b = (int(part) for part in case.prompt.split(" + "))
        assert (a, b) in held_out
        assert (a, b) not in seen
        assert case.grader.number == a + b


@pytest.mark.parametrize("suffix", ["json", "toml"])
def test_a_suite_of_ones_own_is_a_file(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"mine.{suffix}"
    toml = (
        'name = "mine"\nversion = "1"\n[templates]\ncode = "Do: {prompt} ({entry})"\n'
        '[[case]]\nid = "a"\ncategory = "code"\nlevel = 2\nprompt = "double"\ngrader = "calls"\n'
        'entry = "f"\ncalls = [["f(2)", "4"], ["f(\'x\')", "raises TypeError"]]\n'
        '[[case]]\nid = "b"\ncategory = "words"\nprompt = "?"\ngrader = "text"\n'
        'expected = ["Paris"]\n'
    )
    path.write_text(json.dumps(GOOD) if suffix == "json" else toml)
    suite = load_suite(str(path))
    assert suite.hash == parse_suite(GOOD, "mine").hash
    assert suite.ask(suite.cases[0]) == "Do: double (f)"
    assert suite.ask(suite.cases[1]) == "?"
    assert grade(suite.cases[0], "```python\ndef f(x):\n    return x + x + 0\n```").passed
    assert grade(suite.cases[1], "Answer: paris.").passed
    assert not grade(suite.cases[1], "Answer: London").passed


def changed(**at: Any) -> dict[str, Any]:
    """GOOD with fields of its first case (or, with ``top_``, of its top) changed."""
    suite = deepcopy(GOOD)
    for name, value in at.items():
        table = suite if name.startswith("top_") else suite["case"][0]
        key = name.removeprefix("top_")
        if value is None:
            del table[key]
        else:
            table[key] = value
    return suite


@pytest.mark.parametrize(
    "other",
    [
        changed(top_templates={"code": "Do it: {prompt} ({entry})"}), changed(prompt="twice"),
        changed(calls=[["f(2)", "5"]]), changed(top_version="2"), changed(top_system="Be brief."),
        changed(top_max_new_tokens=99), changed(cpu_s=9.0),
    ],
)  # fmt: skip
def test_every_word_and_every_check_is_part_of_the_hash(other: dict[str, Any]) -> None:
    assert parse_suite(other, "mine").hash != parse_suite(GOOD, "mine").hash


@pytest.mark.parametrize(
    ("suite", "says"),
    [
        ([], "mine must be a table"),
        (changed(top_name=None), "mine: name is missing"),
        (changed(top_case=[]), "case must be a list with at least one"),
        (changed(top_templates={"code": "no place"}), r"texts that contain \{prompt\}"),
        (changed(top_sytem="x"), "mine: sytem is not a field; did you mean system"),
        (changed(level=6), "case 1: level must be from 1 to 5"),
        (changed(level=1.5), "case 1: level must be a whole number"),
        (changed(prompt=3), "case 1: prompt must be a text"),
        (changed(grader="vibes"), "case 1: grader must be one of calls, check, number, text"),
        (changed(entry="no name"), "case 1: entry must be a name"),
        (changed(calls=[["f(", "4"]]), "case 1: calls has .* where one part is not Python"),
        (changed(calls=[["f(2)", "g(4)"]]), "no literal"),
        (changed(calls=["f(2)"]), "calls must be a list of .expression, value., both texts"),
        (changed(promt="x"), "promt is not a field; did you mean prompt"),
        (changed(id="b"), "two of id 'b'"),
        (changed(grader="number", entry=None, calls=None), "case 1: expected is missing"),
        (changed(cpu_s=10_000), "cpu_s must be from 0.1 to 600"),
    ],
)
def test_what_is_wrong_in_a_suite_is_named(suite: Any, says: str) -> None:
    with pytest.raises(BadArgument, match=says):
        parse_suite(suite, "mine")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("h2q15", "did you mean h2q-15"),
        ("qqq", "there are addition-20, h2q-15, humaneval"),
        ("absent.toml", "'absent.toml' cannot be read: No such file"),
    ],
)
def test_an_unknown_suite_names_the_nearest(name: str, says: str) -> None:
    with pytest.raises(BadArgument, match=says):
        load_suite(name)


def test_a_file_that_is_no_toml_is_refused(tmp_path: Path) -> None:
    for name, text in (("a.toml", "= 1"), ("a.json", "{")):
        (tmp_path / name).write_text(text)
        with pytest.raises(BadArgument, match=r"is not (TOML|JSON)"):
            load_suite(str(tmp_path / name))
