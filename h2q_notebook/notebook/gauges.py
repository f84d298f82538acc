"""Feeds the gauges: turns what the guardian sees into the frames that views draw.

Covers the join of ``guardian`` (live figures), ``policy`` (level, trend) and ``views`` (drawing);
it stands beside ``session`` because it knows all three.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any

from h2q_notebook.cell.outcome import Event
from h2q_notebook.config.settings import MemorySafeConfig
from h2q_notebook.errors import BadArgument
from h2q_notebook.guardian.arming import Live
from h2q_notebook.policy.trend import Level, level_of, seconds_to_limit
from h2q_notebook.readings.devices import DeviceMemory
from h2q_notebook.views.frontend import Frontend, detect, make_gauge
from h2q_notebook.views.gauge_frame import GaugeFrame

__all__ = ["CellGauge", "KernelGauge", "front_end"]

_MARKS: dict[str, tuple[str, str]] = {"warn": ("warn 80%", "warn"), "clean": ("90%", "bad")}


def front_end(shell: Any, wish: str = "auto") -> Frontend:
    """What this front end can show; ``off`` if the user's wish cannot be read.

    Args:
        shell: the IPython shell.
        wish: the setting ``gauge``.
    """
    environ = {name: value for name, value in os.environ.items() if value != "auto"}
    try:
        return detect(shell, environ if wish == "auto" else {**environ, "H2Q_GAUGE": wish})
    except BadArgument:
        return "off"


class CellGauge:
    """The gauge of one guarded cell.

    Args:
        live: the guardian's live figures; None once the cell has ended.
        config: delay and step of Raise.
        frontend: what can be shown.
        label: the cell's label.
        events: the cell's events; marks of 80 and 90 % are added here.
        devices: reads the GPUs in use.
        alarm: how short the machine is of memory, in words; "" while all is well.
        on_raise: called with bytes when Raise is pressed.
        on_stop: called when Stop is pressed; None leaves the button out.
    """

    def __init__(
        self,
        live: Callable[[], Live | None],
        config: MemorySafeConfig,
        *,
        frontend: Frontend,
        label: str,
        events: list[Event],
        devices: Callable[[], Iterable[DeviceMemory]],
        alarm: Callable[[], str],
        on_raise: Callable[[int], object],
        on_stop: Callable[[], object] | None,
    ) -> None:
        self._live = live
        self._events = events
        self._devices = devices
        self._alarm = alarm
        self._points: deque[tuple[float, int]] = deque(maxlen=64)
        self._level: Level = "calm"
        self._last = GaugeFrame(0.0, 0, 1, 0, "calm", "running", None)
        self._stopping = False
        self._on_stop = on_stop
        self._gauge = make_gauge(
            frontend,
            self._frame,
            label=label or "cell",
            delay_s=config.gauge_delay_s,
            raise_bytes=config.raise_step_bytes,
            on_raise=lambda n_bytes: void(on_raise(n_bytes)),
            on_stop=self._stop if on_stop is not None else None,
        )

    def start(self) -> None:
        """Begin to watch; nothing is shown before the delay."""
        self._gauge.start()

    @property
    def shown(self) -> bool:
        """Whether it has appeared."""
        return self._gauge.shown_at is not None

    def finish(self, bundle: dict[str, str], metadata: dict[str, Any]) -> bool:
        """End it; True if *bundle* now stands in its place."""
        return self._gauge.finish(bundle, metadata)

    def _stop(self) -> None:
        self._stopping = True
        self._mark("Stop pressed", "bad")
        if self._on_stop is not None:
            self._on_stop()

    def _mark(self, text: str, kind: Any) -> None:
        self._events.append(Event(round(self._last.t_s, 2), self._last.used_bytes, text, kind))

    def _frame(self) -> GaugeFrame:
        live = self._live()
        if live is None:
            return self._last
        self._points.append((live.t_s, live.used_bytes))
        before, self._level = self._level, level_of(live.used_bytes, live.budget_bytes, self._level)
        self._last = GaugeFrame(
            t_s=live.t_s,
            used_bytes=live.used_bytes,
            limit_bytes=live.budget_bytes,
            peak_bytes=live.peak_bytes,
            level=self._level,
            state="stopping" if self._stopping or live.strikes else "running",
            seconds_to_limit=seconds_to_limit(self._points, live.budget_bytes),
            events=tuple(self._events),
            devices=tuple((one.name, one.end_bytes, one.budget_bytes) for one in live.devices)
            or _shown(self._devices()),
            alarm=self._alarm(),
        )
        if self._level != before and self._level in _MARKS:
            self._mark(*_MARKS[self._level])
        return self._last


class KernelGauge:
    """A gauge of the whole kernel, until it is ended.

    Args:
        read_used: the kernel's use in bytes.
        devices: reads the GPUs in use.
        alarm: how short the machine is of memory, in words; "" while all is well.
        free_bytes: what the machine could still give when it was started.
        config: settings.
        frontend: what can be shown.
    """

    def __init__(
        self,
        read_used: Callable[[], int],
        free_bytes: int,
        config: MemorySafeConfig,
        *,
        devices: Callable[[], Iterable[DeviceMemory]],
        alarm: Callable[[], str],
        frontend: Frontend,
    ) -> None:
        self._read_used = read_used
        self._devices = devices
        self._alarm = alarm
        self._limit_bytes = read_used() + free_bytes
        self._start_s = monotonic()
        self._peak_bytes = 0
        self._level: Level = "calm"
        self._points: deque[tuple[float, int]] = deque(maxlen=64)
        self._gauge = make_gauge(frontend, self._frame, label="kernel", persistent=True)

    def start(self) -> None:
        """Show it."""
        self._gauge.start()

    def finish(self) -> None:
        """End it; its last picture stays."""
        self._gauge.finish(None)

    def _frame(self) -> GaugeFrame:
        used, t_s = self._read_used(), monotonic() - self._start_s
        self._peak_bytes = max(self._peak_bytes, used)
        self._points.append((t_s, used))
        self._level = level_of(used, self._limit_bytes, self._level)
        return GaugeFrame(
            t_s=t_s,
            used_bytes=used,
            limit_bytes=self._limit_bytes,
            peak_bytes=self._peak_bytes,
            level=self._level,
            state="running",
            seconds_to_limit=seconds_to_limit(self._points, self._limit_bytes),
            devices=_shown(self._devices()),
            alarm=self._alarm(),
        )


def _shown(devices: Iterable[DeviceMemory]) -> tuple[tuple[str, int, int], ...]:
    return tuple(
        (one.name, one.process_bytes or one.reserved_bytes, one.total_bytes)
        for one in devices
        if one.process_bytes or one.reserved_bytes
    )


def void(_: object) -> None:
    """Drop a result where a callback must not have one."""
