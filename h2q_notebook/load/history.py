"""What loads on this machine really took, beside what was estimated.

One line of JSON for each finished load, in h2q's cache. Estimates of the same architecture and form
are corrected by the median of what was measured. Nothing here may ever break a load: a file that
cannot be written or read counts as empty.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from h2q_notebook.load.cache import cache_root
from h2q_notebook.whole_file import write_whole

__all__ = ["History", "Record", "factor_of"]

_KEPT = 1000
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
        self._path = path or cache_root() / "history.jsonl"
        self._clock = clock

    def record(
        self, model_type: str, rung: str, *, estimated_bytes: int, measured_bytes: int
    ) -> None:
        """Add one load; silently nothing where that is not possible."""
        one = Record(model_type, rung, estimated_bytes, measured_bytes, self._clock())
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # A single write of one line with O_APPEND: lines of two kernels never mix.
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(one)) + "\n")
            self._shorten()

    def records(self) -> list[Record]:
        """Every sound line, oldest first."""
        try:
            lines = self._path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return []
        found = [_parse(line) for line in lines]
        return [one for one in found if one is not None]

    def factor(self, model_type: str, rung: str) -> float:
        """See ``factor_of``."""
        return factor_of(self.records(), model_type, rung)

    def _shorten(self) -> None:
        if self._path.stat().st_size < _KEPT * 400:
            return
        kept = self.records()[-_KEPT // 2 :]
        write_whole(self._path, "".join(json.dumps(asdict(one)) + "\n" for one in kept).encode())


def _parse(line: str) -> Record | None:
    try:
        one = Record(**json.loads(line))
    except (ValueError, TypeError):
        return None
    numbers = (one.estimated_bytes, one.measured_bytes, one.at_s)
    sound = all(isinstance(n, (int, float)) and n >= 0 for n in numbers)
    return one if sound and isinstance(one.model_type, str) and isinstance(one.rung, str) else None
