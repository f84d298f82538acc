"""Verdicts: an answer, a grader, and what the fenced process returned.

Expected values never leave this process. Values are compared here, type for type.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from h2q_notebook.bench.extract import code_of, number_of, split_thoughts, text_of
from h2q_notebook.bench.sandbox import Limits, Reply, Sandbox, SandboxError
from h2q_notebook.bench.suite import RAISES, Case, Grader
from h2q_notebook.bench.wire import same
from h2q_notebook.units import shorten

__all__ = ["Verdict", "grade"]

_CHECK_WALL_FACTOR = 2.5
"""Real time by processor time: starting up and passing calls on takes some, too."""
_CHECKER = Limits(cpu_s=60.0, wall_s=90.0)
_SHOWN = 160


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one answer."""

    passed: bool
    reason: str
    """Empty where it passed, else why not, in one line."""
    method: str
    """How the answer was found in the text."""
    strict: bool
    """The answer was marked as such; a number that merely came last was not."""
    truncated: bool = False
    checks_passed: int = 0
    checks_total: int = 0
    fences: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Found:
    """Code, and where it was."""

    code: str
    method: str


def grade(
    case: Case,
    text: str,
    *,
    opened: bool = False,
    sandbox: Callable[[Limits], Sandbox] = Sandbox,
) -> Verdict:
    """Judge what a model wrote.

    Args:
        case: the task.
        text: everything that was generated.
        opened: the prompt ended inside a thought.
        sandbox: starts a fenced process.
    """
    answer = split_thoughts(text, opened=opened)
    grader = case.grader
    if answer.truncated:
        why = "truncated: the thought never ended, so there is no answer"
        return Verdict(False, why, "none", True, truncated=True)
    if grader.kind == "number":
        return _grade_number(grader, answer.text)
    if grader.kind == "text":
        return _grade_text(grader, answer.text)
    code, method = code_of(answer.text, grader.entry)
    if not code.strip():
        return Verdict(False, "no code in the answer", method, True)
    why = _not_usable(code, grader)
    if why:
        return Verdict(False, why, method, method == "block")
    # Helpers that the prompt defines are there, too; the answer's own come last and win.
    code = f"{grader.preamble}\n\n{code}" if grader.preamble else code
    judge = _run_check if grader.kind == "check" else _run_calls
    return judge(grader, _Found(code, method), sandbox)


def _grade_number(grader: Grader, text: str) -> Verdict:
    found = number_of(text)
    if found is None:
        return Verdict(False, "no number in the answer", "none", True, checks_total=1)
    assert grader.number is not None
    wanted = Fraction(str(grader.number))
    good = found.value == wanted
    why = "" if good else f"answered {_plain(found.value)}, wanted {_plain(wanted)}"
    return Verdict(good, why, found.method, found.strict, checks_passed=int(good), checks_total=1)


def _plain(value: Fraction) -> str:
    return str(value) if value.denominator == 1 else f"{float(value):g}"


def _grade_text(grader: Grader, text: str) -> Verdict:
    said, how = text_of(text)
    good = said in {one.strip().casefold() for one in grader.accepted}
    why = "" if good else f"answered {shorten(said, 60)!r}, wanted {grader.accepted[0]!r}"
    return Verdict(good, why, how, how == "answer", checks_passed=int(good), checks_total=1)


def _not_usable(code: str, grader: Grader) -> str:
    """Why source cannot be run; empty if it can."""
    try:
        tree = ast.parse(code)
    except SyntaxError as error:
        return f"SyntaxError: {error.msg} (line {error.lineno})"
    except (ValueError, MemoryError, RecursionError) as error:
        return f"the code cannot be read ({type(error).__name__})"
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    used = names & set(grader.forbids)
    return f"uses {sorted(used)[0]}, which the task forbids" if used else ""


def _limits(grader: Grader) -> Limits:
    return Limits(cpu_s=grader.cpu_s, wall_s=grader.cpu_s * _CHECK_WALL_FACTOR)


def _run_calls(grader: Grader, found: _Found, sandbox: Callable[[Limits], Sandbox]) -> Verdict:
    passed, why, fences = 0, "", {}
    try:
        with sandbox(_limits(grader)) as box:
            fences = dict(box.fences)
            begun = box.run(found.code)
            why = begun.error or ""
            for expression, wanted in grader.calls if not why else ():
                wrong = _wrong(box.evaluate(expression), expression, wanted)
                passed += not wrong
                why = why or wrong
    except SandboxError as ended:
        why = why or str(ended)
    total = len(grader.calls)
    good = passed == total and not why
    return Verdict(good, why, found.method, True, False, passed, total, fences)


def _wrong(reply: Reply, expression: str, wanted: str) -> str:
    """What is wrong with one value; empty if nothing is."""
    raises = RAISES.fullmatch(wanted)
    if raises:
        got = reply.error or "no error"
        return "" if got.partition(":")[0] == raises[1] else f"{expression}: {got}, {wanted} wanted"
    if reply.error is not None:
        return f"{shorten(expression, _SHOWN)}: {shorten(reply.error, _SHOWN)}"
    expected: Any = ast.literal_eval(wanted)
    if same(expected, reply.value):
        return ""
    got = shorten(repr(reply.value), 80)
    return f"{shorten(expression, _SHOWN)} gives {got}, wanted {shorten(wanted, 80)}"


def _run_check(grader: Grader, found: _Found, sandbox: Callable[[Limits], Sandbox]) -> Verdict:
    """The suite's own function judges, in a process that never sees the generated code."""
    why: str | None = None
    fences: dict[str, str] = {}
    try:
        with sandbox(_limits(grader)) as box:
            fences = dict(box.fences)
            why = box.run(found.code).error
            if why is None:
                with sandbox(_CHECKER) as judge:
                    why = judge.check(grader.preamble, grader.check, grader.entry, box)
    except SandboxError as ended:
        why = str(ended)
    return Verdict(why is None, why or "", found.method, True, False, int(why is None), 1, fences)
