"""A history stays small, keeps the beginning and the end, and never loses a spike."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from h2q_notebook.readings.history import History

uses = st.lists(st.integers(0, 10**9), min_size=1, max_size=400)


@given(uses, st.integers(2, 20))
def test_it_never_holds_more_than_it_was_told(readings: list[int], keep: int) -> None:
    history = History(keep=keep, interval_s=0.05)
    for i, used in enumerate(readings):
        history.add(i * 0.05, used)
        assert len(history.points()) <= keep


@given(uses, st.integers(2, 20))
def test_the_highest_use_is_always_in_it(readings: list[int], keep: int) -> None:
    history = History(keep=keep, interval_s=0.05)
    for i, used in enumerate(readings):
        history.add(i * 0.011, used)
    assert max(used for _, used in history.points()) == max(readings)


@given(uses)
def test_it_begins_at_the_beginning_and_runs_forward(readings: list[int]) -> None:
    history = History(keep=10)
    for i, used in enumerate(readings):
        history.add(i * 0.02, used)
    times = [t for t, _ in history.points()]
    assert times[0] == 0
    assert times == sorted(times)


def test_points_within_one_interval_are_one_point() -> None:
    history = History(interval_s=0.05)
    for t_s, used in [(0.0, 5), (0.01, 9), (0.02, 7), (0.06, 1)]:
        history.add(t_s, used)
    assert history.points() == [(0.0, 9), (0.06, 1)]
