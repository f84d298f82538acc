"""How far a load has come, told at most twenty times a second."""

from __future__ import annotations

from collections.abc import Callable

from h2q_notebook.load.outcome import Progress, ProgressCallback

__all__ = ["Reporter"]

_EVERY_S = 0.05


class Reporter:
    """Turns bytes and stages into ``Progress``.

    Args:
        callback: gets each one; None tells nobody.
        clock: seconds, monotonic.
        baseline_bytes: the use of this process when the load began.
    """

    def __init__(
        self, callback: ProgressCallback | None, clock: Callable[[], float], baseline_bytes: int
    ) -> None:
        self._callback = callback
        self._clock = clock
        self._baseline_bytes = baseline_bytes
        self._used_bytes = baseline_bytes
        self._stage = "inspect"
        self._done = self._total = 0
        self._began_s = self._told_s = clock()
        self._has_told = False

    def expect(self, total_bytes: int) -> None:
        """The next stages will pass so many bytes."""
        self._done, self._total, self._began_s = 0, total_bytes, self._clock()

    def begin(self, stage: str) -> None:
        """A stage begins, or the load has ended (``done``, ``failed``)."""
        self._stage = stage
        # What was refused before anything began leaves no line on the screen.
        if self._has_told or stage != "failed":
            self._tell()

    def add(self, n_bytes: int) -> None:
        """So many bytes are in place."""
        self._done += n_bytes
        if self._clock() - self._told_s >= _EVERY_S:
            self._tell()

    def note_use(self, used_bytes: int) -> None:
        """The use of this process, as the watch has just read it."""
        self._used_bytes = used_bytes

    def _tell(self) -> None:
        if self._callback is None:
            return
        self._told_s = self._clock()
        self._has_told = True
        passed_s = max(self._told_s - self._began_s, 1e-6)
        rate = self._done / passed_s
        left = max(self._total - self._done, 0)
        self._callback(
            Progress(
                stage=self._stage,
                done_bytes=self._done,
                total_bytes=self._total,
                rate_bytes_per_s=rate,
                eta_s=left / rate if rate > 0 else None,
                used_bytes=max(self._used_bytes - self._baseline_bytes, 0),
            )
        )
