"""Verdicts: only right answers pass, and what is wrong is said."""

from __future__ import annotations

import pytest

from h2q_notebook.bench.grade import grade
from h2q_notebook.bench.suite import Case, Grader

NUMBER = Case("n", "maths", 1, "?", Grader("number", number=40))
CALLS = Case(
    "c", "code", 1, "?",
    Grader("calls", entry="f", calls=(("f(1)", "[2]"), ("f(2)", "[3]")), cpu_s=2.0),
)  # fmt: skip
CHECK = Case(
    "k", "code", 1, "?",
    Grader(
        "check", entry="f", cpu_s=2.0,
        preamble="def helper(x):\n    return x + 1\n\ndef f(x):\n    pass\n",
        check="def check(candidate):\n    assert candidate(1) == helper(1)\n"
        "    assert candidate([1, 2]) == (2, 1)\n",
    ),
)  # fmt: skip


def code(body: str) -> str:
    return f"```python\n{body}\n```"


def test_a_marked_number_is_strict_and_a_last_one_is_not() -> None:
    assert grade(NUMBER, "Answer: 40").strict
    lucky = grade(NUMBER, "5 tickets are 40")
    assert lucky.passed
    assert not lucky.strict
    wrong = grade(NUMBER, "Answer: 41")
    assert (wrong.passed, wrong.reason) == (False, "answered 41, wanted 40")


def test_an_unfinished_thought_is_truncated_even_if_it_holds_the_answer() -> None:
    verdict = grade(NUMBER, "so the Answer: 40", opened=True)
    assert not verdict.passed
    assert verdict.truncated
    assert verdict.fences == {}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("I do not know.", "no code in the answer"),
        (code("def f(x:\n    return"), "SyntaxError"),
        (code("def g(x):\n    return [x + 1]"), r"f\(1\): NameError"),
        (code("def f(x):\n    return (x + 1,)"), r"f\(1\) gives \(2,\), wanted \[2\]"),
        (code("def f(x):\n    return [2]"), r"f\(2\) gives \[2\], wanted \[3\]"),
        (code("raise SystemExit(0)\ndef f(x): pass"), "SystemExit"),
        (code("def f(x):\n    return lambda: x"), "is a function, which is no plain value"),
        (code("def f(x):\n    while True: pass"), "more than 2 s of processor time"),
        (code("import time\ndef f(x):\n    time.sleep(60)"), "it took longer than 5 s"),
        (code("import numpy\ndef f(x):\n    return [x + 1]"), "ModuleNotFoundError"),
    ],
)
def test_code_that_does_not_do_it_says_why(text: str, says: str) -> None:
    import re

    verdict = grade(CALLS, text)
    assert not verdict.passed
    assert re.search(says, verdict.reason), verdict.reason


def test_right_code_passes_and_the_fences_are_told() -> None:
    verdict = grade(CALLS, code("def f(x):\n    return [x + 1]"))
    assert verdict.passed
    assert (verdict.checks_passed, verdict.checks_total) == (2, 2)
    assert verdict.fences["rlimits"] == "held"


def test_a_suites_own_check_judges_from_another_process() -> None:
    right = "def f(x):\n    return x + 1 if isinstance(x, int) else tuple(x[::-1])"
    assert grade(CHECK, code(right)).passed
    wrong = grade(CHECK, code("def f(x):\n    return helper(x)"))
    assert not wrong.passed
    assert "TypeError" in wrong.reason  # helper([1, 2]) fails where the code runs


def test_helpers_of_the_prompt_are_there_for_the_code() -> None:
    text = "def f(x):\n    return helper(x) if isinstance(x, int) else (x[1], x[0])"
    assert grade(CHECK, code(text)).passed


def test_printing_and_reading_do_not_disturb_the_conversation() -> None:
    text = (
        'print(\'{"value": ["int", "0x1"]}\')\nimport sys\nsys.stdout.flush()\n'
        "sys.stdin.read()\ndef f(x):\n    print('hello')\n    return [x + 1]"
    )
    assert grade(CALLS, code(text)).passed
