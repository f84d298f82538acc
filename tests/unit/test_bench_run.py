"""Every case is asked, judged and kept before the next; what ends a run loses nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from h2q_notebook.bench.generation import Sampling
from h2q_notebook.bench.noise import Busy, judge_noise
from h2q_notebook.bench.outcome import CaseResult
from h2q_notebook.bench.run import Step, run_cases
from h2q_notebook.bench.stats import wilson
from h2q_notebook.errors import MemoryBudgetExceeded
from tests.support.benching import SUITE, FakeModel, stored


def test_all_cases_are_asked_in_order_and_kept_one_by_one() -> None:
    kept: list[CaseResult] = []
    steps: list[Step] = []
    model = FakeModel()
    run_cases(SUITE, Sampling(), model, kept.append, tell=steps.append)
    assert [one.case_id for one in kept] == [case.id for case in SUITE.cases]
    assert all(one.passed for one in kept)
    assert model.asked[0] == ("0 + 1", 0, 256)
    ended = [step for step in steps if step.result is not None]
    assert [step.done for step in ended] == list(range(1, 9))
    assert {step.planned for step in steps} == {8}
    assert kept[0].prompt == "<user>0 + 1"
    assert kept[0].ttft_s == 0.5


def test_samples_have_seeds_of_their_own_and_go_round_by_round() -> None:
    kept: list[CaseResult] = []
    model = FakeModel()
    run_cases(SUITE, Sampling(samples=2, temperature=0.7, seed=5), model, kept.append)
    assert [seed for _, seed, _ in model.asked] == [5] * 8 + [6] * 8
    assert [one.sample for one in kept] == [0] * 8 + [1] * 8


def test_only_what_has_no_answer_yet_is_asked() -> None:
    kept: list[CaseResult] = []
    steps: list[Step] = []
    already = {(case.id, 0) for case in SUITE.cases[:5]}
    run_cases(SUITE, Sampling(), FakeModel(), kept.append, already=already, tell=steps.append)
    assert [one.case_id for one in kept] == ["s/5", "s/6", "s/7"]
    assert steps[0].done == 5


def test_one_cases_failure_is_a_result_and_the_others_go_on() -> None:
    kept: list[CaseResult] = []
    model = FakeModel({"2 + 1": RuntimeError("no memory for this"), "3 + 1": "I do not know"})
    run_cases(SUITE, Sampling(), model, kept.append)
    assert [one.status for one in kept[2:4]] == ["error", "failed"]
    assert kept[2].reason == "RuntimeError: no memory for this"
    assert kept[3].reason == "no number in the answer"
    assert sum(one.passed for one in kept) == 6


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), MemoryBudgetExceeded("over")])
def test_a_stop_ends_the_run_and_what_was_kept_is_kept(stop: BaseException) -> None:
    kept: list[CaseResult] = []
    with pytest.raises(type(stop)):
        run_cases(SUITE, Sampling(), FakeModel({"4 + 1": stop}), kept.append)
    assert [one.case_id for one in kept] == ["s/0", "s/1", "s/2", "s/3"]


def test_memory_of_a_case_is_told_apart_from_what_it_leaves() -> None:
    kept: list[CaseResult] = []
    blocks: list[bytearray] = []

    class Hungry(FakeModel):
        def __call__(self, message: str, **how: object) -> object:  # type: ignore[override]
            block = bytearray(64 << 20)
            block[::4096] = b"x" * len(block[::4096])
            if message == "1 + 1":
                blocks.append(block)
            return super().__call__(message, **how)  # type: ignore[arg-type]

    run_cases(SUITE, Sampling(), Hungry(), kept.append)
    assert kept[0].peak_bytes > 60 << 20
    assert kept[0].retained_bytes < 16 << 20
    assert kept[1].retained_bytes > 60 << 20


def test_a_run_counts_itself(tmp_path: Path) -> None:
    wrong = {"1 + 1": "Answer: 3", "3 + 1": "it is 4", "5 + 1": RuntimeError("x")}
    run = stored(tmp_path, wrong)
    assert (run.passed, run.total, run.planned) == (6, 8, 8)
    assert run.strict_passed == 5
    assert run.tally("even").rate == 1.0
    assert (run.tally("odd").passed, run.tally("odd").total) == (2, 4)
    assert run.tokens_per_s == pytest.approx(10.0)
    assert run.pass_at(1) == pytest.approx(6 / 8)
    assert run.pass_at(2) is None


def test_pass_at_k_is_the_mean_over_the_cases(tmp_path: Path) -> None:
    run = stored(tmp_path, sampling=Sampling(samples=3, temperature=1.0))
    assert run.pass_at(3) == 1.0
    # 24 answers, but 8 cases: the interval is that of 8.
    assert run.tally().total == 24
    assert run.tally().interval == wilson(8, 8)
    assert run.scores() == {case.id: 1.0 for case in SUITE.cases}


@pytest.mark.parametrize(
    ("machine_s", "own_s", "threads", "cores", "noisy"),
    [
        (10.0, 10.0, 1, 2, False),  # alone
        (19.0, 10.0, 1, 2, False),  # others on the processor that was spare
        (19.0, 10.0, 2, 2, True),  # others on a processor that was wanted
        (11.5, 10.0, 2, 2, False),  # hardly anything
        (20.0, 5.0, 1, 2, True),  # more than was spare
    ],
)
def test_a_busy_machine_is_told_from_a_busy_bench(
    machine_s: float, own_s: float, threads: int, cores: int, noisy: bool
) -> None:
    noise = judge_noise(
        Busy(0.0, 0.0, 0.0), Busy(10.0, machine_s, own_s), threads=threads, cores=cores
    )
    assert noise.noisy is noisy
    assert bool(noise.why) is noisy
