"""``import h2q`` gives exactly the promised names, costs nothing and changes nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import h2q
import h2q_notebook

NAMES = {
    "BadArgument",
    "BenchInterrupted",
    "BenchRun",
    "CaseResult",
    "CellOutcome",
    "CellStopRequested",
    "CellStopped",
    "CellTimeExceeded",
    "GuardUnavailable",
    "H2QError",
    "LadderEstimate",
    "LoadFailed",
    "LoadOutcome",
    "LoadRefused",
    "MemoryBudgetExceeded",
    "MemoryGuardian",
    "MemorySafeConfig",
    "MemorySafeModelLoader",
    "MemorySafeStartupSystem",
    "MissingExtra",
    "ModelRefused",
    "bench",
    "estimate",
    "fit_batch_size",
    "history",
    "last",
    "load",
    "raise_budget",
    "register_reclaimer",
    "stop",
}
HEAVY = ("torch", "transformers", "numpy", "plotly", "ipywidgets", "anywidget", "IPython", "psutil")


def in_fresh_python(code: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", f"import json, sys\n{code}"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return json.loads(done.stdout)


def test_the_public_names_are_exactly_these() -> None:
    assert set(h2q.__all__) == NAMES
    # there "load" and "bench" are rooms
    assert set(h2q_notebook.__all__) == NAMES - {"load", "bench"}
    assert list(h2q.__all__) == sorted(h2q.__all__)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_public_name_can_be_had(name: str) -> None:
    assert hasattr(h2q, name)


def test_importing_h2q_brings_in_nothing_heavy() -> None:
    code = f"import h2q\nprint(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    assert in_fresh_python(code) == []


def test_importing_h2q_starts_nothing_and_changes_no_handler() -> None:
    code = (
        "import signal, threading\n"
        "def state():\n"
        "    return [str(signal.getsignal(s)) for s in signal.valid_signals()]\n"
        "before = state()\nimport h2q\n"
        "print(json.dumps([state() == before, threading.active_count()]))"
    )
    assert in_fresh_python(code) == [True, 1]


def test_load_stays_a_function_after_its_room_was_imported() -> None:
    # The room h2q_notebook.load and the function share a name; importing the room must not win.
    code = (
        "import h2q\nimport h2q_notebook.load.loader\n"
        "print(json.dumps(callable(h2q.load)))"
    )  # fmt: skip
    assert in_fresh_python(code) is True


def test_a_model_is_estimated_and_loaded_without_ipython() -> None:
    code = (
        "import h2q\n"
        "told = h2q.estimate('h2q://tiny-deepseek', budget='1GiB', context=64)\n"
        "kept = h2q.load('h2q://tiny-deepseek', budget='1GiB', ladder=['int8'])\n"
        "print(json.dumps([told.verdicts[told.chosen].rung.name, kept.plan.rung.name, "
        "type(kept.model).__name__, 'IPython' in sys.modules, 'plotly' in sys.modules]))"
    )
    expected = ["fp32", "int8", "DeepseekV3ForCausalLM", False, False]
    assert in_fresh_python(code) == expected


@pytest.mark.parametrize("given", ["full,int9", ["int8", "int8"], []])
def test_a_wrong_ladder_is_one_sentence(given: Any) -> None:
    with pytest.raises(h2q.BadArgument, match=r"^--ladder"):
        h2q.load("h2q://tiny-deepseek", ladder=given)


def test_a_wrong_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = h2q_notebook.nonsense


def test_dir_shows_the_public_names_and_the_extension_hooks() -> None:
    assert {*NAMES, "load_ipython_extension", "unload_ipython_extension"} <= set(dir(h2q))


def test_without_a_session_there_is_no_history_and_nothing_to_stop() -> None:
    code = (
        "import h2q\n"
        "print(json.dumps([h2q.last, h2q.history, h2q.stop(), h2q.raise_budget('1MiB')]))"
    )
    assert in_fresh_python(code) == [None, [], False, 0]


def test_an_unreadable_raise_is_refused_even_without_a_session() -> None:
    with pytest.raises(h2q.BadArgument, match="cannot read 'lots' as a size"):
        h2q.raise_budget("lots")


def test_the_version_is_the_one_of_the_package() -> None:
    metadata = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text()
    assert f'\nversion = "{h2q_notebook.__version__}"\n' in metadata
