from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from h2q_notebook.guardian import numpy_hook

pytest.importorskip("numpy")
pytest.importorskip("pandas")

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "refuse_faults.py"


@pytest.mark.skipif(bool(numpy_hook._why_no_stub()), reason="no numpy hook on this platform")
def test_refused_numpy_memory_never_crashes_numpy_or_pandas() -> None:
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-X", "faulthandler", str(SCRIPT), "20"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={"PYTHONPATH": str(SCRIPT.parents[1])},
    )
    assert run.returncode == 0, run.stderr[-3000:]
    report = json.loads(run.stdout)
    assert len(report) >= 24
    assert sum(line["refusals"] for line in report.values()) > 300
