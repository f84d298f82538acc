"""Memory is refused to libraries on purpose: none of them ends the process.

A few budgets of each operation; the whole record is ``python -m benchmarks.gate_faults``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from benchmarks.fault_operations import GROUPS
from benchmarks.machine import RESULTS
from h2q_notebook.guardian.gate import compiled
from h2q_notebook.guardian.gate_rules import DOORS, Door, Level
from tests.support.kernel import REPO


def record(name: str = "gate_faults") -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


BAD = ("crash", "hang")
NEEDS = {"sklearn": "sklearn", "matplotlib": "matplotlib", "pillow": "PIL"}


@pytest.mark.skipif(compiled() is None, reason="the gate is not built here")
@pytest.mark.timeout(400)
@pytest.mark.parametrize("group", GROUPS)
def test_a_refusal_ends_in_a_result_or_an_exception(group: str) -> None:
    if group in NEEDS:
        pytest.importorskip(NEEDS[group])
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.gate_faults", "--one", group]
    done = subprocess.run(
        [*command, "--budgets", "2", "40"], cwd=REPO, stdout=subprocess.PIPE, text=True, check=True
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert rows
    ended = {row["operation"]: row for row in rows if any(map(_is_bad, row["ends"]))}
    assert ended == {}


def _is_bad(end: str) -> bool:
    return end.startswith(BAD)


@pytest.mark.parametrize("door", DOORS, ids=lambda door: f"{door.file} {door.symbol}")
def test_every_door_has_its_evidence_in_a_record(door: Door) -> None:
    """A door without twenty runs of each operation behind it, or with one crash, is not opened."""
    found = record(door.record)["rows"]
    for group in door.evidence:
        rows = {key: row for key, row in found.items() if key.startswith(f"{group}: ")}
        assert len(rows) >= 20
        assert all(sum(row["ends"].values()) >= 20 for row in rows.values())
        assert sum(row["refusals"] for row in rows.values()) >= 50
        assert [key for key, row in rows.items() if any(map(_is_bad, row["ends"]))] == []


def test_the_record_is_as_large_as_promised() -> None:
    whole = record()
    safe = {key: row for key, row in whole["rows"].items() if not key.startswith("wide ")}
    assert len(safe) >= 120
    assert sum(sum(row["ends"].values()) for row in safe.values()) >= 120 * 20
    assert whole["crashes_or_hangs"] == 0
    assert {door.level for door in DOORS} == {Level.SAFE, Level.WIDE}
