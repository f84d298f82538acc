"""The few statistics of a bench: intervals, pass@k, an exact paired test, quantiles.

Pure. Fifteen cases are few, and these say how few: 7 of 15 is anything from 25 to 70 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Paired", "mcnemar", "pass_at_k", "quantile", "wilson"]

_Z95 = 1.959963984540054  # the 97.5 % point of the normal distribution


def wilson(passed: float, total: int) -> tuple[float, float]:
    """The 95 % score interval of a rate, 0.0 to 1.0.

    Wilson 1927, "Probable inference, the law of succession, and statistical inference"; unlike the
    textbook interval it holds for few cases and for rates of 0 and 1.

    Args:
        passed: how many; a part of one where a case was tried several times.
        total: of how many independent ones.
    """
    if not 0 <= passed <= total:
        raise ValueError(f"{passed} of {total}")
    if not total:
        return 0.0, 1.0
    rate, square = passed / total, _Z95 * _Z95
    middle = rate + square / (2 * total)
    half = _Z95 * math.sqrt(rate * (1 - rate) / total + square / (4 * total * total))
    scale = 1 + square / total
    low, high = (middle - half) / scale, (middle + half) / scale
    # At the ends the formula is exact, but floating point leaves a last digit.
    return (0.0 if passed == 0 else low), (1.0 if passed == total else high)


def pass_at_k(passed: int, samples: int, k: int) -> float | None:
    """The chance that one of *k* samples passes, unbiased; None where there are fewer samples.

    Chen et al. 2021, "Evaluating Large Language Models Trained on Code", equation 1.
    """
    if k < 1 or not 0 <= passed <= samples:
        raise ValueError(f"{passed} of {samples}, k {k}")
    if samples < k:
        return None
    return 1.0 - math.comb(samples - passed, k) / math.comb(samples, k)


@dataclass(frozen=True, slots=True)
class Paired:
    """Two runs over the same cases."""

    first_better: int
    second_better: int
    p_value: float

    @property
    def distinguishable(self) -> bool:
        """At the 5 % level."""
        return self.p_value < 0.05


def mcnemar(first: Sequence[float], second: Sequence[float]) -> Paired:
    """An exact two-sided test of whether one run is better, case by case.

    Ties say nothing; of the others each is a coin's toss if the runs are alike (McNemar 1947, with
    the binomial in the place of its chi square). Six wins without a loss are the least that counts.

    Args:
        first: a score for each case (1.0 or 0.0, or the share of its samples).
        second: the other run's, in the same order.
    """
    better = sum(a > b for a, b in zip(first, second, strict=True))
    worse = sum(a < b for a, b in zip(first, second, strict=True))
    n = better + worse
    tail = sum(math.comb(n, i) for i in range(min(better, worse) + 1))
    return Paired(better, worse, min(1.0, 2 * tail / 2**n))


def quantile(values: Sequence[float], share: float) -> float:
    """By linear interpolation between the two nearest values.

    Args:
        values: at least one.
        share: 0.0 to 1.0.
    """
    ordered = sorted(values)
    at = share * (len(ordered) - 1)
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)
