"""Every rung of the ladder, loaded for real: exact where it says so, as large as it said."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from h2q_notebook.errors import LoadRefused, MemoryBudgetExceeded, ModelRefused
from h2q_notebook.load.directory import inspect
from h2q_notebook.load.estimate import stored_dtype
from h2q_notebook.load.forms import Asked, Forms
from h2q_notebook.load.history import History
from h2q_notebook.load.ladder import LADDER, Rung, StepName
from h2q_notebook.load.loader import MemorySafeModelLoader
from h2q_notebook.load.offload import stream_layers
from h2q_notebook.load.outcome import LoadOutcome
from h2q_notebook.load.placement import Device
from h2q_notebook.load.planning import Planner, take_order
from h2q_notebook.load.structures import Structures
from h2q_notebook.units import GIB, MIB
from tests.support import tiny_models as tiny

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

IDS = torch.arange(1, 17).unsqueeze(0)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("H2Q_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    made: dict[tuple[str, str], Path] = {}

    def get(kind: str, dtype: str = "bfloat16") -> Path:
        if (kind, dtype) not in made:
            where = tmp_path_factory.mktemp(kind)
            made[kind, dtype] = tiny.save_tiny(kind, where, dtype=dtype)
        return made[kind, dtype]

    return get


def load(where: Path, *ladder: StepName, **options: Any) -> LoadOutcome:
    return MemorySafeModelLoader().load(where, budget_bytes=512 * MIB, ladder=ladder, **options)


def logits(model: Any) -> Any:
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


def reference(where: Path, dtype: Any = torch.bfloat16) -> Any:
    from transformers import AutoModelForCausalLM

    return logits(AutoModelForCausalLM.from_pretrained(where, dtype=dtype))


@pytest.mark.parametrize("step", ["mapped", "offload"])
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_file_backed_weights_give_the_same_logits(
    kind: str, step: StepName, models: Callable[..., Path]
) -> None:
    outcome = load(models(kind), step)
    assert outcome.plan.rung.kind == step
    assert torch.equal(logits(outcome.model), reference(models(kind)))


@pytest.mark.parametrize("kind", ["llama_tied", "deepseek_v3"])
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_an_fp32_checkpoint_is_mapped_in_another_dtype_through_a_converted_file(
    kind: str, dtype: str, models: Callable[..., Path], own_cache: Path
) -> None:
    where = models(kind, "float32")
    outcome = load(where, "mapped", dtype=dtype)
    wanted = {"bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    assert torch.equal(logits(outcome.model), reference(where, wanted))
    (written,) = own_cache.rglob("*.safetensors")
    assert outcome.plan.rung.disk_bytes == pytest.approx(written.stat().st_size, rel=0.05)


def test_the_conversion_is_made_once_and_announced(models: Callable[..., Path]) -> None:
    where = models("deepseek_v3")
    first, again = ([], [])  # type: tuple[list[Progress], list[Progress]]
    budget = {"budget_bytes": 512 * MIB, "ladder": ("mapped",)}
    outcome = MemorySafeModelLoader(progress=first.append).load(where, **budget)  # type: ignore[arg-type]
    assert "convert" in {one.stage for one in first}
    assert any("written once to" in note for note in outcome.notes)
    second = MemorySafeModelLoader(progress=again.append).load(where, **budget)  # type: ignore[arg-type]
    assert "convert" not in {one.stage for one in again}
    assert (second.plan.rung.disk_bytes, second.notes) == (
        0,
        ("the directory has no tokenizer; only the model was bound",),
    )
    assert torch.equal(logits(outcome.model), logits(second.model))


def test_a_changed_checkpoint_is_converted_anew(tmp_path: Path) -> None:
    where = tiny.save_tiny("deepseek_v2", tmp_path / "m")
    load(where, "mapped")
    path = where / "model.safetensors"
    header, data = tiny.read_header(path)
    at = header["model.norm.weight"]["data_offsets"][0]
    tiny.write_safetensors(path, header, data[:at] + b"\x80\x40" + data[at + 2 :])
    os.utime(path, ns=(1, 1))
    assert torch.equal(logits(load(where, "mapped").model), reference(where))


def test_a_write_to_a_mapped_weight_never_reaches_the_file(models: Callable[..., Path]) -> None:
    where = models("llama_tied")
    before = (where / "model.safetensors").read_bytes()
    model = load(where, "mapped").model
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.zero_()
    assert (where / "model.safetensors").read_bytes() == before
    assert not model.model.layers[0].mlp.up_proj.weight.any()


def test_mapped_weights_hold_no_anonymous_memory_and_close_their_files(tmp_path: Path) -> None:
    where = tiny.save_dense(tmp_path / "m", 96)
    load(where, "full")  # libraries' own caches fill once
    files = tiny.open_files()
    outcome = load(where, "mapped")
    assert outcome.plan.rung.mapped_bytes > 90 * MIB
    assert outcome.peak_bytes < 24 * MIB
    assert [m for m in mappings(where) if "rw-p" in m]
    assert tiny.open_files() == files + 1  # Python's mmap keeps its file's descriptor
    del outcome
    gc.collect()
    assert mappings(where) == []
    assert tiny.open_files() == files


def mappings(where: Path) -> list[str]:
    lines = Path("/proc/self/maps").read_text().splitlines()
    return [line for line in lines if str(where) in line]


def own_bytes(model: Any) -> int:
    held = {id(one): one for one in (*model.parameters(), *model.buffers())}
    return sum(one.numel() * one.element_size() for one in held.values())


@pytest.mark.parametrize("step", ["full", "int8", "int4"])
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_a_rungs_bytes_are_those_the_loaded_model_holds(
    kind: str, step: StepName, models: Callable[..., Path]
) -> None:
    outcome = load(models(kind), step)
    assert own_bytes(outcome.model) == outcome.plan.rung.resident_bytes


@pytest.mark.parametrize(("step", "bound"), [("int8", 0.05), ("int4", 0.35)])
@pytest.mark.parametrize("kind", ["llama_untied", "deepseek_v2", "deepseek_v3"])
def test_quantised_rungs_stay_near_the_plain_model(
    kind: str, step: StepName, bound: float, models: Callable[..., Path]
) -> None:
    plain = reference(models(kind)).float()
    outcome = load(models(kind), step)
    error = (logits(outcome.model).float() - plain).norm() / plain.norm()
    assert 0 < float(error) < bound
    assert type(outcome.model).__name__.endswith("ForCausalLM")


@pytest.mark.parametrize("step", ["int8", "int4", "mapped"])
def test_save_pretrained_of_any_rung_loads_in_plain_transformers(
    step: StepName, models: Callable[..., Path], tmp_path: Path
) -> None:
    where = models("deepseek_v3")
    outcome = load(where, step)
    outcome.model.save_pretrained(tmp_path / "saved")
    first, _ = tiny.read_header(where / "model.safetensors")
    again, _ = tiny.read_header(tmp_path / "saved" / "model.safetensors")
    assert set(again) == set(first)
    plain = reference(tmp_path / "saved").float()
    error = (logits(outcome.model).float() - plain).norm() / plain.norm()
    assert float(error) < 0.02


def test_a_model_generates_on_every_rung(models: Callable[..., Path]) -> None:
    for step in LADDER:
        model = load(models("deepseek_v2"), step).model
        made = model.generate(IDS[:, :4], max_new_tokens=5, min_new_tokens=5, do_sample=False)
        assert made.shape == (1, 9), step


def rungs_of(where: Path, *steps: StepName, dtype: str = "auto", device: str = "cpu") -> list[Rung]:
    facts = inspect(where)
    place = Device(device, None if device == "cpu" else 10**9)
    asked = Asked(stored_dtype(facts) if dtype == "auto" else dtype, place)
    return list(Forms(Structures(facts), asked).rungs(steps))


def test_bf16_is_a_step_of_its_own_only_below_fp32(models: Callable[..., Path]) -> None:
    where = models("llama_tied")
    assert [r.name for r in rungs_of(where, "full", "bf16", dtype="fp32")] == ["fp32", "bf16"]
    assert [r.name for r in rungs_of(where, "full", "bf16")] == ["bf16"]
    assert [r.name for r in rungs_of(where, "bf16", "full", dtype="fp16")] == ["bf16", "fp16"]


def test_on_a_device_only_plain_forms_are_offered(models: Callable[..., Path]) -> None:
    plain, *others = rungs_of(models("llama_tied"), *LADDER, device="cuda:1")
    assert plain.device_bytes > plain.resident_bytes
    assert [one.kind for one in others] == ["mapped", "int8", "int4", "offload"]
    assert all("cuda:1" in one.why_not for one in others)


@pytest.mark.parametrize(
    ("share", "ladder", "expected"),
    [
        (1.2, LADDER, "bf16"),
        (0.8, LADDER, "mapped"),
        (0.8, ("full", "int8", "int4"), "int8"),
        (0.6, ("full", "int8", "int4"), "int4"),
        (0.2, ("full", "int8", "int4"), None),
        (0.2, ("full", "int8", "int4", "offload"), "offload"),
    ],
)
def test_a_smaller_budget_ends_on_a_lower_rung_or_a_refusal(
    share: float, ladder: Sequence[StepName], expected: str | None, tmp_path: Path
) -> None:
    where = tiny.save_dense(tmp_path / "m", 128)
    budget_bytes = int(share * inspect(where).stored_bytes)
    loader = MemorySafeModelLoader()
    loader.load(where, budget_bytes=GIB, ladder=("mapped",))  # libraries' own caches fill once
    if expected is None:
        with pytest.raises(LoadRefused, match=r"smallest form, int4, needs \d+ MiB"):
            loader.load(where, budget_bytes=budget_bytes, ladder=ladder)
        return
    outcome = loader.load(where, budget_bytes=budget_bytes, ladder=ladder)
    assert outcome.plan.rung.name == expected
    assert outcome.peak_bytes <= budget_bytes


def test_a_context_must_fit_too_where_one_is_given(tmp_path: Path) -> None:
    where = tiny.save_dense(tmp_path / "m", 96)
    budget_bytes = inspect(where).stored_bytes + 32 * MIB
    loader = MemorySafeModelLoader()
    assert loader.load(where, budget_bytes=budget_bytes).plan.rung.name == "bf16"
    outcome = loader.load(where, budget_bytes=budget_bytes, context_tokens=1000)
    assert outcome.plan.rung.name == "mapped"
    with pytest.raises(LoadRefused, match=r"needs [\d.,]+ [MG]iB; give --budget"):
        loader.load(where, budget_bytes=budget_bytes, context_tokens=1_000_000)


def test_the_old_model_goes_first_only_where_that_gives_a_better_form(tmp_path: Path) -> None:
    where = tiny.save_dense(tmp_path / "m", 48)
    size = inspect(where).stored_bytes
    loader = MemorySafeModelLoader()
    held = [loader.load(where, budget_bytes=GIB).model]
    freed: list[int] = []

    def make_room() -> None:
        freed.append(1)
        held.clear()
        gc.collect()

    options = {"make_room": make_room, "replaceable_bytes": size}
    outcome = loader.load(where, budget_bytes=GIB, **options)  # type: ignore[arg-type]
    assert freed == []
    assert any("stayed until" in note for note in outcome.notes)
    del outcome
    outcome = loader.load(where, budget_bytes=24 * MIB, **options)  # type: ignore[arg-type]
    assert freed == [1]
    assert outcome.plan.rung.name == "bf16"
    assert any("freed first: bf16 needed its room" in note for note in outcome.notes)


def test_a_stop_while_converting_leaves_no_file(
    models: Callable[..., Path], own_cache: Path
) -> None:
    class Stops:
        left = 6

        def reserve(self, n_bytes: int, what: str) -> None:
            pass

        def check(self) -> None:
            self.left -= 1
            if not self.left:
                raise MemoryBudgetExceeded("enough")

    loader = MemorySafeModelLoader(watch_factory=lambda limit, read: Stops())
    with pytest.raises(MemoryBudgetExceeded):
        loader.load(models("deepseek_v3"), budget_bytes=GIB, ladder=("mapped",))
    assert [path for path in own_cache.rglob("*") if path.is_file()] == []


def test_a_damaged_converted_file_is_refused_not_used(
    models: Callable[..., Path], own_cache: Path
) -> None:
    load(models("deepseek_v2"), "mapped")
    (written,) = own_cache.rglob("*.safetensors")
    blob = written.read_bytes()
    written.write_bytes(b"\xff" * 8 + blob[8:])
    with pytest.raises(ModelRefused, match=r"model\.safetensors"):
        load(models("deepseek_v2"), "mapped")


def test_layers_beyond_the_room_are_asked_for_ahead_and_let_go_behind(
    models: Callable[..., Path],
) -> None:
    model = load(models("llama_untied"), "mapped").model
    told: list[tuple[int, int]] = []
    streamed = stream_layers(
        model, 0, advise=lambda spans, advice: told.append((len(spans), advice))
    )
    n_layers = len(model.model.layers)
    assert streamed == sum(p.nbytes for p in model.model.layers.parameters()) or streamed > 0
    logits(model)
    assert [advice for _, advice in told] == [3, 21] * n_layers  # MADV_WILLNEED, MADV_PAGEOUT


def test_an_estimate_of_a_load_names_every_rung_and_the_one_it_would_take(
    models: Callable[..., Path],
) -> None:
    where = models("deepseek_v3", "float32")
    told = MemorySafeModelLoader().estimate(where, budget_bytes=GIB, context_tokens=64)
    names = [one.rung.name for one in told.verdicts]
    assert names == ["fp32", "bf16", "mapped", "int8", "int4", "offload"]
    assert told.chosen == 0
    assert [one.dtype for one in told.figures] == ["fp32", "bf16"]
    refused = MemorySafeModelLoader().estimate(where, budget_bytes=1)
    assert refused.chosen is None
    assert "give --budget" in refused.reason


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"context_tokens": 0}, "^--context"),
        ({"batch": 0}, "^--batch"),
        ({"ladder": ()}, "^--ladder"),
        ({"task": "poetry"}, "^--task: 'poetry' is no task of a llama model"),
    ],
)
def test_a_wrong_option_names_itself(
    options: dict[str, Any], says: str, models: Callable[..., Path]
) -> None:
    from h2q_notebook.errors import BadArgument

    with pytest.raises(BadArgument, match=says):
        MemorySafeModelLoader().load(models("llama_tied"), budget_bytes=GIB, **options)


def test_a_plan_is_made_from_one_look_at_the_structure(
    models: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from h2q_notebook.load import structures

    built: list[str] = []
    real = structures.build_skeleton

    def count(facts: Any, dtype: str, **more: Any) -> Any:
        built.append(dtype)
        return real(facts, dtype, **more)

    monkeypatch.setattr(structures, "build_skeleton", count)
    order = take_order(
        models("deepseek_v2"), budget_bytes=GIB, dtype="auto", device="cpu", ladder=LADDER,
        context_tokens=None, batch=1, task=None,
    )  # fmt: skip
    planner = Planner(order, History())
    assert planner.plan(GIB).rung.name == "bf16"
    assert len(list(planner.rungs())) == len(list(planner.rungs())) == 5
    assert built == ["bf16"]


def test_a_load_that_fits_in_full_looks_at_no_other_form(models: Callable[..., Path]) -> None:
    assert len(load(models("llama_tied"), *LADDER).plan.verdicts) == 1
