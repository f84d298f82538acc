"""How near a limit is, and when it will be reached at this rate: pure.

Method of the forecast: the slope between the medians of the first and the last third of the last
two seconds (Tukey's three-group resistant line), so that one spike does not make an alarm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

__all__ = ["Level", "level_of", "seconds_to_limit"]

Level = Literal["calm", "warn", "clean", "over"]
_WINDOW_S = 2.0
_MIN_POINTS = 6


def level_of(
    used_bytes: int, limit_bytes: int, before: Level = "calm", *, release: float = 0.70
) -> Level:
    """Judge a use against its limit: warn at 80 %, clean at 90 %, over at 100 %.

    A level, once entered, is left only below *release* (hysteresis), except that ``clean`` and
    ``over`` fall back to ``warn`` when use is under their own mark.

    Args:
        used_bytes: use, on the same scale as the limit.
        limit_bytes: the limit; 0 or less counts as reached.
        before: the level of the look before.
        release: share of the limit under which calm returns.
    """
    share = used_bytes / limit_bytes if limit_bytes > 0 else 1.0
    if share >= 1.0:
        return "over"
    if share >= 0.9:
        return "clean"
    if share >= 0.8 or (before != "calm" and share >= release):
        return "warn"
    return "calm"


def seconds_to_limit(points: Sequence[tuple[float, int]], limit_bytes: int) -> float | None:
    """Forecast when use reaches *limit_bytes*.

    Args:
        points: seconds and bytes, oldest first.
        limit_bytes: the limit, on the same scale.

    Returns:
        Seconds from the last point; None if use does not grow, or too little is known.
    """
    if not points:
        return None
    recent = [point for point in points if points[-1][0] - point[0] <= _WINDOW_S]
    if len(recent) < _MIN_POINTS:
        return None
    third = len(recent) // 3
    first, last = recent[:third], recent[-third:]
    middle = third // 2
    run_s = sorted(t for t, _ in last)[middle] - sorted(t for t, _ in first)[middle]
    rise = sorted(used for _, used in last)[middle] - sorted(used for _, used in first)[middle]
    if run_s <= 0 or rise <= 0:
        return None
    return max(0.0, (limit_bytes - points[-1][1]) * run_s / rise)
