"""What to do about the whole kernel's memory: a state machine, pure.

calm -> warn at 80 % (told once) -> clean at 90 % (throttled, and given up where it frees nothing)
-> stop at 100 % (never on one reading alone) -> calm again below 70 %. Anchors: the kubelet's
hysteresis and minimum reclaim, dask's share of time for collecting, the JVM's "98 % of the time for
2 % of the heap", earlyoom's second look before it kills.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from h2q_notebook.units import format_bytes

__all__ = [
    "Action",
    "Decision",
    "Standing",
    "Thresholds",
    "after_cleaning",
    "decide",
    "reason_to_wait",
]

Action = Literal["none", "warn", "clean", "stop", "calm"]
_LOOKS_BEFORE_STOP = 2
_STOP_INTERVAL_S = 1.0
"""Between two stops: what was stopped needs time to give its memory back."""
_MIN_FREED_SHARE = 0.02
_STALLED_SHARE = 0.20
"""Of ten seconds in which everything waited for memory; systemd-oomd kills at 0.60 for 30 s."""
_IDLE_CLEANS = 2
"""After so many cleanings that freed next to nothing there is no further one before it is calm."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Shares of the ceiling, rising."""

    release: float = 0.70
    warn: float = 0.80
    clean: float = 0.90
    clean_time_share: float = 0.05
    """Most of the time that cleaning may take; 0 never cleans."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What is remembered from look to look."""

    warned: bool = False
    """Since it was last calm."""
    looks_over: int = 0
    """In a row, this one included."""
    next_clean_s: float = 0.0
    idle_cleans: int = 0
    next_stop_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Decision:
    """One act at most, and why."""

    action: Action
    reason: str = ""


_NOTHING = Decision("none")


def decide(
    standing: Standing, used_bytes: int, limit_bytes: int, now_s: float, thresholds: Thresholds
) -> tuple[Standing, Decision]:
    """Judge one reading.

    Args:
        standing: the answer of the look before.
        used_bytes: what the kernel uses.
        limit_bytes: its ceiling now; it moves with the machine. 0 or less counts as reached.
        now_s: seconds, monotonic.
        thresholds: when to do what.

    Returns:
        The new standing, and what to do.
    """
    share = used_bytes / limit_bytes if limit_bytes > 0 else 1.0
    looks_over = standing.looks_over + 1 if share >= 1.0 else 0
    standing = replace(standing, looks_over=looks_over)
    if share < thresholds.release:
        return _calm(standing, share)
    if looks_over >= _LOOKS_BEFORE_STOP and now_s >= standing.next_stop_s:
        standing = replace(standing, next_stop_s=now_s + _STOP_INTERVAL_S, warned=True)
        return standing, Decision("stop", f"{share:.0%} of its ceiling at {looks_over} looks")
    if share >= thresholds.clean and _may_clean(standing, now_s, thresholds):
        standing = replace(standing, warned=True)
        return standing, Decision("clean", f"{share:.0%} of its ceiling")
    if share >= thresholds.warn and not standing.warned:
        return replace(standing, warned=True), Decision("warn", f"{share:.0%} of its ceiling")
    return standing, _NOTHING


def _calm(standing: Standing, share: float) -> tuple[Standing, Decision]:
    """Below the release everything is forgiven but the throttle."""
    fresh = Standing(next_clean_s=standing.next_clean_s, next_stop_s=standing.next_stop_s)
    if not standing.warned:
        return fresh, _NOTHING
    return fresh, Decision("calm", f"{share:.0%} of its ceiling")


def _may_clean(standing: Standing, now_s: float, thresholds: Thresholds) -> bool:
    return (
        thresholds.clean_time_share > 0
        and now_s >= standing.next_clean_s
        and standing.idle_cleans < _IDLE_CLEANS
    )


def after_cleaning(
    standing: Standing,
    *,
    freed_bytes: int,
    limit_bytes: int,
    took_s: float,
    now_s: float,
    thresholds: Thresholds,
) -> Standing:
    """Remember what a cleaning cost and brought.

    Args:
        standing: the answer of the look that asked for it.
        freed_bytes: what use fell by.
        limit_bytes: the ceiling.
        took_s: how long it took.
        now_s: when it had ended.
        thresholds: as for ``decide``.
    """
    idle = freed_bytes < _MIN_FREED_SHARE * max(limit_bytes, 0)
    wait_s = took_s / thresholds.clean_time_share - took_s if thresholds.clean_time_share else 0.0
    return replace(
        standing,
        next_clean_s=now_s + max(wait_s, 0.0),
        idle_cleans=standing.idle_cleans + 1 if idle else 0,
    )


def reason_to_wait(
    used_bytes: int, limit_bytes: int, source: str, stalled_share: float, clean_at: float
) -> str:
    """Why nothing large should be begun now; "" where nothing is against it.

    Args:
        used_bytes: what the kernel holds.
        limit_bytes: its ceiling.
        source: where the ceiling is from, in words.
        stalled_share: of the last ten seconds in which all tasks waited for memory.
        clean_at: the share of the ceiling at which the guard cleans.
    """
    if used_bytes >= clean_at * limit_bytes:
        share = used_bytes / max(limit_bytes, 1)
        return (
            f"the kernel holds {format_bytes(used_bytes)}, {share:.0%} of its ceiling "
            f"{format_bytes(limit_bytes)} ({source})"
        )
    if stalled_share >= _STALLED_SHARE:
        return f"the machine is short of memory: all waited {stalled_share:.0%} of the last 10 s"
    return ""
