"""A row of numbers made small: thinned to some points, or written as block characters.

Pure; imports nothing of h2q.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

__all__ = ["sparkline", "thinned"]

_BLOCKS = "▁▂▃▄▅▆▇█"
_T = TypeVar("_T")


def sparkline(values: Sequence[float], *, top: float, width: int = 40) -> str:
    """One block character per slice of *values*, full height at *top*.

    Every slice shows its highest value: a short peak must not vanish by averaging.
    """
    if not values or top <= 0:
        return ""
    n_cells = min(width, len(values))
    cells = []
    for at in range(n_cells):
        low, high = at * len(values) // n_cells, (at + 1) * len(values) // n_cells
        share = min(1.0, max(0.0, max(values[low:high]) / top))
        cells.append(_BLOCKS[min(len(_BLOCKS) - 1, int(share * len(_BLOCKS)))])
    return "".join(cells)


def thinned(items: Sequence[_T], limit: int, *, key: Callable[[_T], float]) -> list[_T]:
    """At most *limit* of *items*, in order, always with the first, the last and every extreme.

    Each slice gives its lowest and its highest item, so that neither peaks nor dips are lost.
    """
    if len(items) <= limit:
        return list(items)
    n_slices = max(1, (limit - 2) // 2)
    kept = {0, len(items) - 1}
    for at in range(n_slices):
        low, high = at * len(items) // n_slices, (at + 1) * len(items) // n_slices
        places = range(low, high)
        kept.add(min(places, key=lambda place: key(items[place])))
        kept.add(max(places, key=lambda place: key(items[place])))
    return [items[place] for place in sorted(kept)]
