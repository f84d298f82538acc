"""The live gauge of a running cell: shows itself when the cell turns out to be long, then moves.

Covers when to show, how often to send, what a click calls, and what remains at the end. It reads
through a function it is given and decides nothing about memory. The picture is drawn by
``static/gauge.js`` (built from ``js/``); ``fallback`` is for front ends without widgets.

Threads: ``start`` and ``finish`` belong to the cell's thread. Everything sent in between goes out
from the gauge's own thread ``h2q-gauge``, inside a copy of the cell's context, without which
outputs would move to whichever cell runs next. Clicks arrive on a subshell thread; they call back
and wake the gauge's thread, but send nothing themselves. A failure here never reaches the cell:
the first one is kept in ``error``.

What was tried: plotly's FigureWidget (5 MB a piece, 1.6 to 1.9 s to first paint), and starting the
thread without the context (the gauge followed the user into other cells).
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from h2q_notebook.units import MIB, format_bytes
from h2q_notebook.views.gauge_frame import GaugeFrame, History, as_state
from h2q_notebook.views.gauge_static import bundle as static_bundle
from h2q_notebook.views.gauge_widget import assets, empty, keep_shell, widget_class

__all__ = ["GaugeFrame", "LiveGauge", "warm"]

_JOIN_S = 2.0  # the longest that the end of a cell may wait for its gauge


def warm() -> threading.Thread:
    """Import anywidget and read the bundle in the background; touches no display.

    The import takes seconds on a busy machine, so it is done once, at ``%load_ext``, and not when
    the first long cell wants its gauge.
    """

    def load() -> None:
        # Nothing to warm without the library; make_gauge() will then choose another gauge.
        with contextlib.suppress(ImportError, OSError):
            assets()
            widget_class()

    thread = threading.Thread(target=load, name="h2q-gauge-warm", daemon=True)
    thread.start()
    return thread


class LiveGauge:
    """A gauge for one cell (or, *persistent*, for the kernel until ``finish``).

    Args:
        read: returns the present frame; called in the gauge's thread only.
        label: what the gauge is of, in the user's words.
        delay_s: seconds the cell must have run before a gauge is worth showing.
        interval_s: seconds between updates (4 a second; plotly redraws cost the page 50 ms each).
        raise_bytes: what one press of Raise adds.
        on_raise: called with *raise_bytes*; None leaves the button out.
        on_stop: called when Stop is pressed; None leaves the button out.
        persistent: show at once and outlive the cell.
        embed: carry the drawing code with this gauge in any case, for front ends that draw every
            output in a frame of its own or cannot ask for it while the cell runs.
        hint: a line below the picture (for example how to interrupt where buttons cannot act).
    """

    def __init__(
        self,
        read: Callable[[], GaugeFrame],
        *,
        label: str,
        delay_s: float = 0.7,
        interval_s: float = 0.25,
        raise_bytes: int = 512 * MIB,
        on_raise: Callable[[int], None] | None = None,
        on_stop: Callable[[], None] | None = None,
        persistent: bool = False,
        embed: bool = False,
        hint: str = "",
    ) -> None:
        self.error: BaseException | None = None
        self.shown_at: float | None = None
        """When it decided to show (seconds, ``time.time``); None if it has not."""
        self._read = read
        self._label = label
        self._delay_s = 0.0 if persistent else delay_s
        self._interval_s = interval_s
        self._raise_bytes = raise_bytes
        self._on_raise = on_raise
        self._on_stop = on_stop
        self._hint = hint
        self._embed = embed
        self._limit_word = "limit" if persistent else "budget"
        self._asked = threading.Event()
        self._history = History()
        self._frame: GaugeFrame | None = None
        self._widget: Any = None
        self._display_id = f"h2q-gauge-{uuid.uuid4().hex}"
        self._final: tuple[dict[str, str], dict[str, Any]] | None = None
        self._thread: threading.Thread | None = None
        self._clicks = threading.Lock()
        self._wake = threading.Event()
        self._done = threading.Event()

    def start(self) -> None:
        """Begin to watch; returns at once and shows nothing before *delay_s*."""
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run, args=(self._run,), name="h2q-gauge", daemon=True
        )
        self._thread.start()

    def finish(self, bundle: dict[str, str] | None, metadata: dict[str, Any] | None = None) -> bool:
        """End the gauge; if it was shown, *bundle* takes its place in the output and in the file.

        Args:
            bundle: mime type to text, a few kB; None leaves the gauge's own picture, standing.
            metadata: the output's metadata.

        Returns:
            True if the bundle was shown in the gauge's place, False if the caller must show it.
        """
        if self._done.is_set():
            return self.shown_at is not None
        if bundle is None and self._frame is not None:
            bundle = static_bundle(self._frame, self._history, self._label)
        self._final = (bundle or {"text/plain": ""}, metadata or {})
        self._done.set()
        self._wake.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(_JOIN_S)
        # Set before anything is sent, so that a thread that is still sending counts as shown.
        if self.shown_at is None:
            return False
        return self._replace()

    def _run(self) -> None:
        began = time.monotonic()
        while not self._done.is_set():
            try:
                self._observe()
                if self._widget is not None:
                    self._send()
                elif time.monotonic() - began >= self._delay_s:
                    self._show()
            except Exception as error:
                self._fail(error)
                if self._widget is None and self.shown_at is not None:
                    return  # it cannot be shown here; the cell goes on without a gauge
            wait_s = self._interval_s
            if self._widget is None:
                wait_s = min(wait_s, max(0.0, began + self._delay_s - time.monotonic()))
            self._wake.wait(wait_s)
            if not self._done.is_set():
                self._wake.clear()

    def _observe(self) -> None:
        frame = self._read()
        self._frame = frame
        self._history.add(frame.t_s, frame.used_bytes)

    def _state(self) -> dict[str, Any]:
        assert self._frame is not None, "observed before shown"
        return as_state(self._frame, self._history, self._label, self._limit_word)

    def _show(self) -> None:
        from IPython.display import display

        make = widget_class()
        if self._done.is_set():  # the import may have taken longer than the cell
            return
        self.shown_at = time.time()
        built, carry = assets(), self._embed or not make.delivered
        make.delivered = True
        widget = make(
            engine=built.engine if carry else "",
            label=self._label,
            hint=self._hint,
            raise_text=f"Raise budget +{format_bytes(self._raise_bytes)}",
            can_raise=self._on_raise is not None,
            can_stop=self._on_stop is not None,
            frame=self._state(),
        )
        keep_shell(widget.comm)
        widget.on_msg(self._clicked)
        display(widget, display_id=self._display_id)  # type: ignore[no-untyped-call]
        self._widget = widget
        if self._done.is_set() and self._final is not None:
            self._replace()  # finish() gave up waiting for us: what we have just shown must go

    def _send(self) -> None:
        if self._asked.is_set():  # by a page that was opened after the engine had been carried
            self._asked.clear()
            self._widget.engine = assets().engine
        self._widget.frame = self._state()

    def _clicked(self, _widget: Any, content: Any, _buffers: Any) -> None:
        """Act on a button; runs in a subshell thread while the cell is busy."""
        kind = content.get("kind") if isinstance(content, dict) else None
        with self._clicks:
            if self._done.is_set():
                return
            try:
                if kind == "engine":
                    self._asked.set()
                elif kind == "raise" and self._on_raise is not None:
                    self._on_raise(self._raise_bytes)
                elif kind == "stop" and self._on_stop is not None:
                    self._on_stop()
            except Exception as error:
                self._fail(error)
        self._wake.set()

    def _replace(self) -> bool:
        from IPython.display import display

        final, self._widget, widget = self._final, None, self._widget
        try:
            if final is not None:
                display(  # type: ignore[no-untyped-call]
                    final[0],
                    metadata=final[1],
                    display_id=self._display_id,
                    update=True,
                    raw=True,
                )
            if widget is not None:
                empty(widget)
        except Exception as error:
            self._fail(error)
            return False
        return True

    def _fail(self, error: BaseException) -> None:
        if self.error is None:
            self.error = error
