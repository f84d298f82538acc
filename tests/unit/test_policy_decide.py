"""The kernel's state machine never stops below the ceiling, soon stops above, never dithers."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from h2q_notebook.policy.decide import Standing, Thresholds, after_cleaning, decide

LIMIT = 1000
PLAIN = Thresholds()


def walk(
    shares: list[float], tick_s: float = 0.5, freed: float = 0.0, took_s: float = 0.01
) -> list[str]:
    """What is done at each look."""
    standing, done = Standing(), []
    for at, share in enumerate(shares):
        now_s = at * tick_s
        standing, decision = decide(standing, int(share * LIMIT), LIMIT, now_s, PLAIN)
        if decision.action == "clean":
            standing = after_cleaning(
                standing, freed_bytes=int(freed * LIMIT), limit_bytes=LIMIT, took_s=took_s,
                now_s=now_s, thresholds=PLAIN,
            )  # fmt: skip
        done.append(decision.action)
    return done


def test_it_warns_once_and_again_only_after_it_was_calm() -> None:
    shares = [0.5, 0.81, 0.79, 0.82, 0.72, 0.85, 0.69, 0.81]
    assert walk(shares) == ["none", "warn", "none", "none", "none", "none", "calm", "warn"]


def test_cleaning_takes_no_more_than_its_share_of_time() -> None:
    # 0.1 s of cleaning, then 1.9 s of rest; each brings enough.
    done = walk([0.95] * 20, freed=0.1, took_s=0.1)
    assert [at for at, one in enumerate(done) if one == "clean"] == [0, 4, 8, 12, 16]


def test_cleaning_that_frees_nothing_twice_is_given_up_until_it_was_calm() -> None:
    done = walk([0.95] * 10 + [0.5] + [0.95] * 10, freed=0.0)
    assert done[:10].count("clean") == 2
    assert done[11:].count("clean") == 2


def test_one_reading_over_the_ceiling_stops_nothing() -> None:
    assert "stop" not in walk([0.95, 1.2, 0.95, 1.3, 0.6])
    assert walk([0.5, 1.2, 1.2])[-1] == "stop"


def test_stops_leave_time_to_give_memory_back() -> None:
    done = walk([1.5] * 9, tick_s=0.5)
    assert [at for at, one in enumerate(done) if one == "stop"] == [1, 3, 5, 7]


def test_a_ceiling_that_falls_below_what_is_used_counts_as_reached() -> None:
    standing = Standing()
    for now_s in (0.0, 1.0):
        standing, decision = decide(standing, 500, 0, now_s, PLAIN)
    assert decision.action == "stop"


RUNS = st.lists(
    st.tuples(
        st.floats(0.0, 2.0),  # share used
        st.floats(0.05, 2.0),  # seconds to the next look
        st.floats(0.0, 0.3),  # what a cleaning would free
        st.floats(0.0, 0.5),  # what it would take
        st.sampled_from([1.0, 1.0, 1.0, 0.5, 2.0]),  # how the ceiling moves
    ),
    min_size=50,
    max_size=50,
)


@settings(max_examples=2000, deadline=None)
@given(RUNS)
def test_whatever_happens_the_promises_hold(steps: list[tuple[float, ...]]) -> None:
    standing, now_s, limit = Standing(), 0.0, LIMIT
    over, since_stop_s, calm_since_warn = 0, 99.0, True
    cleaned_s, begun_s = 0.0, None
    for share, wait_s, freed, took_s, move in steps:
        limit = min(max(int(limit * move), 100), 10_000)
        used = int(share * limit)
        over = over + 1 if used >= limit else 0
        standing, decision = decide(standing, used, limit, now_s, PLAIN)
        if decision.action == "stop":
            assert over >= 2, "below the ceiling, or on one reading"
            assert since_stop_s >= 1.0
            since_stop_s = 0.0
        elif over >= 2:
            assert since_stop_s < 1.0, "over, and nothing was done in time"
        if used < PLAIN.release * limit:
            assert decision.action in ("none", "calm")
            calm_since_warn = True
        if decision.action == "warn":
            assert calm_since_warn, "warned twice without being calm in between"
            assert used >= PLAIN.warn * limit - 1
        if decision.action in ("warn", "clean", "stop"):
            calm_since_warn = False
        if decision.action == "clean":
            assert used >= PLAIN.clean * limit - 1
            begun_s = now_s if begun_s is None else begun_s
            assert cleaned_s <= PLAIN.clean_time_share * (now_s - begun_s) + 0.5
            now_s += took_s
            since_stop_s += took_s
            cleaned_s += took_s
            standing = after_cleaning(
                standing, freed_bytes=int(freed * limit), limit_bytes=limit, took_s=took_s,
                now_s=now_s, thresholds=PLAIN,
            )  # fmt: skip
        now_s += wait_s
        since_stop_s += wait_s
