"""Writes the kernel's figures where node_exporter's textfile collector reads them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from h2q_notebook.readings.figures import Figures
from h2q_notebook.views.metrics import openmetrics
from h2q_notebook.whole_file import write_whole

if TYPE_CHECKING:
    from h2q_notebook.config.settings import MemorySafeConfig

__all__ = ["TextfileExport"]


class TextfileExport:
    """Writes the file anew now and then; whole, and readable for its owner alone.

    Args:
        settings: the settings now.
        figures: reads what is told.
        say: tells the user, once, that the file cannot be written.
        kernel_id: stands in each figure's label, and for ``{kernel_id}`` in the file's name: a
            collector refuses two files that hold the same figure.
    """

    def __init__(
        self,
        settings: Callable[[], MemorySafeConfig],
        figures: Callable[[], Figures],
        say: Callable[[str], None],
        kernel_id: str = "",
    ) -> None:
        self._settings, self._figures, self._say = settings, figures, say
        self._kernel_id = kernel_id
        self._next_s = 0.0
        self._failed = ""

    def poll(self, now_s: float) -> None:
        """Write if it is time; now_s is monotonic."""
        config = self._settings()
        if not config.metrics_textfile or now_s < self._next_s:
            return
        self._next_s = now_s + config.metrics_interval_s
        name = config.metrics_textfile.replace("{kernel_id}", self._kernel_id)
        path = Path(name).expanduser()
        try:
            # The collector reads *.prom alone; the unfinished file has another ending.
            write_whole(path, openmetrics({self._kernel_id: self._figures()}).encode())
        except OSError as error:
            if self._failed != str(path):
                self._failed = str(path)
                self._say(f"h2q: metrics_textfile: {path} cannot be written: {error.strerror}")
        else:
            self._failed = ""
