"""One run: every case asked, judged, measured and kept, in order.

Covers the order of things. Asking, judging, reading memory and telling are passed in, so that a
test can replace each.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from h2q_notebook.bench.generation import Generate, Generation, Sampling
from h2q_notebook.bench.grade import Verdict, grade
from h2q_notebook.bench.outcome import CaseResult
from h2q_notebook.bench.suite import Case, Suite
from h2q_notebook.guardian.peak import PeakMark, peak_above
from h2q_notebook.readings.process import ProcessMemory, read_process
from h2q_notebook.units import shorten

__all__ = ["Step", "run_cases"]


@dataclass(frozen=True, slots=True)
class Step:
    """Where a run is."""

    case: Case
    sample: int
    done: int
    """Answers judged so far."""
    planned: int
    tokens: int = 0
    """Of the answer being written."""
    max_new_tokens: int = 0
    grading: bool = False
    result: CaseResult | None = None
    """Set once this answer has been judged."""


Watcher = Callable[[Step], None]


def run_cases(
    suite: Suite,
    sampling: Sampling,
    generate: Generate,
    keep: Callable[[CaseResult], None],
    *,
    already: Collection[tuple[str, int]] = (),
    tell: Watcher = lambda step: None,
    judge: Callable[..., Verdict] = grade,
    read: Callable[[], ProcessMemory] = read_process,
) -> None:
    """Ask every case that has no answer yet.

    Args:
        suite: the cases.
        sampling: how answers are drawn.
        generate: answers a message.
        keep: stores one result; called before the next case begins.
        already: case ids and samples that are answered.
        tell: shows where the run is.
        judge: as ``grade``.
        read: reads this process's memory.

    Raises:
        BaseException: an interrupt, a stop, an overrun; what was kept is kept.
    """
    limit = sampling.max_new_tokens or suite.max_new_tokens
    order = [(case, sample) for sample in range(sampling.samples) for case in suite.cases]
    left = [(case, sample) for case, sample in order if (case.id, sample) not in set(already)]
    done = len(order) - len(left)
    for case, sample in left:
        step = Step(case, sample, done, len(order), max_new_tokens=limit)
        tell(step)
        result = _one(suite, step, sampling.seed + sample, generate, tell, judge, read)
        keep(result)
        done += 1
        tell(replace(step, done=done, result=result))


def _one(
    suite: Suite,
    step: Step,
    seed: int,
    generate: Generate,
    tell: Watcher,
    judge: Callable[..., Verdict],
    read: Callable[[], ProcessMemory],
) -> CaseResult:
    """One answer, measured around the model alone, then judged."""
    case = step.case
    start = CaseResult(case.id, case.category, case.level, step.sample, seed, "error", "")
    mark, base = PeakMark(), read()
    try:
        made = generate(
            suite.ask(case),
            system=suite.system,
            max_new_tokens=step.max_new_tokens,
            seed=seed,
            on_token=lambda n: tell(replace(step, tokens=n)),
        )
    except Exception as error:  # one case's failure is a result; a stop is none and goes on up
        return replace(
            start,
            reason=f"{type(error).__name__}: {shorten(str(error), 200)}",
            finish="error",
            prompt=suite.ask(case),
        )
    finally:
        end = read()
        peak_rss = mark.close(end.peak_rss_bytes)
    peak, exact = peak_above(base, replace(end, peak_rss_bytes=peak_rss), 0)
    tell(replace(step, tokens=made.new_tokens, grading=True))
    began_s = time.perf_counter()
    verdict = judge(case, made.text, opened=made.opened)
    return replace(
        _measured(start, made, verdict),
        grade_s=time.perf_counter() - began_s,
        peak_bytes=peak,
        peak_is_exact=exact,
        retained_bytes=end.used_bytes - base.used_bytes,
    )


def _measured(start: CaseResult, made: Generation, verdict: Verdict) -> CaseResult:
    status = "passed" if verdict.passed else "truncated" if verdict.truncated else "failed"
    reason = verdict.reason
    if status == "failed" and made.finish == "length":
        reason += f" (cut after {made.new_tokens} tokens)"
    return replace(
        start,
        status=status,
        reason=reason,
        method=verdict.method,
        strict=verdict.strict,
        checks_passed=verdict.checks_passed,
        checks_total=verdict.checks_total,
        prompt_tokens=made.prompt_tokens,
        new_tokens=made.new_tokens,
        finish=made.finish,
        ttft_s=made.ttft_s,
        tpot_s=made.tpot_s,
        itl_p50_s=made.itl_p50_s,
        itl_p95_s=made.itl_p95_s,
        end_to_end_s=made.end_to_end_s,
        cpu_s=made.cpu_s,
        prompt=made.prompt,
        completion=made.text,
        fences=dict(verdict.fences),
    )
