"""Loading, estimating and benching as a person meets them in JupyterLab."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from .lab import Lab, opened

pytest.importorskip("transformers")
TINY = "h2q://tiny-deepseek"
CELLS = (
    "%load_ext h2q",
    f"%h2q_estimate {TINY} --context 128",
    f"%h2q_load {TINY} --as adder",
    "run = %h2q_bench adder --suite addition-20 --samples 3 --temperature 0.7\nrun",
    "other = %h2q_bench adder --suite addition-20 --max-new-tokens 16",
    "get_ipython().run_line_magic('h2q_bench', f'--compare {run.run_id} {other.run_id}')",
    "%h2q_bench adder --suite addition-20 --samples 200 --temperature 1",
    "print('still here:', run.total)",
)


def _picture(notebook: Any, name: str, cell: int) -> None:
    wanted = os.environ.get("H2Q_SCREENSHOTS")
    if wanted:
        notebook.screenshot(Path(wanted) / f"{name}.png", cell)


def test_a_model_is_estimated_loaded_benched_compared_and_interrupted(
    lab: Lab, browser: Any
) -> None:
    with opened(lab, browser, *CELLS, width=1300, height=1400) as notebook:
        for at in range(3):
            notebook.run(at)
        _picture(notebook, "estimate", 1)
        assert "fits: needs" in notebook.text(1)
        assert notebook.cell(1).locator("svg").count() >= 1, "memory over context is drawn"
        assert "LOADED" in notebook.text(2)

        notebook.run(3, wait=False)
        table = notebook.cell(3).locator(".jp-OutputArea table")
        table.first.wait_for()
        live = notebook.cell(3).locator("[role=status]")
        live.first.wait_for()
        notebook.wait(3)
        _picture(notebook, "bench", 3)
        assert "of 60 passed (95 % interval" in notebook.text(3)
        assert table.count() == 1, "the live table has gone, the run's own stays"
        assert live.count() == 0

        notebook.run(4)
        notebook.run(5)
        assert "is better" in notebook.text(5)
        plot = notebook.cell(5).locator(".js-plotly-plot .main-svg").first
        plot.wait_for(timeout=30_000)
        notebook.page.wait_for_timeout(1000)
        _picture(notebook, "compare", 5)

        notebook.run(6, wait=False)
        notebook.page.wait_for_function(
            "() => [...document.querySelectorAll('[role=status]')].some("
            "(one) => /^\\d\\d of 4000/.test(one.textContent))",
            timeout=60_000,
        )
        notebook.page.evaluate(
            "() => window.jupyterapp.commands.execute('notebook:interrupt-kernel')"
        )
        notebook.wait(6)
        assert "answers, which are kept; %h2q_bench --resume" in notebook.text(6)
        assert "Traceback" not in notebook.text(6)
        notebook.run(7)
        assert "still here: 60" in notebook.text(7)

        notebook.save()
        saved = notebook.lab.outputs(notebook.name, 3)
        (result,) = [one for one in saved if one["output_type"] == "execute_result"]
        assert result["metadata"]["h2q"]["total"] == 60
        assert "<script" not in json.dumps(result["data"])
        assert notebook.outside == []
        assert notebook.errors == []
