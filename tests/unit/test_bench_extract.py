"""The answer is found where a reader would find it, and an unfinished thought is none."""

from __future__ import annotations

from fractions import Fraction

import pytest

from h2q_notebook.bench.extract import (
    code_of,
    number_of,
    split_thoughts,
    text_of,
    thought_is_open,
)


@pytest.mark.parametrize(
    ("text", "opened", "answer", "truncated"),
    [
        ("Answer: 4", False, "Answer: 4", False),
        ("<think>2+2\n</think>\n\nAnswer: 4", False, "Answer: 4", False),
        ("2+2\n</think>\nAnswer: 4", True, "Answer: 4", False),
        ("2+2, so Answer: 4", True, "", True),
        ("<think>2+2, so Answer: 4", False, "", True),
        ("a</think>b</think>c", True, "c", False),
        ("[THINK]x[/THINK]y", False, "y", False),
    ],
)
def test_thoughts_are_taken_off(text: str, opened: bool, answer: str, truncated: bool) -> None:
    found = split_thoughts(text, opened=opened)
    assert (found.text, found.truncated) == (answer, truncated)


def test_a_template_that_opens_a_thought_is_seen() -> None:
    assert thought_is_open("<user>hi<assistant><think>\n")
    assert not thought_is_open("<user>say <think> twice</think><assistant>")
    assert not thought_is_open("<user>hi<assistant><think>\n\n</think>\n")


FENCED = "Use it:\n```python\nprint(f(2))\n```\nHere:\n```py\ndef f(x):\n    return x\n```\n"


@pytest.mark.parametrize(
    ("text", "code", "method"),
    [
        (FENCED, "def f(x):\n    return x\n", "block"),
        ("```\nf = abs\n```", "f = abs\n", "block"),
        ("```python\ndef f(x):\n    return x", "def f(x):\n    return x", "block"),
        ("```python\ndef g(x):\n    return x\n```", "def g(x):\n    return x\n", "blocks"),
        ("```bash\npip install f\n```\nno code", "", "none"),
        ("Sure!\ndef f(x):\n    return x", "def f(x):\n    return x", "bare"),
        ("1. like this:\n   ```python\n   def f(x):\n       return x\n   ```",
         "def f(x):\n    return x\n", "block"),
        ("I cannot.", "", "none"),
    ],
)  # fmt: skip
def test_code_is_the_block_that_defines_the_name(text: str, code: str, method: str) -> None:
    assert code_of(text, "f") == (code, method)


@pytest.mark.parametrize(
    ("text", "value", "method"),
    [
        ("so \\boxed{1,265}. Answer: 3", 1265, "boxed"),
        ("\\boxed{\\$12.50}", Fraction(25, 2), "boxed"),
        ("**Final answer:** 66", 66, "answer"),
        ("The answer is **42**.", 42, "answer"),
        ("Answer: $1,000,000", 1_000_000, "answer"),
        ("Answer: -3", -3, "answer"),
        ("Answer: −3", -3, "answer"),
        ("Answer: 3/4", Fraction(3, 4), "answer"),
        ("first Answer: 1, no, Answer: 2", 2, "answer"),
        ("5 * 8 = 40\n#### 40", 40, "hashes"),
        ("5 tickets cost 40 dollars.", 40, "last"),
    ],
)  # fmt: skip
def test_a_number_is_taken_from_the_strongest_mark(text: str, value: Fraction, method: str) -> None:
    found = number_of(text)
    assert found is not None
    assert (found.value, found.method) == (value, method)
    assert found.strict is (method != "last")


@pytest.mark.parametrize("text", ["", "none", "Answer: many", "Answer: 1/0"])
def test_no_number_is_none(text: str) -> None:
    assert number_of(text) is None


def test_a_text_answer_is_compared_without_its_dress() -> None:
    assert text_of("I think.\nAnswer: **Paris**.") == ("paris", "answer")
    assert text_of(" Paris \n") == ("paris", "whole")
