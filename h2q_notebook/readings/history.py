"""A bounded history of use over time that never drops the beginning.

Covers thinning only. Standard library only at import (the sidecar uses it).
"""

from __future__ import annotations

__all__ = ["History"]


class History:
    """Keeps at most *keep* points; when full, neighbours merge and the resolution halves.

    Each point is the largest use seen in its interval, so that a short spike never vanishes.

    Args:
        keep: the largest number of points.
        interval_s: the finest resolution, in seconds.
    """

    def __init__(self, keep: int = 240, interval_s: float = 0.05) -> None:
        self._keep = keep
        self._interval_s = interval_s
        self._points: list[tuple[float, int]] = []

    def add(self, t_s: float, used_bytes: int) -> None:
        """Note that *used_bytes* were in use *t_s* seconds after the start."""
        points = self._points
        if points and t_s - points[-1][0] < self._interval_s:
            points[-1] = (points[-1][0], max(points[-1][1], used_bytes))
            return
        points.append((t_s, used_bytes))
        if len(points) > self._keep:
            self._interval_s *= 2
            self._points = [
                (pair[0][0], max(used for _, used in pair))
                for pair in (points[i : i + 2] for i in range(0, len(points), 2))
            ]

    def points(self) -> list[tuple[float, int]]:
        """Seconds and bytes, oldest first."""
        return list(self._points)
