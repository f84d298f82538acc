"""The whole of h2q as a person meets it: a guarded cell, its gauge, its buttons, its report.

With ``H2Q_SCREENSHOT=docs/gauge.png`` in the environment it also takes the README's pictures: that
file, and beside it one in the dark theme (``gauge-dark.png``).
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from .lab import Lab, Notebook, opened

LOAD = "%load_ext h2q\nepochs_done = 41"
# Grows 40 MiB a second without ever sleeping, far past its budget; ends by itself after 2 GiB.
CELL = """%%h2q_budget 400MiB --name training
import time
kept = []
while len(kept) < 200:
    kept.append(bytearray(b"x") * (10 << 20))
    until = time.monotonic() + 0.25
    while time.monotonic() < until:
        pass"""
AFTER = "print('still here:', epochs_done + 1, 'kept' in globals())"
USED_PAST = """(mib) => {
  const words = document.querySelector('.h2q-words')?.textContent ?? '';
  const [, number, unit] = words.match(/^([\\d.]+) (MiB|GiB)/) ?? [];
  return Number(number) * (unit === 'GiB' ? 1024 : 1) > mib;
}"""


def _grows_past(notebook: Notebook, mib: int) -> None:
    notebook.page.wait_for_function(USED_PAST, arg=mib, timeout=60_000)


def _picture(notebook: Notebook) -> None:
    wanted = os.environ.get("H2Q_SCREENSHOT")
    if not wanted:
        return
    path = Path(wanted)
    _grows_past(notebook, 735)  # 80 % of 912 MiB: the badge says more than OK
    notebook.page.mouse.move(5, 5)
    notebook.screenshot(path)
    notebook.theme("JupyterLab Dark")
    notebook.page.locator(".h2q-gauge[data-theme=dark]").wait_for()
    notebook.page.wait_for_timeout(800)  # the theme's own style sheet
    notebook.screenshot(path.with_stem(f"{path.stem}-dark"))
    notebook.theme("JupyterLab Light")


def test_a_growing_cell_is_watched_given_more_and_stopped_by_hand_and_the_report_is_kept(
    lab: Lab, browser: Any
) -> None:
    with opened(lab, browser, LOAD, CELL, AFTER, width=1120, height=720) as notebook:
        if os.environ.get("H2Q_SCREENSHOT"):
            notebook.page.evaluate(
                "() => window.jupyterapp.commands.execute('application:toggle-left-area')"
            )
        notebook.run(0)
        assert "h2q is ready" in notebook.text(0)
        assert notebook.text(0).strip().count("\n") == 0, "loading prints one line"

        notebook.run(1, wait=False)
        gauge = notebook.cell(1).locator(".h2q-gauge")
        gauge.locator(".main-svg").first.wait_for()
        _grows_past(notebook, 335)
        assert notebook.busy(1)
        assert re.search(r"full in \d+ s at this rate", gauge.inner_text())

        gauge.get_by_role("button", name="Raise budget").click()
        notebook.page.wait_for_function(
            "() => document.querySelector('.h2q-words').textContent.includes('of 912 MiB')"
        )
        _grows_past(notebook, 420)
        assert notebook.busy(1), "it went past its first budget and runs on"
        _picture(notebook)

        gauge.get_by_role("button", name="Stop cell").click()
        notebook.wait(1)
        gauge.wait_for(state="detached")
        report = notebook.cell(1).locator(".jp-OutputArea").first
        assert "stopped" in report.inner_text().lower()
        assert "912 MiB" in report.inner_text()
        notebook.run(2)
        assert notebook.text(2).strip() == "still here: 42 False"

        _is_kept(notebook)
        assert notebook.errors == []
        assert notebook.outside == []


def _is_kept(notebook: Notebook) -> None:
    """The file carries the report, small; it is read where there is no kernel any more."""
    notebook.save()
    saved = (notebook.lab.root / notebook.name).read_text()
    assert len(saved) < 100_000
    assert "widget-view" not in saved
    shown = [o for o in notebook.lab.outputs(notebook.name, 1) if "data" in o]
    assert [o["metadata"]["h2q"]["status"] for o in shown] == ["stopped"]
    assert set(shown[0]["data"]) == {"text/plain", "text/html"}
    assert "samples" not in json.dumps(shown[0]["metadata"])
    before = notebook.text(1)
    notebook.page.goto("about:blank")
    notebook.lab.end_kernels()
    notebook.open(kernel=False)
    notebook.cell(1).locator("svg[role=img]").wait_for()
    assert notebook.text(1) == before


def test_a_cell_that_is_stopped_over_its_budget_leaves_its_report_in_the_gauges_place(
    lab: Lab, browser: Any
) -> None:
    cell = CELL.replace("400MiB --name training", "300MiB")
    with opened(lab, browser, LOAD, cell, AFTER) as notebook:
        notebook.run(0)
        notebook.run(1, wait=False)
        notebook.cell(1).locator(".h2q-gauge .main-svg").first.wait_for()
        notebook.wait(1)
        notebook.cell(1).locator(".h2q-gauge").wait_for(state="detached")
        assert "MemoryBudgetExceeded" in notebook.text(1)
        assert "300 MiB" in notebook.text(1)
        notebook.run(2)
        assert notebook.text(2).strip() == "still here: 42 False"
        assert notebook.errors == []


def test_the_kernels_own_gauge_stays_while_other_cells_run(lab: Lab, browser: Any) -> None:
    more = "held = bytearray(b'x') * (150 << 20)"
    with opened(lab, browser, LOAD, "%h2q_gauge", more, "%h2q_gauge stop") as notebook:
        notebook.run(0)
        notebook.run(1)
        gauge = notebook.cell(1).locator(".h2q-gauge")
        gauge.locator(".main-svg").first.wait_for()
        assert gauge.get_by_role("button").count() == 0
        notebook.run(2)
        _grows_past(notebook, 150)
        notebook.run(3)
        gauge.wait_for(state="detached")
        notebook.cell(1).locator("svg[role=img]").wait_for()
        assert notebook.errors == []


def test_the_gauge_shows_each_gpu_while_the_cell_runs(lab: Lab, browser: Any) -> None:
    """With a stand-in for torch: a machine without a GPU is enough to see the words."""
    setup = (
        "import sys\nfrom tests.support import fake_gpu\ncuda = fake_gpu.Cuda(2)\n"
        "sys.modules['torch'] = fake_gpu.fake_torch(cuda)\nheld = cuda.empty(1 << 30)"
    )
    cell = (
        "%%h2q_budget 300MiB --gpu 2GiB\nimport time\nmore = cuda.empty(512 << 20)\ntime.sleep(4)"
    )
    with opened(lab, browser, LOAD, setup, cell, "%h2q_gauge", "%h2q_gauge stop") as notebook:
        for i in (0, 1):
            notebook.run(i)
        notebook.run(2, wait=False)
        words = notebook.cell(2).locator(".h2q-words")
        words.wait_for()
        assert "cuda:0 512 MiB of 2.00 GiB" in words.inner_text()
        notebook.wait(2)
        assert "cuda:0 peak 512 MiB of 2.00 GiB, kept 512 MiB" in notebook.text(2)
        notebook.run(3)
        words = notebook.cell(3).locator(".h2q-words")
        words.wait_for()
        assert "cuda:0 1.50 GiB of 8.00 GiB" in words.inner_text()
        notebook.run(4)
        assert notebook.errors == []


def test_after_a_kernel_was_killed_the_next_one_says_what_is_known(lab: Lab, browser: Any) -> None:
    end = "import os, signal, time\ntime.sleep(2)\nos.kill(os.getpid(), signal.SIGKILL)"
    with opened(lab, browser, LOAD, end, LOAD) as notebook:
        notebook.run(0)
        notebook.run(1, wait=False)
        restarted = notebook.page.get_by_role("button", name="Ok", exact=True)
        restarted.wait_for(timeout=30_000)
        restarted.click()
        notebook.page.evaluate(
            "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.info"
        )
        notebook.run(2)
        assert "this notebook's last kernel died" in notebook.text(2)
        assert "exited with -9, cause unknown" in notebook.text(2)
