"""What the guardian sees becomes what the gauge shows: level, marks, forecast, buttons."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from h2q_notebook.cell.outcome import Event
from h2q_notebook.config.settings import MemorySafeConfig
from h2q_notebook.guardian.arming import Live
from h2q_notebook.notebook import gauges
from h2q_notebook.notebook.gauges import CellGauge, KernelGauge, front_end
from h2q_notebook.policy.strikes import Cause
from h2q_notebook.views.gauge_frame import GaugeFrame


@dataclass
class Drawn:
    """Stands where the drawing gauge would be, and can be looked at."""

    read: Callable[[], GaugeFrame]
    options: dict[str, Any]
    calls: list[Any] = field(default_factory=list)
    shown_at: float | None = None

    def start(self) -> None:
        self.calls.append("start")

    def finish(self, bundle: Any, metadata: Any = None) -> bool:
        self.calls.append(("finish", bundle, metadata))
        return True


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Drawn]:
    made: list[Drawn] = []

    def make(frontend: Any, read: Callable[[], GaugeFrame], **options: Any) -> Drawn:
        made.append(Drawn(read, {"frontend": frontend, **options}))
        return made[-1]

    monkeypatch.setattr(gauges, "make_gauge", make)
    return made


@dataclass
class Cell:
    """A guarded cell whose live figures are set."""

    live: Live | None = None
    events: list[Event] = field(default_factory=list)
    raised: list[int] = field(default_factory=list)
    stops: int = 0

    def at(self, t_s: float, used: int, *, peak: int = 0, strikes: int = 0) -> None:
        self.live = Live(t_s, used, 100, max(peak, used), strikes, Cause.NONE)

    def stop(self) -> None:
        self.stops += 1

    def gauge(self, *, label: str = "", with_stop: bool = True) -> CellGauge:
        return CellGauge(
            lambda: self.live,
            MemorySafeConfig(gauge_delay_s=0.7, raise_step_bytes=5 << 20),
            frontend="widgets",
            label=label,
            events=self.events,
            devices=lambda: (),
            alarm=str,
            on_raise=self.raised.append,
            on_stop=self.stop if with_stop else None,
        )


def test_the_frame_is_what_the_guardian_sees(drawn: list[Drawn]) -> None:
    cell = Cell()
    cell.gauge()
    cell.at(1.5, 40, peak=60)
    frame = drawn[0].read()
    assert (frame.t_s, frame.used_bytes, frame.limit_bytes, frame.peak_bytes) == (1.5, 40, 100, 60)
    assert (frame.level, frame.state) == ("calm", "running")


def test_marks_are_set_once_when_a_zone_is_entered(drawn: list[Drawn]) -> None:
    cell = Cell()
    cell.gauge()
    for t_s, used in enumerate((50, 81, 85, 79, 91, 95, 92)):
        cell.at(float(t_s), used)
        drawn[0].read()
    assert [(e.t_s, e.text, e.kind) for e in cell.events] == [
        (1.0, "warn 80%", "warn"),
        (4.0, "90%", "bad"),
    ]


def test_a_steady_rise_is_forecast(drawn: list[Drawn]) -> None:
    cell = Cell()
    cell.gauge()
    for step in range(9):
        cell.at(step * 0.25, step * 5)
        frame = drawn[0].read()
    assert frame.seconds_to_limit == pytest.approx(3.0)


def test_when_the_cell_has_ended_the_last_frame_stays(drawn: list[Drawn]) -> None:
    cell = Cell()
    cell.gauge()
    cell.at(2.0, 30)
    frame = drawn[0].read()
    cell.live = None
    assert drawn[0].read() == frame


def test_before_the_first_reading_the_frame_is_empty_and_harmless(drawn: list[Drawn]) -> None:
    Cell().gauge()
    frame = drawn[0].read()
    assert (frame.used_bytes, frame.level, frame.state) == (0, "calm", "running")


def test_raise_passes_the_step_of_the_settings_on(drawn: list[Drawn]) -> None:
    cell = Cell()
    cell.gauge()
    assert drawn[0].options["raise_bytes"] == 5 << 20
    drawn[0].options["on_raise"](5 << 20)
    assert cell.raised == [5 << 20]


def test_stop_is_marked_shown_and_passed_on(drawn: list[Drawn]) -> None:
    cell = Cell()
    cell.gauge()
    cell.at(3.0, 50)
    drawn[0].read()
    drawn[0].options["on_stop"]()
    assert cell.stops == 1
    assert cell.events[-1] == Event(3.0, 50, "Stop pressed", "bad")
    assert drawn[0].read().state == "stopping"


def test_a_strike_of_the_watcher_shows_as_stopping(drawn: list[Drawn]) -> None:
    cell = Cell()
    cell.gauge()
    cell.at(1.0, 101, strikes=1)
    frame = drawn[0].read()
    assert (frame.level, frame.state) == ("over", "stopping")


def test_a_cell_that_may_not_be_stopped_has_no_stop_button(drawn: list[Drawn]) -> None:
    Cell().gauge(with_stop=False)
    assert drawn[0].options["on_stop"] is None


def test_label_delay_and_end_reach_the_drawing(drawn: list[Drawn]) -> None:
    gauge = Cell().gauge(label="training")
    Cell().gauge()
    assert drawn[0].options["label"] == "training"
    assert drawn[0].options["delay_s"] == 0.7
    assert drawn[1].options["label"] == "cell"
    assert gauge.shown is False
    drawn[0].shown_at = 1.0
    assert gauge.shown is True
    gauge.start()
    assert gauge.finish({"text/plain": "end"}, {"h2q": {}}) is True
    assert drawn[0].calls == ["start", ("finish", {"text/plain": "end"}, {"h2q": {}})]


def test_the_kernels_gauge_is_absolute_persistent_and_remembers_its_peak(
    drawn: list[Drawn],
) -> None:
    used = [100]
    gauge = KernelGauge(
        lambda: used[0], 900, MemorySafeConfig(), devices=lambda: (), alarm=str, frontend="html"
    )
    assert drawn[0].options["persistent"] is True
    for now in (850, 300):
        used[0] = now
        frame = drawn[0].read()
    assert (frame.used_bytes, frame.peak_bytes, frame.limit_bytes) == (300, 850, 1000)
    assert frame.level == "calm"
    gauge.start()
    gauge.finish()
    assert drawn[0].calls == ["start", ("finish", None, None)]


def test_a_wish_that_cannot_be_read_shows_no_gauge_rather_than_failing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("H2Q_GAUGE", "sideways")
    assert front_end(None) == "off"
    monkeypatch.delenv("H2Q_GAUGE")
    assert front_end(None) == "text"
