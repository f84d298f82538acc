"""A load under a budget: the same model as transformers gives, or no trace of having tried."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from h2q_notebook.errors import (
    BadArgument,
    LoadFailed,
    LoadRefused,
    MemoryBudgetExceeded,
    ModelRefused,
)
from h2q_notebook.load.binding import check_name, load_into
from h2q_notebook.load.loader import MemorySafeModelLoader
from h2q_notebook.load.outcome import Progress
from h2q_notebook.load.registry import ModelRegistry
from h2q_notebook.readings.process import read_process
from h2q_notebook.units import MIB
from tests.support import tiny_models as tiny

pytest.importorskip("torch")
pytest.importorskip("transformers")

BUDGET = 512 * MIB
STAGES = ("structure", "weights", "optimise", "validate")


def logits_of(model: Any) -> Any:
    import torch

    ids = torch.arange(1, 17).unsqueeze(0)
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


def reference(where: Path, dtype: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(where, dtype=getattr(torch, dtype))


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    made: dict[tuple[str, str, str], Path] = {}

    def get(kind: str, dtype: str = "bfloat16", shard: str = "5GB") -> Path:
        key = (kind, dtype, shard)
        if key not in made:
            where = tmp_path_factory.mktemp(kind)
            made[key] = tiny.save_tiny(kind, where, dtype=dtype, shard=shard)
        return made[key]

    return get


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_logits_are_bit_equal_to_from_pretrained(kind: str, models: Callable[..., Path]) -> None:
    import torch

    where = models(kind)
    outcome = MemorySafeModelLoader().load(where, budget_bytes=BUDGET)
    expected = reference(where, "bfloat16")
    assert torch.equal(logits_of(outcome.model), logits_of(expected))
    assert outcome.plan.rung.name == "bf16"
    assert outcome.model.dtype is torch.bfloat16
    assert not outcome.model.training
    assert outcome.model.name_or_path == str(where)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("llama_tied", "bf16"),
        ("deepseek_v2", "bf16"),
        ("deepseek_v3", "bf16"),
        ("deepseek_v3", "fp16"),
        ("deepseek_v3", "fp32"),
    ],
)
def test_an_fp32_checkpoint_loads_in_any_dtype_as_from_pretrained_does(
    kind: str, dtype: str, models: Callable[..., Path]
) -> None:
    import torch

    names = {"bf16": "bfloat16", "fp32": "float32", "fp16": "float16"}
    where = models(kind, "float32")
    outcome = MemorySafeModelLoader().load(where, budget_bytes=BUDGET, dtype=dtype)
    expected = reference(where, names[dtype])
    state = outcome.model.state_dict()
    for name, value in expected.state_dict().items():
        assert state[name].dtype is value.dtype, name
        assert torch.equal(state[name], value), name
    assert torch.equal(logits_of(outcome.model), logits_of(expected))


def test_shards_load_like_one_file(models: Callable[..., Path]) -> None:
    import torch

    where = models("deepseek_v3", "bfloat16", "100KB")
    assert len(list(where.glob("*.safetensors"))) > 2
    outcome = MemorySafeModelLoader().load(where, budget_bytes=BUDGET)
    assert torch.equal(logits_of(outcome.model), logits_of(reference(where, "bfloat16")))


@pytest.mark.parametrize("kind", ["llama_tied", "deepseek_v2", "deepseek_v3"])
def test_save_pretrained_writes_what_the_hub_knows(
    kind: str, models: Callable[..., Path], tmp_path: Path
) -> None:
    where = models(kind)
    MemorySafeModelLoader().load(where, budget_bytes=BUDGET).model.save_pretrained(tmp_path)
    first, _ = tiny.read_header(where / "model.safetensors")
    again, _ = tiny.read_header(tmp_path / "model.safetensors")
    assert set(again) == set(first)


def test_fp32_falls_back_to_bf16_where_only_that_fits(tmp_path: Path) -> None:
    import torch

    where = tiny.save_dense(tmp_path, 32, "float32")
    outcome = MemorySafeModelLoader().load(where, budget_bytes=56 * MIB, dtype="fp32")
    assert outcome.plan.rung.name == "bf16"
    assert outcome.model.dtype is torch.bfloat16
    assert "passed over: fp32" in outcome.plan.reason


def test_a_model_that_cannot_fit_is_refused_with_the_budget_it_needs(tmp_path: Path) -> None:
    where = tiny.save_dense(tmp_path, 32)
    with pytest.raises(LoadRefused, match=r"needs \d+ MiB; give --budget \d+MiB") as caught:
        MemorySafeModelLoader().load(where, budget_bytes=4 * MIB)
    enough = int(str(caught.value).split("--budget ")[1].split("MiB")[0])
    MemorySafeModelLoader().load(where, budget_bytes=enough * MIB)


def test_peak_is_the_model_and_one_piece(tmp_path: Path) -> None:
    where = tiny.save_dense(tmp_path, 96, "float32")
    MemorySafeModelLoader().load(where, budget_bytes=BUDGET)  # libraries' own caches fill once
    outcome = MemorySafeModelLoader().load(where, budget_bytes=BUDGET, dtype="bf16")
    weights = outcome.plan.rung.resident_bytes
    assert outcome.peak_bytes < weights + 24 * MIB


def test_model_and_tokenizer_are_bound_together(
    models: Callable[..., Path], tmp_path: Path
) -> None:
    where = tiny.save_tiny("llama_tied", tmp_path)
    tiny.save_tokenizer(where)
    names: dict[str, Any] = {}
    load_into(names, where, budget_bytes=BUDGET)
    assert set(names) == {"model", "tokenizer"}
    registry = ModelRegistry()
    outcome = load_into(names, where, budget_bytes=BUDGET, name="small", registry=registry)
    assert outcome.names == ("small", "small_tokenizer")
    assert [entry.name for entry in registry.models()] == ["small"]
    names.clear()
    del outcome
    assert registry.models() == ()


def test_a_directory_without_tokenizer_gives_the_model_and_says_so(
    models: Callable[..., Path],
) -> None:
    old = object()
    names: dict[str, Any] = {"tokenizer": old}
    outcome = load_into(names, models("qwen2_tied"), budget_bytes=BUDGET)
    assert names["tokenizer"] is old
    assert any("no tokenizer" in note for note in outcome.notes)


def test_generation_settings_come_along(tmp_path: Path) -> None:
    where = tiny.save_tiny("llama_tied", tmp_path)
    (where / "generation_config.json").write_text('{"max_length": 77, "eos_token_id": 5}')
    model = MemorySafeModelLoader().load(where, budget_bytes=BUDGET).model
    assert model.generation_config.eos_token_id == 5
    assert model.generation_config.max_length == 77


class HalfWay:
    """A watch that ends the load once so many bytes were reserved."""

    def __init__(self, after_bytes: int) -> None:
        self.left = after_bytes

    def reserve(self, n_bytes: int, what: str) -> None:
        self.left -= n_bytes
        if self.left < 0:
            raise MemoryBudgetExceeded(f"{what}: enough")

    def check(self) -> None:
        pass


def test_an_overrun_at_half_the_weights_gives_everything_back(tmp_path: Path) -> None:
    where = tiny.save_dense(tmp_path, 96)
    loader = MemorySafeModelLoader(watch_factory=lambda limit, read: HalfWay(48 * MIB))
    MemorySafeModelLoader().load(where, budget_bytes=BUDGET)
    old = object()
    names: dict[str, Any] = {"model": old, "tokenizer": old}
    before = read_process().used_bytes, tiny.open_files(), threading.active_count()
    with pytest.raises(MemoryBudgetExceeded) as kept:  # kept, as IPython keeps sys.last_value
        load_into(names, where, budget_bytes=BUDGET, loader=loader)
    assert read_process().used_bytes - before[0] < 10 * MIB
    assert (tiny.open_files(), threading.active_count()) == before[1:]
    assert names == {"model": old, "tokenizer": old}
    assert kept.value is not None


def test_a_budget_passed_while_reading_ends_the_load(tmp_path: Path) -> None:
    where = tiny.save_dense(tmp_path, 64)
    use = [0]

    def read_used() -> int:  # another thread of the kernel grows beside the load
        use[0] += 8 * MIB
        return use[0]

    loader = MemorySafeModelLoader(read_used=read_used)
    with pytest.raises(MemoryBudgetExceeded, match=r"budget"):
        loader.load(where, budget_bytes=90 * MIB)


class InjectedError(Exception):
    pass


@pytest.mark.parametrize(
    ("stage", "kind"),
    [
        *((stage, kind) for stage in STAGES for kind in (InjectedError, KeyboardInterrupt)),
        ("weights", MemoryError),
        ("validate", MemoryBudgetExceeded),
    ],
)
def test_every_stage_can_fail_and_is_undone(
    stage: str, kind: type[BaseException], models: Callable[..., Path]
) -> None:
    seen: list[Progress] = []

    def progress(now: Progress) -> None:
        seen.append(now)
        if now.stage == stage:
            raise kind("injected")

    ordinary = kind in (InjectedError, MemoryError)
    before = tiny.open_files(), dict(os.environ)
    names: dict[str, Any] = {"model": 1}
    with pytest.raises(LoadFailed if ordinary else kind, match=stage if ordinary else "injected"):
        load_into(
            names,
            models("deepseek_v3"),
            budget_bytes=BUDGET,
            loader=MemorySafeModelLoader(progress=progress),
        )
    assert names == {"model": 1}
    assert (tiny.open_files(), dict(os.environ)) == before
    assert seen[-1].stage == "failed"


@pytest.mark.parametrize("at", [1, 5, 17])
def test_a_failure_inside_the_weights_closes_files_and_restores_the_environment(
    at: int, models: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DEACTIVATE_ASYNC_LOAD", "0")

    class Fails:
        calls = 0

        def reserve(self, n_bytes: int, what: str) -> None:
            self.calls += 1
            if self.calls == at:
                raise OSError("disk gone")

        def check(self) -> None:
            pass

    before = tiny.open_files()
    loader = MemorySafeModelLoader(watch_factory=lambda limit, read: Fails())
    with pytest.raises(LoadFailed, match=r"while at weights .*disk gone"):
        loader.load(models("llama_untied"), budget_bytes=BUDGET)
    assert tiny.open_files() == before
    assert os.environ["HF_DEACTIVATE_ASYNC_LOAD"] == "0"


def test_progress_ends_with_all_bytes_done(models: Callable[..., Path]) -> None:
    seen: list[Progress] = []
    loader = MemorySafeModelLoader(progress=seen.append)
    outcome = loader.load(models("deepseek_v2"), budget_bytes=BUDGET)
    assert [p.stage for p in seen if p.stage in (*STAGES, "done")][-1] == "done"
    assert seen[-1].done_bytes == outcome.facts.stored_bytes


def test_fused_experts_are_read_in_place(models: Callable[..., Path]) -> None:
    from h2q_notebook.load.directory import inspect
    from h2q_notebook.load.mapping import map_weights
    from h2q_notebook.load.skeleton import build_skeleton

    facts = inspect(models("deepseek_v3"))
    fillings = map_weights(facts, build_skeleton(facts, "bf16"))
    assert sum(one.fused for one in fillings) == 4  # two MoE layers, gate_up and down in each
    assert not any(".experts.0." in one.key for one in fillings)


def test_many_readers_read_what_one_reads(tmp_path: Path) -> None:
    import torch

    from h2q_notebook.load.directory import inspect
    from h2q_notebook.load.reading import PieceReader

    facts = inspect(tiny.save_dense(tmp_path, 24, "float32"))
    largest = max(facts.tensors, key=lambda tensor: tensor.n_bytes)
    assert largest.n_bytes >= 4 * MIB
    results = []
    threads = threading.active_count()
    for count, dtype in ((1, torch.float32), (3, torch.float32), (3, torch.bfloat16)):
        reader = PieceReader(facts, HalfWay(1 << 40), threads=count)
        into = reader.allocate(largest.shape, dtype, "x")
        reader.read(largest, into)
        results.append(into)
        some = torch.empty((3, *largest.shape[1:]), dtype=dtype)
        reader.read_rows(largest, 5, 8, some)
        assert torch.equal(some, into[5:8])
        reader.close()
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0].bfloat16(), results[2])
    assert threading.active_count() == threads


@pytest.mark.parametrize(
    "name", ["1st", "a b", "class", "_m", "__x__", "print", "", "m.n", "None", "model;x"]
)
def test_names_that_cannot_be_bound_are_refused(name: str) -> None:
    with pytest.raises(BadArgument, match=r"--as: "):
        check_name(name)


@pytest.mark.parametrize(
    ("options", "field"),
    [({"dtype": "int3"}, "--dtype"), ({"budget_bytes": 0}, "--budget"), ({"name": "if"}, "--as")],
)
def test_a_bad_option_changes_nothing(
    options: dict[str, Any], field: str, models: Callable[..., Path]
) -> None:
    names: dict[str, Any] = {}
    with pytest.raises(BadArgument, match=f"^{field}"):
        load_into(names, models("llama_tied"), **{"budget_bytes": BUDGET, **options})
    assert names == {}


def test_a_checkpoint_with_nan_is_refused(tmp_path: Path) -> None:
    where = tiny.save_tiny("llama_tied", tmp_path)
    path = where / "model.safetensors"
    header, data = tiny.read_header(path)
    start = header["model.norm.weight"]["data_offsets"][0]
    tiny.write_safetensors(path, header, data[:start] + b"\xc0\x7f" + data[start + 2 :])
    with pytest.raises(ModelRefused, match=r"model\.norm\.weight.*NaN"):
        MemorySafeModelLoader().load(where, budget_bytes=BUDGET)
