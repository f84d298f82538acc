"""What loads on this machine really took, beside what was estimated.

One line of JSON for each finished load, in h2q's cache. Estimates of the same architecture and form
are corrected by the median of what was measured. Nothing here may ever break a load.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from h2q_notebook.line_file import LineFile
from h2q_notebook.places import cache_root

__all__ = ["History", "Record", "factor_of"]

_RECENT = 20
_ENOUGH = 3
_BOUNDS = (1.0, 1.5)
"""Never below 1: a load into memory that the heap had kept free looks smaller than it is. Above 1.5
something else has grown beside the loads."""


@dataclass(frozen=True, slots=True)
class Record:
    """One finished load."""

    model_type: str
    rung: str
    estimated_bytes: int
    """The load peak as estimated."""
    measured_bytes: int
    at_s: float
    """Seconds since the epoch."""


def factor_of(records: Iterable[Record], model_type: str, rung: str) -> float:
    """Measured by estimated: the median of the last twenty, 1.0 where there are fewer than three.

    Args:
        records: oldest first.
        model_type: of the config.
        rung: the rung's name.
    """
    own = [one for one in records if one.model_type == model_type and one.rung == rung][-_RECENT:]
    shares = [one.measured_bytes / one.estimated_bytes for one in own if one.estimated_bytes > 0]
    if len(shares) < _ENOUGH:
        return 1.0
    low, high = _BOUNDS
    return min(max(statistics.median(shares), low), high)


class History:
    """The file.

    Args:
        path: None for the one in h2q's cache.
        clock: seconds since the epoch.
    """

    def __init__(self, path: Path | None = None, *, clock: Callable[[], float] = time.time) -> None:
        self._file = LineFile(path or cache_root() / "history.jsonl")
        self._clock = clock

    def record(
        self, model_type: str, rung: str, *, estimated_bytes: int, measured_bytes: int
    ) -> None:
        """Add one load; silently nothing where that is not possible."""
        one = Record(model_type, rung, estimated_bytes, measured_bytes, self._clock())
        self._file.append(asdict(one))

    def records(self) -> list[Record]:
        """Every sound line, oldest first."""
        found = [_sound(one) for one in self._file.read()]
        return [one for one in found if one is not None]

    def factor(self, model_type: str, rung: str) -> float:
        """See ``factor_of``."""
        return factor_of(self.records(), model_type, rung)


def _sound(line: dict[str, Any]) -> Record | None:
    try:
        one = Record(**line)
    except TypeError:
        return None
    numbers = (one.estimated_bytes, one.measured_bytes, one.at_s)
    sound = all(isinstance(n, (int, float)) and n >= 0 for n in numbers)
    return one if sound and isinstance(one.model_type, str) and isinstance(one.rung, str) else None
