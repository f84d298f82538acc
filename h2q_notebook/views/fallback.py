"""Gauges for front ends without widgets: an SVG once a second, or one line in a terminal.

Same face as ``gauge.LiveGauge`` (start, finish, error). No buttons: the user interrupts as usual.
Imports ``units`` by way of the other gauge modules.
"""

from __future__ import annotations

import contextvars
import sys
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any, Literal, TextIO

from h2q_notebook.views.gauge_frame import GaugeFrame, History
from h2q_notebook.views.gauge_static import bundle as static_bundle
from h2q_notebook.views.gauge_static import line

__all__ = ["FallbackGauge"]

_JOIN_S = 2.0


class FallbackGauge:
    """A gauge without widgets.

    Args:
        read: returns the present frame; called in the gauge's thread only.
        label: what the gauge is of.
        mode: html (an output replaced in place), text (one line rewritten on a terminal) or off.
        delay_s: seconds the cell must have run before anything is shown.
        interval_s: seconds between updates.
        persistent: show at once and outlive the cell.
        stream: where text mode writes; nothing is written where it is not a terminal.
    """

    def __init__(
        self,
        read: Callable[[], GaugeFrame],
        *,
        label: str,
        mode: Literal["html", "text", "off"],
        delay_s: float = 0.7,
        interval_s: float = 1.0,
        persistent: bool = False,
        stream: TextIO | None = None,
    ) -> None:
        self.error: BaseException | None = None
        self.shown_at: float | None = None
        self._read = read
        self._label = label
        self._mode = mode
        self._delay_s = 0.0 if persistent else delay_s
        self._interval_s = interval_s
        self._stream = stream
        self._history = History()
        self._frame: GaugeFrame | None = None
        self._display_id = f"h2q-gauge-{uuid.uuid4().hex}"
        self._done = threading.Event()
        self._thread: threading.Thread | None = None
        self._width = 0

    def start(self) -> None:
        """Begin to watch; returns at once (and does nothing at all where there is no screen)."""
        if self._mode == "text":
            self._stream = self._stream or sys.stderr
            if not self._stream.isatty():
                return
        if self._mode == "off":
            return
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run, args=(self._run,), name="h2q-gauge", daemon=True
        )
        self._thread.start()

    def finish(self, bundle: dict[str, str] | None, metadata: dict[str, Any] | None = None) -> bool:
        """End the gauge; True if *bundle* was shown in its place, False if the caller must."""
        if self._done.is_set():
            return self._mode == "html" and self.shown_at is not None
        self._done.set()
        if self._thread is not None:
            self._thread.join(_JOIN_S)
        if self.shown_at is None:
            return False
        try:
            if self._mode == "text":
                self._write("")
                return False
            if bundle is None and self._frame is not None:
                bundle = static_bundle(self._frame, self._history, self._label)
            self._display(bundle or {"text/plain": ""}, metadata or {}, update=True)
        except Exception as error:
            self.error = self.error or error
            return False
        return True

    def _run(self) -> None:
        began = time.monotonic()
        while not self._done.is_set():
            try:
                self._frame = frame = self._read()
                self._history.add(frame.t_s, frame.used_bytes)
                if time.monotonic() - began >= self._delay_s:
                    self._show(frame)
            except Exception as error:
                self.error = self.error or error
            left_s = began + self._delay_s - time.monotonic()
            self._done.wait(left_s if 0 < left_s < self._interval_s else self._interval_s)

    def _show(self, frame: GaugeFrame) -> None:
        first, self.shown_at = self.shown_at is None, self.shown_at or time.time()
        if self._mode == "text":
            self._write(line(frame, self._history, self._label))
        else:
            bundle = static_bundle(frame, self._history, self._label)
            self._display(bundle, {}, update=not first)

    def _display(self, bundle: dict[str, str], metadata: dict[str, Any], *, update: bool) -> None:
        from IPython.display import display

        display(  # type: ignore[no-untyped-call]
            bundle, metadata=metadata, display_id=self._display_id, update=update, raw=True
        )

    def _write(self, text: str) -> None:
        """Rewrite the terminal's line; the rest of a longer former text is blanked."""
        stream = self._stream
        assert stream is not None, "start() chose a stream"
        stream.write("\r" + text.ljust(self._width) + ("" if text else "\r"))
        stream.flush()
        self._width = len(text)
