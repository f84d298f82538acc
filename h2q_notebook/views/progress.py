"""The progress of a load while it runs: a bar in notebooks, one line elsewhere.

Covers showing only. Never breaks a load: a front end that went away is simply no longer told.
Widgets are imported inside; without ipywidgets the text line is used.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from html import escape
from typing import TYPE_CHECKING, Any

from h2q_notebook.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from h2q_notebook.load.outcome import Progress

__all__ = ["LoadProgress", "words"]

_WORDS = {
    "inspect": "inspecting",
    "convert": "converting once",
    "structure": "building the structure",
    "weights": "reading weights",
    "optimise": "making it ready",
    "validate": "checking its answer",
    "done": "loaded",
    "failed": "not loaded",
}
_ENDINGS = ("done", "failed")
_LINE_INTERVAL_S = 0.5  # front ends without widgets keep every line they are sent


def words(progress: Progress) -> str:
    """One line: stage, bytes, rate, time left, memory."""
    stage = _WORDS.get(progress.stage, progress.stage)
    used = f"memory +{format_bytes(progress.used_bytes)}"
    if progress.stage not in ("weights", "convert") or not progress.total_bytes:
        return f"{stage} · {used}"
    parts = [
        f"{stage} {progress.share:.0%}",
        f"{format_bytes(progress.done_bytes)} of {format_bytes(progress.total_bytes)}",
    ]
    if progress.done_bytes and progress.eta_s is not None:
        parts.append(f"{format_bytes(progress.rate_bytes_per_s)}/s")
        parts.append(f"{format_seconds(progress.eta_s)} left")
    return " · ".join([*parts, used])


class LoadProgress:
    """Shows each ``Progress`` it is called with; give it as the loader's ``progress``.

    Args:
        frontend: what ``frontend.detect`` said; ``off`` shows nothing.
        label: what is being loaded.
        write: where the text line goes; None for the standard output.
    """

    def __init__(
        self, frontend: str, label: str, *, write: Callable[[str], object] | None = None
    ) -> None:
        self._label = label
        self._write = write or _to_stdout
        self._box: Any = None
        self._bar: Any = None
        self._text: Any = None
        self._width = 0
        self._stage, self._next_line_s = "", 0.0
        self._closed = frontend == "off"
        if frontend == "widgets":
            with suppress(Exception):
                self._open_widgets()

    def __call__(self, progress: Progress) -> None:
        """Show it; the last one (done, failed) closes the display."""
        if self._closed:
            return
        with suppress(Exception):
            if self._box is not None:
                self._bar.value = progress.share
                self._text.value = self._html(words(progress))
            elif progress.stage != self._stage or time.monotonic() >= self._next_line_s:
                self._stage = progress.stage
                self._next_line_s = time.monotonic() + _LINE_INTERVAL_S
                self._show_line(f"h2q: {self._label}: {words(progress)}")
        if progress.stage in _ENDINGS:
            self.close()

    def close(self) -> None:
        """Take the display away; the report tells how it ended. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        with suppress(Exception):
            if self._box is not None:
                for part in (self._bar, self._text, self._box):
                    part.close()
            elif self._width:
                self._write("\r" + " " * self._width + "\r")

    def _open_widgets(self) -> None:
        from IPython import display as ipython_display
        from ipywidgets import HTML, FloatProgress, HBox

        self._bar = FloatProgress(value=0.0, min=0.0, max=1.0, description="")
        self._bar.tooltip = f"loading {self._label}"
        self._text = HTML(self._html("inspecting"))
        self._box = HBox([self._bar, self._text])
        show: Any = ipython_display.display
        show(self._box)

    def _html(self, text: str) -> str:
        return f'<span role="status">{escape(self._label)}: {escape(text)}</span>'

    def _show_line(self, text: str) -> None:
        self._write("\r" + text.ljust(self._width))
        self._width = max(self._width, len(text))


def _to_stdout(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
