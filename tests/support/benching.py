"""A suite, a generator and runs for tests that need no model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from h2q_notebook.bench.about import about_suite
from h2q_notebook.bench.generation import Generation, Sampling
from h2q_notebook.bench.outcome import BenchRun, CaseResult
from h2q_notebook.bench.run import run_cases
from h2q_notebook.bench.store import RunStore
from h2q_notebook.bench.suite import Suite, parse_suite

__all__ = ["SUITE", "FakeModel", "about", "stored"]

SUITE: Suite = parse_suite(
    {
        "name": "sums",
        "version": "1",
        "case": [
            {"id": f"s/{a}", "category": "even" if a % 2 == 0 else "odd", "prompt": f"{a} + 1",
             "grader": "number", "expected": a + 1}
            for a in range(8)
        ],
    },
    "sums",
)  # fmt: skip


class FakeModel:
    """Answers from a table; whatever is not in it is right.

    Args:
        answers: texts, or exceptions to raise, by prompt.
    """

    def __init__(self, answers: Mapping[str, str | BaseException] | None = None) -> None:
        self.answers = dict(answers or {})
        self.asked: list[tuple[str, int, int]] = []

    def __call__(
        self,
        message: str,
        *,
        system: str | None,
        max_new_tokens: int,
        seed: int,
        on_token: Callable[[int], None],
    ) -> Generation:
        self.asked.append((message, seed, max_new_tokens))
        answer = self.answers.get(message, f"Answer: {int(message.split(maxsplit=1)[0]) + 1}")
        if isinstance(answer, BaseException):
            raise answer
        on_token(1)
        return Generation(
            text=answer, prompt=f"<user>{message}", opened=False, prompt_tokens=3, new_tokens=5,
            finish="stop", ttft_s=0.5, tpot_s=0.1, itl_p50_s=0.1, itl_p95_s=0.2, end_to_end_s=0.9,
            cpu_s=0.8,
        )  # fmt: skip


def about(suite: Suite = SUITE, sampling: Sampling | None = None, **model: Any) -> dict[str, Any]:
    sampling = sampling or Sampling()
    return {
        "suite": about_suite(suite, suite.name),
        "sampling": {**sampling.as_dict(), "max_new_tokens": suite.max_new_tokens},
        "model": {"label": "fake", "rung": "bf16", "dtype": "bfloat16", **model},
        "threads": 1,
    }


def stored(
    root: Path,
    answers: Mapping[str, str | BaseException] | None = None,
    *,
    suite: Suite = SUITE,
    sampling: Sampling | None = None,
    keep: Callable[[CaseResult], None] | None = None,
    **model: Any,
) -> BenchRun:
    """A complete run in a store under *root*."""
    store = RunStore(root)
    writer = store.create(about(suite, sampling, **model))
    run_cases(suite, sampling or Sampling(), FakeModel(answers), keep or writer.add)
    writer.end("complete", summary={"passed": 0, "total": 0})
    return store.load(writer.run_id)
