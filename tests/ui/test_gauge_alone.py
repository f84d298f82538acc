"""The live gauge in a real page, fed by a made-up reading: nothing of the guard is involved."""

from __future__ import annotations

import json
import re
from typing import Any

from .lab import Lab, Notebook, opened

SETUP = """
import time
from h2q_notebook.cell.outcome import Event
from h2q_notebook.views import gauge
from h2q_notebook.views.gauge import GaugeFrame, LiveGauge

MIB = 1 << 20
gauge.warm().join()

class Fake:
    \"\"\"A made-up cell: 20 MiB a second, against a limit that Raise moves.\"\"\"
    def __init__(self):
        self.began, self.limit, self.stopping, self.calls = time.monotonic(), 300 * MIB, False, []
    def read(self):
        t = time.monotonic() - self.began
        used = int(20 * MIB * t)
        share = used / self.limit
        level = ('calm' if share < .8 else 'warn' if share < .9 else
                 'clean' if share <= 1 else 'over')
        return GaugeFrame(t, used, self.limit, used, level,
                          'stopping' if self.stopping else 'running',
                          max(0, (self.limit - used) / (20 * MIB)),
                          (Event(1.0, 20 * MIB, 'began <b>to</b> grow', 'info'),))
    def raised(self, n):
        self.calls.append(('raise', n)); self.limit += n
    def stop(self):
        self.calls.append(('stop',)); self.stopping = True

def busy(fake, seconds):
    \"\"\"Pure Python work that never sleeps.\"\"\"
    until, n = time.monotonic() + seconds, 0
    while time.monotonic() < until and not fake.stopping:
        n += 1
"""

CELL = """
fake = Fake()
shown = LiveGauge(fake.read, label='made-up cell', on_raise=fake.raised, on_stop=fake.stop)
shown.start()
busy(fake, 60)
replaced = shown.finish({'text/plain': 'SUMMARY text', 'text/html': '<p>SUMMARY of the cell</p>'},
                        {'h2q': {'status': 'stopped'}})
"""

ASK = "print('calls', fake.calls, 'replaced', replaced, 'error', shown.error)"


def _words(notebook: Notebook) -> str:
    return str(notebook.cell(1).locator(".h2q-words").inner_text())


def _changes(notebook: Notebook, before: str) -> None:
    notebook.page.wait_for_function(
        "(before) => document.querySelector('.h2q-words').textContent !== before", arg=before
    )


def _acts_while_busy(notebook: Notebook) -> None:
    notebook.run(0)
    notebook.run(1, wait=False)
    gauge = notebook.cell(1).locator(".h2q-gauge")
    gauge.locator(".main-svg").first.wait_for()
    assert notebook.busy(1)
    _changes(notebook, _words(notebook))
    assert notebook.page.locator(".h2q-spoken[role=status][aria-live=polite]").count() == 1
    assert "made-up cell: memory" in gauge.locator(".h2q-plot").get_attribute("aria-label")
    mark = gauge.locator(".textpoint text").text_content()
    assert mark == "began <b>to</b> grow", "an event's text is text, never markup"

    raise_button = gauge.get_by_role("button", name="Raise budget +512 MiB")
    raise_button.focus()
    notebook.page.keyboard.press("Enter")
    notebook.page.wait_for_function(
        "() => document.querySelector('.h2q-words').textContent.includes('of 812 MiB')"
    )
    assert notebook.busy(1), "Raise acted while the cell was busy"

    gauge.get_by_role("button", name="Stop cell").click()
    notebook.wait(1)
    notebook.cell(1).get_by_text("SUMMARY of the cell", exact=True).wait_for()
    assert gauge.count() == 0
    notebook.run(2)
    said = notebook.text(2)
    assert "[('raise', 536870912), ('stop',)] replaced True error None" in said


def _is_kept_small(notebook: Notebook) -> None:
    notebook.save()
    outputs = notebook.lab.outputs(notebook.name, 1)
    assert [o["data"]["text/plain"] for o in outputs] == [["SUMMARY text"]]
    assert outputs[0]["metadata"]["h2q"] == {"status": "stopped"}
    assert len((notebook.lab.root / notebook.name).read_bytes()) < 100_000
    assert "widgets" not in json.loads((notebook.lab.root / notebook.name).read_text())["metadata"]
    notebook.page.goto("about:blank")
    notebook.lab.end_kernels()
    notebook.open(kernel=False)
    notebook.cell(1).get_by_text("SUMMARY of the cell", exact=True).wait_for()


def test_the_gauge_moves_and_its_buttons_act_while_a_python_cell_is_busy_in_lab(
    lab: Lab, browser: Any
) -> None:
    with opened(lab, browser, SETUP, CELL, ASK) as notebook:
        _acts_while_busy(notebook)
        _is_kept_small(notebook)
        assert notebook.errors == []
        assert notebook.outside == []


def test_the_gauge_moves_and_its_buttons_act_while_a_python_cell_is_busy_in_notebook_7(
    notebook7: Lab, browser: Any
) -> None:
    with opened(notebook7, browser, SETUP, CELL, ASK) as notebook:
        _acts_while_busy(notebook)
        _is_kept_small(notebook)
        assert notebook.errors == []


def test_a_cell_shorter_than_the_delay_shows_no_gauge(lab: Lab, browser: Any) -> None:
    short = "fake = Fake(); g = LiveGauge(fake.read, label='x'); g.start(); print(g.finish({}))"
    with opened(lab, browser, SETUP, short) as notebook:
        notebook.run(0)
        notebook.run(1)
        assert notebook.text(1).strip() == "False"


def test_the_gauge_stays_with_its_cell_and_follows_the_theme(lab: Lab, browser: Any) -> None:
    start = "fake = Fake(); g = LiveGauge(fake.read, label='x', persistent=True); g.start()"
    with opened(lab, browser, SETUP, start, "busy(fake, 1)", "print(g.finish(None))") as notebook:
        notebook.run(0)
        notebook.run(1)
        notebook.cell(1).locator(".main-svg").first.wait_for()
        assert notebook.cell(1).get_by_role("button", name="Stop cell").count() == 0
        line = "() => document.querySelector('.h2q-plot .xtick text').style.fill"
        light = notebook.page.evaluate(line)
        notebook.theme("JupyterLab Dark")
        notebook.page.locator(".h2q-gauge[data-theme=dark]").wait_for()
        notebook.page.wait_for_function(f"(light) => ({line})() !== light", arg=light)
        notebook.run(2)
        assert notebook.text(2) == ""
        _changes(notebook, _words(notebook))
        notebook.run(3)
        assert notebook.text(3).strip() == "True"
        notebook.cell(1).locator("svg[role=img]").wait_for()
        assert re.search(r"x .*of 300 MiB", notebook.text(1))
        assert notebook.errors == []


def test_a_page_opened_later_asks_for_the_drawing_code_and_gets_it_while_busy(
    lab: Lab, browser: Any
) -> None:
    with opened(lab, browser, SETUP, CELL, ASK) as notebook:
        notebook.run(0)
        notebook.run(1, wait=False)
        notebook.cell(1).locator(".main-svg").first.wait_for()
        notebook.cell(1).get_by_role("button", name="Stop cell").click()
        notebook.wait(1)
        notebook.save()
        notebook.open()  # the page forgets what it was given; the kernel lives on
        notebook.run(1, wait=False)
        notebook.cell(1).locator(".main-svg").first.wait_for()
        assert notebook.busy(1)
        notebook.cell(1).get_by_role("button", name="Stop cell").click()
        notebook.wait(1)
        assert notebook.errors == []
