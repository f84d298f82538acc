"""The live gauge without a page: words, history, threads and failures."""

from __future__ import annotations

import threading
from array import array
from typing import Any

import pytest

from h2q_notebook.cell.outcome import Event
from h2q_notebook.units import MIB
from h2q_notebook.views import gauge as gauge_module
from h2q_notebook.views.gauge import GaugeFrame, LiveGauge
from h2q_notebook.views.gauge_frame import History, as_state, sentence, trend, words
from h2q_notebook.views.gauge_static import bundle, sparkline
from h2q_notebook.views.gauge_widget import assets, keep_shell


def frame(**changes: Any) -> GaugeFrame:
    plain: dict[str, Any] = {
        "t_s": 1.0,
        "used_bytes": 310 * MIB,
        "limit_bytes": 400 * MIB,
        "peak_bytes": 320 * MIB,
        "level": "calm",
        "state": "running",
        "seconds_to_limit": 12.4,
    }
    return GaugeFrame(**{**plain, **changes})


def test_the_words_name_use_limit_share_peak_and_phase() -> None:
    assert words(frame()) == "310 MiB of 400 MiB (78%) · peak 320 MiB"
    assert words(frame(state="stopping")).endswith("· stopping")
    assert words(frame(limit_bytes=0)) == "310 MiB · peak 320 MiB"


def test_the_trend_is_told_only_while_something_grows_towards_a_limit() -> None:
    assert trend(frame()) == "full in 12 s at this rate"
    assert trend(frame(seconds_to_limit=125)) == "full in 2 min 05 s at this rate"
    assert trend(frame(seconds_to_limit=None)) == ""
    assert trend(frame(seconds_to_limit=1e9)) == ""
    assert trend(frame(state="stopping")) == ""
    assert trend(frame(used_bytes=400 * MIB, seconds_to_limit=0)) == ""


def test_every_level_has_a_word_so_that_colour_is_never_alone() -> None:
    said = {sentence(frame(level=level), "cell") for level in ("calm", "warn", "clean", "over")}
    assert len(said) == 4


def test_the_history_is_bounded_and_keeps_short_peaks() -> None:
    history = History(keep=240)
    for i in range(5000):
        history.add(i * 0.25, 999 * MIB if i == 777 else i)
        assert len(history.t_s) == len(history.used_bytes) <= 240
    assert max(history.used_bytes) == 999 * MIB
    assert history.t_s == sorted(history.t_s)
    assert history.t_s[-1] == 4999 * 0.25


