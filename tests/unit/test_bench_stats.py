"""The statistics agree with published values and with counting."""

from __future__ import annotations

import itertools

import pytest

from h2q_notebook.bench.stats import mcnemar, pass_at_k, quantile, wilson


@pytest.mark.parametrize(
    ("passed", "total", "low", "high"),
    [
        (4, 15, 0.1090, 0.5195), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0),
        (7, 15, 0.2481, 0.6988), (81, 263, 0.2553, 0.3662), (0, 0, 0.0, 1.0),
    ],
)  # fmt: skip
def test_wilsons_interval_is_the_published_one(
    passed: int, total: int, low: float, high: float
) -> None:
    # 81 of 263: Newcombe 1998, table I, method 3.
    assert wilson(passed, total) == pytest.approx((low, high), abs=2e-4)


@pytest.mark.parametrize(("passed", "total"), [(-1, 3), (4, 3)])
def test_counts_that_cannot_be_are_refused(passed: int, total: int) -> None:
    with pytest.raises(ValueError, match="of 3"):
        wilson(passed, total)


@pytest.mark.parametrize("n", [1, 4, 6])
def test_pass_at_k_is_the_share_of_all_draws_with_a_pass(n: int) -> None:
    for passed in range(n + 1):
        marks = [True] * passed + [False] * (n - passed)
        for k in range(1, n + 1):
            draws = [any(one) for one in itertools.combinations(marks, k)]
            assert pass_at_k(passed, n, k) == pytest.approx(sum(draws) / len(draws))


def test_pass_at_k_says_nothing_where_there_are_fewer_samples() -> None:
    assert pass_at_k(1, 3, 5) is None
    with pytest.raises(ValueError, match="k 0"):
        pass_at_k(1, 3, 0)


@pytest.mark.parametrize(
    ("wins", "losses", "p"),
    [(0, 0, 1.0), (5, 0, 0.0625), (6, 0, 0.03125), (6, 1, 0.125), (8, 1, 0.0390625), (3, 3, 1.0)],
)
def test_six_wins_without_a_loss_are_the_least_that_counts(
    wins: int, losses: int, p: float
) -> None:
    first = [1.0] * wins + [0.0] * losses + [1.0, 0.0]
    second = [0.0] * wins + [1.0] * losses + [1.0, 0.0]
    paired = mcnemar(first, second)
    assert (paired.first_better, paired.second_better) == (wins, losses)
    assert paired.p_value == pytest.approx(p)
    assert paired.distinguishable is (p < 0.05)


def test_shares_of_samples_are_compared_case_by_case() -> None:
    paired = mcnemar([0.8, 0.2, 0.5], [0.4, 0.2, 0.6])
    assert (paired.first_better, paired.second_better) == (1, 1)


def test_quantiles_lie_between_their_neighbours() -> None:
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile([0.0, 10.0], 0.95) == pytest.approx(9.5)
    assert quantile([7.0], 0.95) == 7.0
