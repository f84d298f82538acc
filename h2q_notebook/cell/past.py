"""What guarded cells took, kept by the hash of their text: never the text itself.

Covers the file and the key. It outlives the kernel: a cell that ended one is the one to warn about.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from h2q_notebook.cell.outcome import CellOutcome
from h2q_notebook.line_file import LineFile
from h2q_notebook.policy.expectation import PastRun

__all__ = ["CellMemory", "cell_key"]

_FINISHED = ("ok", "warned")
_TELLING = (*_FINISHED, "overrun", "refused")
"""A cell that ended by an error of its own, or by the user, says nothing of what it takes."""


def cell_key(raw_cell: str) -> str:
    """The same for the same statements, whatever its budget, its blank ends and its comments on it.

    Args:
        raw_cell: as typed.
    """
    lines = [line.rstrip() for line in raw_cell.strip().splitlines()]
    kept = [line for line in lines if line and not line.lstrip().startswith(("#", "%%h2q_budget"))]
    return hashlib.sha256("\n".join(kept).encode(errors="replace")).hexdigest()[:16]


class CellMemory:
    """What cells took, oldest first.

    Args:
        folder: where the file is; asked once, at the first use.
    """

    def __init__(self, folder: Callable[[], Path]) -> None:
        self._folder = folder
        self._file: LineFile | None = None
        self._runs: dict[str, list[PastRun]] | None = None

    def past(self, key: str) -> tuple[PastRun, ...]:
        """The runs of one cell."""
        return tuple(self._all().get(key, ()))

    def record(self, key: str, outcome: CellOutcome) -> None:
        """Keep one, if it says anything."""
        if outcome.status in _TELLING:
            self.record_run(key, PastRun(outcome.peak_bytes, outcome.status in _FINISHED))

    def record_run(self, key: str, run: PastRun) -> None:
        """Keep one, also of a probe."""
        self._all().setdefault(key, []).append(run)
        self._lines().append({"cell": key, "peak_bytes": run.peak_bytes, "finished": run.finished})

    def _lines(self) -> LineFile:
        if self._file is None:
            self._file = LineFile(self._folder() / "cells.jsonl")
        return self._file

    def _all(self) -> dict[str, list[PastRun]]:
        """Read once: what other kernels add meanwhile is theirs."""
        if self._runs is None:
            self._runs = {}
            for line in self._lines().read():
                key, peak, done = line.get("cell"), line.get("peak_bytes"), line.get("finished")
                if isinstance(key, str) and isinstance(peak, int) and isinstance(done, bool):
                    self._runs.setdefault(key, []).append(PastRun(peak, done))
        return self._runs
