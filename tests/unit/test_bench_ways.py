"""Ways of loading are weighed from outside, and one that fails is a row, not an error."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import pytest

from h2q_notebook.bench.ways import compare_ways
from h2q_notebook.load.sources import resolve
from h2q_notebook.units import GIB, MIB
from h2q_notebook.views import ways_report

SCRIPT = """
import json, sys, time
way = sys.argv[1]
print("ready", flush=True); sys.stdin.readline()
if way == "fails": raise ValueError("no such weights")
size = 900 if way == "greedy" else 60
kept = bytearray(size << 20); kept[::4096] = b"x" * len(kept[::4096]); time.sleep(0.05)
if way == "thrifty": del kept
print("loaded", flush=True); sys.stdin.readline()
logits = "a" if way != "other" else "b"
print(json.dumps({"load_s": 1.0, "first_answer_s": 2.0, "logits": logits}), flush=True)
sys.stdin.readline()
"""


def command(way: str) -> Sequence[str]:
    return [sys.executable, "-c", SCRIPT, way]


def test_peak_and_what_remains_are_told_apart_and_an_overrun_is_ended() -> None:
    ways = ["plain", "thrifty", "other", "fails", "greedy"]
    told: list[str] = []
    found = compare_ways("m", ways, command, budget_bytes=400 * MIB, rounds=2, tell=told.append)
    rows = {one.way: one for one in found.ways}
    assert rows["plain"].peak_anon_bytes >= 55 * MIB
    assert rows["plain"].resident_anon_bytes >= 55 * MIB
    assert rows["thrifty"].peak_anon_bytes >= 55 * MIB
    assert rows["thrifty"].resident_anon_bytes < 20 * MIB
    assert (rows["plain"].identical, rows["other"].identical) == (True, False)
    assert rows["fails"].error == "ValueError: no such weights"
    assert rows["greedy"].error == "was ended over the budget of 400 MiB"
    assert told.count("fails (round 1 of 2)") == 1
    assert "fails (round 2 of 2)" not in told
    shown = ways_report.bundle(found)["text/plain"]
    assert "no such weights" in shown
    figure = ways_report.figure(found)
    assert list(figure.data[0].x) == ["plain", "thrifty", "other"]


def test_h2qs_load_gives_the_logits_of_from_pretrained() -> None:
    pytest.importorskip("transformers")
    path = resolve("h2q://tiny-deepseek")

    def one_load(way: str) -> Sequence[str]:
        return [
            sys.executable,
            "-m",
            "h2q_notebook.load.one_load",
            way,
            str(path),
            "auto",
            str(GIB),
        ]

    ways = ["from_pretrained", "full", "mapped", "int8"]
    found = compare_ways("tiny", ways, one_load, budget_bytes=GIB, rounds=1)
    assert [one.error for one in found.ways] == [""] * 4
    assert [one.identical for one in found.ways] == [True, True, True, False]