def test_what_is_synced_is_numbers_and_words_and_small() -> None:
    history = History()
    for i in range(1000):
        history.add(i, i * MIB)
    events = tuple(Event(float(i), i, f"event {i}" * 40, "warn") for i in range(50))
    state = as_state(frame(events=events), history, "cell")
    packed = state.pop("history")
    assert len(packed) <= 240 * 8
    assert array("f", packed)[len(packed) // 8 - 1] == pytest.approx(999.0)
    assert len(repr(state)) < 4000
    assert {type(value) for value in state.values()} <= {int, float, str, list}


def test_the_standing_picture_escapes_what_it_shows() -> None:
    history = History()
    history.add(0.0, 0)
    history.add(2.0, 310 * MIB)
    got = bundle(frame(events=(Event(1.0, 5, "<img>", "bad"),)), history, "<script>")
    assert "<script>" not in got["text/html"]
    assert "<img>" not in got["text/html"]
    assert "310 MiB of 400 MiB" in got["text/plain"]
    assert len(got["text/html"]) < 20_000


@pytest.mark.parametrize("used", [[], [0], [-5 * MIB], [10, 2**60]])
def test_the_sparkline_takes_any_history(used: list[int]) -> None:
    assert len(sparkline(History(t_s=[0.0] * len(used), used_bytes=used), 400 * MIB)) == len(used)


def test_a_cell_shorter_than_the_delay_shows_nothing_and_leaves_the_report_to_the_caller() -> None:
    gauge = LiveGauge(frame, label="cell", delay_s=3600)
    gauge.start()
    assert gauge.finish({"text/plain": "report"}) is False
    assert gauge.finish({"text/plain": "report"}) is False
    assert not [t for t in threading.enumerate() if t.name == "h2q-gauge"]
    assert gauge.error is None


def test_a_reading_that_fails_is_recorded_once_and_never_reaches_the_cell() -> None:
    third = threading.Event()
    errors: list[OSError] = []

    def read() -> GaugeFrame:
        errors.append(OSError(f"reading {len(errors)}"))
        if len(errors) == 3:
            third.set()
        raise errors[-1]

    gauge = LiveGauge(read, label="cell", delay_s=0, interval_s=0.001)
    gauge.start()
    assert third.wait(30)
    assert gauge.finish({"text/plain": "report"}) is False
    assert gauge.error is errors[0]


class Page:
    """Stands for IPython's display and the widget; records what was sent."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, breaks: bool = False) -> None:
        self.sent: list[Any] = []
        self.shown = threading.Event()
        self.widget: Any = None
        page = self

        class Widget:
            delivered = True

            def __init__(self, **state: Any) -> None:
                self.__dict__.update(state)
                self.comm, self.closed, self.handler = Comm(), False, None
                page.widget = self

            def on_msg(self, handler: Any) -> None:
                self.handler = handler

        class Comm:
            def _reply_subshell_for(self, data: Any, default: Any) -> Any:
                return "the main shell"

        def display(what: Any, **keys: Any) -> None:
            if breaks and not keys.get("update"):
                self.shown.set()
                raise RuntimeError("no display")
            self.sent.append((what, keys))
            self.shown.set()

        monkeypatch.setattr(gauge_module, "widget_class", lambda: Widget)
        monkeypatch.setattr(gauge_module, "empty", lambda w: setattr(w, "closed", True))
        monkeypatch.setattr("IPython.display.display", display)


def started(page: Page, **keys: Any) -> LiveGauge:
    gauge = LiveGauge(frame, label="cell", delay_s=0, interval_s=0.001, **keys)
    gauge.start()
    assert page.shown.wait(30)
    return gauge


def test_the_report_takes_the_gauges_place_and_the_widget_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page = Page(monkeypatch)
    gauge = started(page)
    assert gauge.finish({"text/plain": "report"}, {"h2q": {}}) is True
    (_, first), (last, swap) = page.sent[0], page.sent[-1]
    assert last == {"text/plain": "report"}
    assert (swap["update"], swap["raw"], swap["metadata"]) == (True, True, {"h2q": {}})
    assert swap["display_id"] == first["display_id"]
    assert page.widget.closed
    assert gauge.error is None


def test_a_display_that_fails_never_reaches_the_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    page = Page(monkeypatch, breaks=True)
    gauge = started(page)
    gauge.finish({"text/plain": "report"})
    assert isinstance(gauge.error, RuntimeError)


def test_clicks_call_back_and_a_failing_callback_is_recorded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page, raised = Page(monkeypatch), []

    def stop() -> None:
        raise ValueError("no")

    gauge = started(page, on_raise=raised.append, on_stop=stop, raise_bytes=5)
    click = page.widget.handler
    for content in ({"kind": "raise"}, {"kind": "stop"}, {"kind": "other"}, "junk", None):
        click(page.widget, content, [])
    gauge.finish(None)
    click(page.widget, {"kind": "raise"}, [])
    assert raised == [5], "a click after the end does nothing"
    assert isinstance(gauge.error, ValueError)


def test_the_pages_messages_keep_the_shell_that_the_page_chose(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page = Page(monkeypatch)
    started(page).finish(None)
    assert page.widget.comm._reply_subshell_for({}, "the subshell") == "the subshell"
    keep_shell(object())  # ipykernel before 7.4: nothing to cure


def test_the_built_front_end_is_packaged_with_its_licence_and_is_small_per_gauge() -> None:
    built = assets()
    assert "plotly.js" in built.engine[:300]
    assert "MIT License" in built.engine[:300]
    assert len(built.engine) < 1_300_000
    assert len(built.module) < 10_000
    assert "--jp-ui-font-color1" in built.style
