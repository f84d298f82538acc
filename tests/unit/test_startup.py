"""A start does every layer or none, and a stop leaves nothing behind."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from h2q_notebook.config.settings import MemorySafeConfig
from h2q_notebook.errors import BadArgument, LoadRefused, MemoryBudgetExceeded, MissingExtra
from h2q_notebook.readings.limits import Headroom
from h2q_notebook.readings.process import read_process
from h2q_notebook.readings.tree import descendants
from h2q_notebook.startup.layered import Step, run_steps
from h2q_notebook.startup.pipeline import TextPipeline
from h2q_notebook.startup.preflight import look
from h2q_notebook.startup.system import MemorySafeStartupSystem
from h2q_notebook.units import GIB, MIB
from h2q_notebook.views import startup_report

pytest.importorskip("torch")
pytest.importorskip("transformers")
TINY = "h2q://tiny-deepseek"
LAYERS = ["preflight", "guardian", "model", "pipeline", "validation"]


def left_behind() -> tuple[list[str], list[int], int]:
    """Threads, children and open files of ours."""
    threads = sorted(one.name for one in threading.enumerate() if one.name.startswith("h2q"))
    return threads, descendants(os.getpid()), len(os.listdir("/proc/self/fd"))


@pytest.fixture
def system() -> Iterator[MemorySafeStartupSystem]:
    made = MemorySafeStartupSystem()
    yield made
    if made.running:
        made.stop()


def test_everything_starts_in_order_answers_and_stops_without_a_trace(
    system: MemorySafeStartupSystem,
) -> None:
    before = left_behind()
    report = system.start(TINY)
    assert report.ok
    assert [one.name for one in report.layers] == LAYERS
    assert {one.state for one in report.layers} == {"ready"}
    assert all(one.took_s > 0 for one in report.layers)
    assert system.pipeline("What is 17 + 25?") == "Answer: 42"
    assert "</think>" in system.pipeline("What is 17 + 25?", thoughts=True)
    with pytest.raises(BadArgument, match="running already"):
        system.start(TINY)
    assert system.restart().ok
    assert system.pipeline("What is 30 + 9?") == "Answer: 39"
    system.stop()
    assert left_behind()[:2] == before[:2]
    assert left_behind()[2] <= before[2]
    with pytest.raises(BadArgument, match="nothing is running"):
        system.stop()
    with pytest.raises(BadArgument, match="no pipeline"):
        system.pipeline("hello")


@pytest.mark.parametrize("failing", LAYERS)
@pytest.mark.parametrize("error", [RuntimeError("broken on purpose"), KeyboardInterrupt()])
def test_whatever_layer_fails_all_is_undone(
    failing: str, error: BaseException, system: MemorySafeStartupSystem,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    assert system.start(TINY).ok  # libraries are imported once and for all
    system.stop()
    before, used = left_behind(), read_process().used_bytes
    plain = system.steps(TINY)

    def half(step: Step) -> str:
        step.do()
        raise error

    steps = [
        Step(one.name, lambda one=one: half(one), one.undo) if one.name == failing else one
        for one in plain
    ]  # fmt: skip
    monkeypatch.setattr(system, "steps", lambda model: steps)
    if isinstance(error, Exception):
        report = system.start(TINY)
        assert not report.ok
        assert report.reason == f"{failing}: broken on purpose"
        states = [one.state for one in report.layers]
        at = LAYERS.index(failing)
        assert states == ["undone"] * at + ["failed"] + ["not reached"] * (4 - at)
        assert "all that was done is undone" in startup_report.bundle(report, "x")["text/plain"]
    else:
        with pytest.raises(KeyboardInterrupt):
            system.start(TINY)
    assert not system.running
    assert left_behind()[:2] == before[:2]
    assert left_behind()[2] <= before[2]
    assert read_process().used_bytes - used < 30 * MIB


def test_a_failed_start_leaves_a_guard_that_was_there_before_it(
    system: MemorySafeStartupSystem,
) -> None:
    system.guardian.start()
    assert not system.start("/no/such/model").ok
    assert system.guardian.watcher_kind != "off"
    system.guardian.close()


def test_an_undo_that_fails_does_not_keep_the_others_from_it() -> None:
    undone: list[str] = []

    def broken() -> None:
        undone.append("b")
        raise RuntimeError

    def fail() -> str:
        raise ValueError("c")

    steps = [
        Step("a", lambda: "", lambda: undone.append("a")),
        Step("b", lambda: "", broken),
        Step("c", fail, lambda: undone.append("c")),
    ]
    report = run_steps(steps, lambda: 0)
    assert undone == ["c", "b", "a"]
    assert report.reason == "c: c"


def test_an_answer_that_outgrows_its_working_budget_is_ended(
    system: MemorySafeStartupSystem,
) -> None:
    assert system.start(TINY).ok
    used = [0]

    def grows() -> int:
        used[0] += 40 * MIB
        return used[0]

    model, tokenizer = system._model, system._tokenizer
    pipeline = TextPipeline(model, tokenizer, 100 * MIB, grows)
    with pytest.raises(MemoryBudgetExceeded, match="over its working budget of 100 MiB, after"):
        pipeline("What is 17 + 25?")


def test_a_machine_without_room_or_libraries_is_refused_first() -> None:
    with pytest.raises(LoadRefused, match="only 50 MiB are free"):
        look(Headroom(50 * MIB, GIB, "cgroup limit"), model=False)

    def absent(name: str) -> str:
        from importlib import metadata

        raise metadata.PackageNotFoundError(name)

    with pytest.raises(MissingExtra, match="torch is not installed"):
        look(Headroom(GIB, GIB, "machine"), model=True, version_of=absent)
    told: Any = look(Headroom(GIB, GIB, "machine"), model=False, version_of=absent)
    assert told.versions[0][0] == "python"
    assert "1.00 GiB free (machine)" in told.words()


def test_settings_reach_the_pipeline() -> None:
    system = MemorySafeStartupSystem(MemorySafeConfig(working_memory_mb=64))
    try:
        assert system.start(TINY).ok
        assert system.pipeline.working_bytes == 64 * MIB
    finally:
        system.stop()
