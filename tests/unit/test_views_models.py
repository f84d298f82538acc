"""Estimates, models and unloading are shown plainly, escaped, as text and as HTML."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from h2q_notebook.load.estimate import Estimate
from h2q_notebook.load.facts import ModelFacts
from h2q_notebook.load.ladder import Rung, Verdict
from h2q_notebook.load.outcome import LadderEstimate
from h2q_notebook.load.registry import LoadedModel
from h2q_notebook.units import GIB, MIB
from h2q_notebook.views import estimate_report, models

FACTS = ModelFacts("/m", "config", "<i>llama", "{}", (), (), "BF16", False)
FIGURES = Estimate(
    "bf16", 134_515_008, 256 * MIB, (("linear", 200 * MIB), ("experts", 0)), 280 * MIB, 45 * MIB,
    99 * MIB, 2048, 1, "counted",
)  # fmt: skip
FULL = Rung("bf16", "full", "bf16", 256 * MIB, 280 * MIB, 400 * MIB)
INT8 = Rung("int8", "int8", "bf16", 160 * MIB, 175 * MIB, 304 * MIB, speed="2x", quality="near")
TOLD = LadderEstimate(
    label="a<b",
    facts=FACTS,
    figures=(FIGURES,),
    verdicts=(Verdict(FULL, False, "needs 400 MiB"), Verdict(INT8, True, "needs 304 MiB")),
    chosen=1,
    reason="int8 fits",
    budget_bytes=350 * MIB,
    context_tokens=2048,
    batch=1,
    curve=((512, 280 * MIB), (2048, 304 * MIB), (4096, 420 * MIB)),
    notes=("a & b",),
)


def test_an_estimate_shows_every_form_three_parts_of_a_run_and_prices() -> None:
    text = estimate_report.bundle(TOLD)["text/plain"]
    for shown in (
        "134,515,008 parameters", "no: needs 400 MiB", "fits: needs 304 MiB", "+ cache",
        "45 MiB", "99 MiB", "counted on fake tensors", "int8: 2x; near", "a prompt of 2,048 tokens",
        "4,096 tokens 420 MiB", "would take int8 fits", "a & b",
    ):  # fmt: skip
        assert shown in text, shown
    assert "experts" not in text  # there are none


def test_its_html_is_escaped_and_its_plot_says_what_it_shows() -> None:
    html = estimate_report.bundle(TOLD)["text/html"]
    assert "a<b" not in html
    assert "<i>" not in html
    assert "<script" not in html
    assert "a &amp; b" in html
    assert "<title>Memory of a&lt;b (int8) over context</title>" in html
    assert "<desc>512 tokens 280 MiB" in html
    assert "budget 350 MiB" in html
    alone = estimate_report.bundle(replace(TOLD, curve=()))
    assert "<svg" not in alone["text/html"]


def test_a_refused_estimate_says_so() -> None:
    told = replace(TOLD, chosen=None, reason="give --budget 175MiB")
    assert "would be refused: give --budget 175MiB" in estimate_report.bundle(told)["text/plain"]
    data = json.loads(json.dumps(estimate_report.metadata(told)))
    assert (data["chosen"], data["rungs"][1]["fits"]) == (None, True)


MODEL = LoadedModel(
    "m<", "LlamaForCausalLM", "mapped", "causal-lm", 3 * MIB, 256 * MIB, 0, GIB, 90.0, 90.0
)


def test_models_are_listed_with_where_their_bytes_are() -> None:
    text = models.bundle([(MODEL, True), (replace(MODEL, idle_s=2.0), False)])["text/plain"]
    assert "256 MiB" in text
    assert "not yet" in text
    assert "2.0 s ago" in text
    assert "(no longer its name)" in text
    assert "m&lt;" in models.bundle([(MODEL, True)])["text/html"]
    assert "no model" in models.bundle([])["text/plain"]


@pytest.mark.parametrize(
    ("kept", "says"),
    [
        (None, "m< is gone"),
        (("pipe.model", "Out[3]"), "the model lives: still held by pipe.model, Out[3]"),
        ((), "still held, by nobody that could be found"),
    ],
)
def test_unloading_tells_what_is_gone_and_who_keeps_the_rest(
    kept: tuple[str, ...] | None, says: str
) -> None:
    shown = models.unloaded([MODEL], {"m<": kept}, 250 * MIB)
    assert says in shown["text/plain"]
    assert "250 MiB were given back" in shown["text/plain"]
    assert "m<" not in shown["text/html"]
    assert "no model to unload" in models.unloaded([], {}, 0)["text/plain"]
