"""How near the limit is, without flicker, and when it will be reached."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h2q_notebook.policy.trend import Level, level_of, seconds_to_limit


@pytest.mark.parametrize(
    ("used", "before", "level"),
    [
        (0, "calm", "calm"),
        (79, "calm", "calm"),
        (80, "calm", "warn"),
        (90, "calm", "clean"),
        (100, "calm", "over"),
        (75, "warn", "warn"),
        (70, "over", "warn"),
        (69, "over", "calm"),
        (85, "clean", "warn"),
    ],
)
def test_levels_are_entered_and_left_at_different_marks(
    used: int, before: Level, level: Level
) -> None:
    assert level_of(used, 100, before) == level


@given(st.integers(0, 10**12), st.integers(-5, 0))
def test_a_limit_of_nothing_counts_as_reached(used: int, limit: int) -> None:
    assert level_of(used, limit) == "over"


@given(st.integers(70, 79), st.lists(st.integers(70, 79), max_size=30))
def test_a_use_that_trembles_between_the_marks_does_not_flicker(
    first: int, later: list[int]
) -> None:
    level: Level = "warn"
    for used in (first, *later):
        level = level_of(used, 100, level)
        assert level == "warn"


def line(rate: float, n: int = 20, step_s: float = 0.1) -> list[tuple[float, int]]:
    return [(i * step_s, round(1000 + rate * i * step_s)) for i in range(n)]


@given(st.integers(200, 100_000))
def test_a_steady_rise_is_forecast(rate: int) -> None:
    points = line(rate)
    limit = points[-1][1] + 5 * rate
    assert seconds_to_limit(points, limit) == pytest.approx(5.0, rel=0.02)


@pytest.mark.parametrize("points", [[], line(1000, n=5), line(0), line(-500)])
def test_no_growth_or_too_little_known_means_no_forecast(points: list[tuple[float, int]]) -> None:
    assert seconds_to_limit(points, 10**9) is None


def test_one_spike_makes_no_alarm() -> None:
    points = line(0)
    points[10] = (points[10][0], 10**9)
    assert seconds_to_limit(points, 2 * 10**9) is None


def test_a_limit_already_passed_is_reached_now() -> None:
    assert seconds_to_limit(line(1000), 0) == 0.0


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 10**12)), max_size=60))
def test_a_forecast_is_never_negative(points: list[tuple[float, int]]) -> None:
    left_s = seconds_to_limit(sorted(points), 10**9)
    assert left_s is None or left_s >= 0
