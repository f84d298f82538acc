"""When a cell is struck: over its limit and never under it, again and again until it has left."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h2q_notebook.policy.strikes import NO_ACT, Act, Cause, Orders, Standing, View, judge

LIMIT = 400
ORDERS = Orders(limit_bytes=LIMIT)

uses = st.integers(0, 2 * LIMIT)


def view(
    now_s: float, own: int, extra: int = 0, *, unwound: bool = False, stop: bool = False
) -> View:
    return View(now_s=now_s, own_bytes=own, extra_bytes=extra, unwound=unwound, stop_requested=stop)


def run(orders: Orders, views: list[View]) -> list[tuple[float, Act]]:
    """The acts of a whole cell, with their times."""
    standing, acts = Standing(), []
    for look in views:
        standing, act = judge(orders, standing, look)
        if act.strike:
            acts.append((look.now_s, act))
    return acts


@given(st.lists(st.integers(0, LIMIT), max_size=60))
def test_a_cell_under_its_limit_is_never_struck(readings: list[int]) -> None:
    assert run(ORDERS, [view(i * 0.005, own) for i, own in enumerate(readings)]) == []


@given(st.integers(0, LIMIT), st.integers(0, LIMIT))
def test_own_and_extra_count_together(own: int, extra: int) -> None:
    struck = bool(run(ORDERS, [view(0.0, own, extra)]))
    assert struck is (own + extra > LIMIT)


@given(st.lists(uses, max_size=20), st.integers(1, 20))
def test_a_cell_that_stays_over_is_struck_within_one_interval(
    before: list[int], over_looks: int
) -> None:
    # 5 ms between looks, 50 ms between strikes: eleven looks over the line always hold a strike.
    looks = [view(i * 0.005, own) for i, own in enumerate(before)]
    start = len(looks)
    looks += [view((start + i) * 0.005, LIMIT + 1) for i in range(over_looks + 10)]
    times = [t for t, _ in run(ORDERS, looks)]
    assert any(t >= start * 0.005 - 1e-9 for t in times)


@given(st.lists(uses, min_size=1, max_size=80))
def test_two_strikes_are_never_closer_than_the_interval(readings: list[int]) -> None:
    times = [t for t, _ in run(ORDERS, [view(i * 0.005, own) for i, own in enumerate(readings)])]
    assert all(b - a >= ORDERS.strike_interval_s - 1e-9 for a, b in pairwise(times))


@given(uses, uses, st.booleans(), st.floats(0, 100))
def test_a_cell_that_has_been_left_is_never_struck(
    own: int, extra: int, stop: bool, now_s: float
) -> None:
    orders = replace(ORDERS, timeout_s=1.0)
    _, act = judge(orders, Standing(strikes=3), view(now_s, own, extra, unwound=True, stop=stop))
    assert act is NO_ACT


@given(uses, st.integers(0, 2 * LIMIT))
def test_raise_moves_the_limit(own: int, extra_budget: int) -> None:
    raised = replace(ORDERS, limit_bytes=LIMIT + extra_budget)
    _, act = judge(raised, Standing(), view(0.1, own))
    assert bool(act.strike) is (own > LIMIT + extra_budget)


@given(st.lists(uses, min_size=1, max_size=40))
def test_looking_on_only_keeps_the_record(readings: list[int]) -> None:
    orders = replace(ORDERS, strike=False)
    standing = Standing()
    for i, own in enumerate(readings):
        standing, act = judge(orders, standing, view(i * 0.005, own))
        assert act is NO_ACT
    assert (standing.first_over_s is not None) is any(own > LIMIT for own in readings)


def test_the_first_moment_over_the_limit_is_remembered() -> None:
    standing = Standing()
    for now_s, own in [(0.0, 10), (0.5, LIMIT + 5), (0.6, 10), (0.7, LIMIT + 9)]:
        standing, _ = judge(ORDERS, standing, view(now_s, own))
    assert standing.first_over_s == 0.5


@pytest.mark.parametrize(
    ("look", "cause"),
    [
        (view(0.1, LIMIT + 1), Cause.MEMORY),
        (view(9.0, 0), Cause.TIMEOUT),
        (view(0.1, 0, stop=True), Cause.REQUEST),
        (view(9.0, LIMIT + 1, stop=True), Cause.REQUEST),
        (view(9.0, LIMIT + 1), Cause.MEMORY),
    ],
)
def test_the_cause_of_a_strike_is_told(look: View, cause: Cause) -> None:
    _, act = judge(replace(ORDERS, timeout_s=9.0), Standing(), look)
    assert act.cause is cause


def test_the_cause_of_the_first_strike_stays() -> None:
    standing, first = judge(ORDERS, Standing(), view(0.1, LIMIT + 1))
    _, second = judge(ORDERS, standing, view(1.0, 0, stop=True))
    assert (first.cause, second.cause) == (Cause.MEMORY, Cause.MEMORY)
    assert second.strike == 2


@pytest.mark.parametrize(
    ("own", "extra", "freeze"),
    [(10, LIMIT, True), (LIMIT + 1, 0, False), (LIMIT + 1, LIMIT, False)],
)
def test_children_are_frozen_only_if_they_are_what_is_over(
    own: int, extra: int, freeze: bool
) -> None:
    _, act = judge(ORDERS, Standing(), view(0.1, own, extra))
    assert act.freeze_children is freeze


@given(st.integers(0, 30), uses)
def test_without_strict_nothing_is_ever_clamped(strikes: int, own: int) -> None:
    _, act = judge(ORDERS, Standing(strikes=strikes), view(1.0, own))
    assert act.clamp is False


def test_strict_clamps_from_the_strike_it_names() -> None:
    orders = replace(ORDERS, clamp_at_strike=3)
    clamps = [judge(orders, Standing(strikes=n), view(1.0, LIMIT + 1))[1].clamp for n in range(4)]
    assert clamps == [False, False, True, True]


def test_a_cell_that_resists_is_insisted_on() -> None:
    insists = [
        judge(ORDERS, Standing(strikes=n), view(1.0, LIMIT + 1))[1].insist
        for n in (0, ORDERS.insist_at_strike - 2, ORDERS.insist_at_strike - 1)
    ]
    assert insists == [False, False, True]
