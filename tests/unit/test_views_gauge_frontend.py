"""Which gauge is chosen where, and the gauges without widgets."""

from __future__ import annotations

import io
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from h2q_notebook.errors import BadArgument
from h2q_notebook.units import MIB
from h2q_notebook.views.fallback import FallbackGauge
from h2q_notebook.views.frontend import buttons_act, detect, make_gauge
from h2q_notebook.views.gauge import GaugeFrame, LiveGauge

KERNEL = SimpleNamespace(_supports_kernel_subshells=True)
NOTEBOOK = SimpleNamespace(kernel=KERNEL, user_ns={})
VSCODE = SimpleNamespace(kernel=KERNEL, user_ns={"__vsc_ipynb_file__": "x"})
TERMINAL = SimpleNamespace(user_ns={})
SESSION = {"JPY_SESSION_NAME": "x.ipynb"}


@pytest.mark.parametrize(
    ("shell", "environ", "expected"),
    [
        (None, {}, "text"),
        (TERMINAL, {}, "text"),
        (TERMINAL, SESSION, "text"),
        (NOTEBOOK, SESSION, "widgets"),
        (NOTEBOOK, {}, "html"),
        (VSCODE, {}, "widgets"),
        (NOTEBOOK, {"VSCODE_PID": "7"}, "widgets"),
        (NOTEBOOK, {**SESSION, "H2Q_GAUGE": "off"}, "off"),
        (NOTEBOOK, {**SESSION, "H2Q_GAUGE": "HTML"}, "html"),
        (NOTEBOOK, {"H2Q_GAUGE": "widgets"}, "widgets"),
        (TERMINAL, {"H2Q_GAUGE": "widgets"}, "text"),
    ],
)
def test_the_front_end_is_told_by_what_the_kernel_can_see(
    shell: Any, environ: dict[str, str], expected: str
) -> None:
    pytest.importorskip("anywidget")
    assert detect(shell, environ) == expected


def test_an_unknown_wish_is_refused_in_one_sentence() -> None:
    with pytest.raises(BadArgument, match="H2Q_GAUGE: 'blink' is not one of off, html, widgets"):
        detect(NOTEBOOK, {"H2Q_GAUGE": "blink"})


def test_buttons_are_left_out_where_a_click_cannot_act_while_the_cell_runs() -> None:
    assert buttons_act(NOTEBOOK, SESSION)
    assert not buttons_act(VSCODE, {})
    assert not buttons_act(SimpleNamespace(kernel=object(), user_ns={}), SESSION)
    gauge = make_gauge("widgets", frame, label="x", on_stop=print, buttons=False)
    assert isinstance(gauge, LiveGauge)
    assert gauge._on_stop is None
    assert "Interrupt" in gauge._hint


def frame() -> GaugeFrame:
    return GaugeFrame(1.0, 10 * MIB, 400 * MIB, 20 * MIB, "calm", "running", None)


class Terminal(io.StringIO):
    def __init__(self) -> None:
        super().__init__()
        self.wrote = threading.Event()

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.wrote.set()
        return super().write(text)


def test_a_terminal_gets_one_line_that_is_blanked_at_the_end() -> None:
    screen = Terminal()
    gauge = FallbackGauge(frame, label="cell", mode="text", delay_s=0, stream=screen)
    gauge.start()
    assert screen.wrote.wait(30)
    assert gauge.finish({"text/plain": "report"}) is False
    written = screen.getvalue()
    assert "10 MiB of 400 MiB" in written
    assert "\n" not in written
    assert written.endswith("\r")
    assert written.split("\r")[-2].strip() == ""


@pytest.mark.parametrize("mode", ["text", "off"])
def test_where_there_is_no_screen_nothing_is_written_and_no_thread_runs(mode: Any) -> None:
    stream = io.StringIO()
    gauge = FallbackGauge(frame, label="cell", mode=mode, delay_s=0, stream=stream)
    gauge.start()
    assert gauge._thread is None
    assert gauge.finish({"text/plain": "report"}) is False
    assert stream.getvalue() == ""


def test_without_widgets_an_output_is_replaced_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[Any, dict[str, Any]]] = []
    shown = threading.Event()

    def display(what: Any, **keys: Any) -> None:
        sent.append((what, keys))
        shown.set()

    monkeypatch.setattr("IPython.display.display", display)
    gauge = FallbackGauge(frame, label="cell", mode="html", delay_s=0)
    gauge.start()
    assert shown.wait(30)
    assert gauge.finish({"text/plain": "report"}, {"h2q": 1}) is True
    assert sent[0][1]["update"] is False
    assert "<svg" in sent[0][0]["text/html"]
    assert sent[-1][0] == {"text/plain": "report"}
    assert sent[-1][1]["update"] is True
    assert len({keys["display_id"] for _, keys in sent}) == 1
