"""The registry knows what lives and keeps nothing alive; holders are told by name."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import threading
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from h2q_notebook.load.binding import load_into
from h2q_notebook.load.holders import holders
from h2q_notebook.load.registry import ModelRegistry
from h2q_notebook.units import MIB
from tests.support import tiny_models as tiny

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
IDS = torch.arange(1, 9).unsqueeze(0)


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def where(tmp_path: Path) -> Path:
    folder = tiny.save_tiny("llama_tied", tmp_path / "m")
    tiny.save_tokenizer(folder)
    return folder


def test_an_entry_ends_with_its_model_and_knows_its_figures(where: Path) -> None:
    clock, names = Clock(), {}  # type: tuple[Clock, dict[str, Any]]
    registry = ModelRegistry(clock)
    outcome = load_into(names, where, budget_bytes=64 * MIB, name="m", registry=registry)
    (entry,) = registry.models()
    assert (entry.name, entry.class_name, entry.rung) == ("m", "LlamaForCausalLM", "bf16")
    assert (entry.task, entry.budget_bytes, entry.names) == (
        "causal-lm",
        64 * MIB,
        ("m", "m_tokenizer"),
    )
    assert registry.get("m") is outcome.model
    assert registry.companions("m") == (outcome.tokenizer,)
    del outcome
    names.clear()
    gc.collect()
    assert registry.models() == ()
    assert registry.get("m") is None
    assert registry.companions("m") == ()


def test_a_newer_model_of_a_name_survives_the_end_of_the_older(where: Path) -> None:
    registry, names = ModelRegistry(), {}  # type: tuple[ModelRegistry, dict[str, Any]]
    load_into(names, where, budget_bytes=64 * MIB, name="m", registry=registry)
    load_into(names, where, budget_bytes=64 * MIB, name="m", registry=registry)
    gc.collect()
    assert registry.get("m") is names["m"]


def test_using_a_model_is_noticed(where: Path) -> None:
    clock, names = Clock(), {}  # type: tuple[Clock, dict[str, Any]]
    registry = ModelRegistry(clock)
    load_into(names, where, budget_bytes=64 * MIB, registry=registry)
    clock.now_s = 160.0
    assert registry.models()[0].idle_s == 60.0
    with torch.no_grad():
        names["model"].generate(IDS, max_new_tokens=2, do_sample=False)
    clock.now_s = 175.0
    assert (registry.models()[0].idle_s, registry.models()[0].loaded_age_s) == (15.0, 75.0)


def test_copies_and_pickles_of_a_model_need_no_h2q_and_do_not_touch_its_stamp(where: Path) -> None:
    clock, names = Clock(), {}  # type: tuple[Clock, dict[str, Any]]
    registry = ModelRegistry(clock)
    load_into(names, where, budget_bytes=64 * MIB, registry=registry)
    model = names["model"]
    buffer = io.BytesIO()
    torch.save(model, buffer)
    assert b"h2q" not in buffer.getvalue()
    again = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    clock.now_s = 200.0
    with torch.no_grad():
        expected = model(IDS).logits
        clock.now_s = 300.0
        assert all(torch.equal(one(IDS).logits, expected) for one in again)
    assert registry.models()[0].idle_s == 100.0


class Thing:
    """What a model stands for in these tests."""


def make_function(kept: Any) -> Any:
    def inner() -> Any:
        return kept

    return inner


def test_holders_are_told_as_a_user_would_write_them() -> None:
    thing = Thing()
    pipe = SimpleNamespace(model=thing)
    names = {
        "pipe": pipe, "models": {"a": [thing]}, "Out": {3: thing},
        "wrapped": make_function(thing),
    }  # fmt: skip
    names["_oh"] = names["Out"]
    found = holders(thing, names)
    assert {"pipe.model", "models['a'][0]", "Out[3]"} <= set(found)
    assert any("the function" in one and "inner" in one for one in found)
    assert not any(one.startswith("_oh") for one in found)


def test_a_function_that_runs_in_a_thread_is_told_with_its_line() -> None:
    thing, go, done = Thing(), threading.Event(), threading.Event()

    def train(kept: Any) -> None:
        go.set()
        done.wait(30)

    thread = threading.Thread(target=train, args=(thing,))
    thread.start()
    go.wait(30)
    found = holders(thing, {})
    done.set()
    thread.join()
    assert any(one.startswith("train() at line") for one in found), found


def test_looking_for_holders_holds_nothing() -> None:
    thing = Thing()
    names = {"a": thing}
    reference = weakref.ref(thing)
    assert holders(thing, names) == ("a",)
    del names["a"], thing
    assert reference() is None


def test_an_object_nobody_named_has_no_holders() -> None:
    assert holders(Thing(), {"other": 1}) == ()
