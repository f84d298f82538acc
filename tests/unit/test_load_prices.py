"""What a form costs is said as it was measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from h2q_notebook.load import prices as room
from h2q_notebook.load.ladder import LADDER
from h2q_notebook.load.prices import prices

RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "rung_quality.json"


def test_the_figures_shown_are_the_ones_the_benchmark_wrote() -> None:
    shown, measured = room._figures(), json.loads(RESULT.read_text(encoding="utf-8"))
    assert shown["model"] == measured["model"]
    assert shown["rungs"]
    for kind, row in shown["rungs"].items():
        assert row == {key: measured["rungs"][kind][key] for key in row}


def test_a_loss_is_told_as_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"int4": {"nll_over_bf16": 0.25, "speed_of_bf16": 0.5}}
    figures = {"model": "m", "command": "c", "rungs": rows}
    monkeypatch.setattr(room, "_figures", lambda: figures)
    assert prices("int4") == ("0.5x the speed of bf16", "log-likelihood -0.250 a token (m, c)")


def test_every_form_but_the_plain_ones_has_a_price() -> None:
    for kind in LADDER:
        assert bool(prices(kind)[0]) == (kind not in ("full", "bf16"))
