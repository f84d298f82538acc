"""Quantised forms keep what they promise: bounded error, true bytes, plain weights when saved."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from pathlib import Path
from typing import Any

import pytest

from h2q_notebook.load.directory import inspect
from h2q_notebook.load.int4 import INT4, quantise_groups
from h2q_notebook.load.int8 import INT8, quantise_rows
from h2q_notebook.load.mapping import map_weights
from h2q_notebook.load.probe import why_not
from h2q_notebook.load.quantised import block_rows, is_quantised
from h2q_notebook.load.quantising import QuantisedSource
from h2q_notebook.load.quiet import quiet
from h2q_notebook.load.reading import PieceReader
from h2q_notebook.load.skeleton import Skeleton, build_skeleton
from h2q_notebook.load.swap import finish, make_class, plan_swaps, swap_modules
from h2q_notebook.units import MIB
from tests.support import tiny_models as tiny

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

KINDS = ("llama_tied", "qwen2_untied", "deepseek_v2", "deepseek_v3", "deepseek_v4")
IDS = torch.arange(3, 15).unsqueeze(0)


class Ledger:
    """A watch that admits everything and remembers it."""

    def __init__(self) -> None:
        self.reserved: list[int] = []

    def reserve(self, n_bytes: int, what: str) -> None:
        self.reserved.append(n_bytes)

    def check(self) -> None:
        pass


def random_rows(n_out: int, n_in: int, *, seed: int = 0) -> Any:
    return torch.randn(n_out, n_in, generator=torch.Generator().manual_seed(seed)) * 0.02


def load_quantised(
    where: Path, kind: str, monkeypatch: pytest.MonkeyPatch, watch: Ledger | None = None
) -> tuple[Any, dict[str, Any]]:
    """As a load does it, without the loader around it."""
    monkeypatch.setenv("HF_DEACTIVATE_ASYNC_LOAD", "1")
    facts = inspect(where)
    skeleton = build_skeleton(facts, "bf16")
    swaps = plan_swaps(skeleton.model, kind)
    reader = PieceReader(facts, watch or Ledger())
    source = QuantisedSource(map_weights(facts, skeleton), reader, swaps)
    try:
        with quiet():
            model, info = make_class(skeleton.model_class, kind).from_pretrained(
                None,
                config=skeleton.config,
                state_dict=source,
                dtype=torch.bfloat16,
                output_loading_info=True,
            )
    finally:
        source.close()
    finish(model, skeleton.model_class)
    # As the loader's optimise stage does, so that save_pretrained derives the hub's layout.
    if hasattr(model, "_weight_conversions"):
        del model._weight_conversions
    return model.eval(), info


def load_plain(where: Path) -> Any:
    from transformers import AutoModelForCausalLM

    with quiet():
        return AutoModelForCausalLM.from_pretrained(where, dtype=torch.bfloat16).eval()


def own_bytes(model: Any) -> int:
    tensors = {id(one): one for one in model.parameters()}
    return sum(one.numel() * one.element_size() for one in tensors.values())


def swapped_skeleton(where: Path, kind: str) -> Skeleton:
    return build_skeleton(
        inspect(where), "bf16", prepare=lambda model: [*swap_modules(model, kind)] and None
    )


@pytest.mark.parametrize("scale_of_row", [1e-30, 1e-3, 1.0, 1e20])
def test_int8_is_within_half_a_step_of_every_value(scale_of_row: float) -> None:
    rows = random_rows(37, 96) * scale_of_row
    rows[5] = 0
    rows[6, 3] = 50 * scale_of_row  # an outlier widens its own row only
    values, scale = quantise_rows(rows)
    back = values.double() * scale.double().unsqueeze(1)
    step = scale.double().unsqueeze(1)
    assert bool(((back - rows.double()).abs() <= step * 0.5001).all())
    assert bool((back[5] == 0).all())
    # Rounded to bf16, a step is at most 1/256 off the ideal one.
    ideal = rows.abs().amax(1).double() / 127
    assert bool((scale.double() <= ideal * (1 + 2**-8) + 2e-38).all())


@pytest.mark.parametrize("shift", [0.0, 0.05, -0.05])
def test_int4_is_within_half_a_step_of_every_value(shift: float) -> None:
    rows = random_rows(48, 96) + shift
    rows[2, :32] = 0
    values, scales = quantise_groups(rows)
    assert scales.shape == (3, 48, 2)
    assert (int(values.min()), int(values.max())) == (0, 15)
    wide = scales.double().transpose(0, 1).repeat_interleave(32, 1)
    back = (values - 8) * wide[..., 0] + wide[..., 1]
    assert bool(((back - rows.double()).abs() <= wide[..., 0] * 0.5001).all())
    assert bool((back[2, :32].abs() < 1e-30).all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("n_rows", [1, 3, 4, 33])
@pytest.mark.parametrize("kind", ["int8", "int4"])
@pytest.mark.parametrize("shape", [(48, 64), (208, 96)])
def test_a_layer_multiplies_as_its_dequantised_weight(
    shape: tuple[int, int], kind: str, n_rows: int, dtype: Any
) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(shape[1], shape[0], dtype=torch.bfloat16))
    plain = model[0].weight.detach().float()
    assert swap_modules(model, kind) == ("0",)
    x = random_rows(n_rows, shape[1], seed=1).to(dtype) * 50
    weight = model[0].dequantised("weight").float()
    right = x.float() @ weight.T + model[0].bias.detach().float()
    with torch.no_grad():
        got = model[0].to(dtype)(x)
    assert got.dtype == dtype
    assert float((got.float() - right).abs().max() / right.abs().max()) < 2**-6
    # One part in 127 of a row's range, or one in 15 of a group's, halved; bf16 adds its own.
    step = plain.abs().amax() * (1 / 127 if kind == "int8" else 2 / 15)
    assert float((weight - plain).abs().max()) <= float(step) * 0.5 + 2**-9 * float(plain.max())


def test_gradients_and_absent_kernels_find_another_way(monkeypatch: pytest.MonkeyPatch) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(64, 48, dtype=torch.bfloat16))
    swap_modules(model, "int8")
    x = random_rows(4, 64).bfloat16()
    kernel = model(x)
    follower = x.clone().requires_grad_()
    model(follower).sum().backward()
    column_sums = model[0].dequantised("weight").float().sum(0)
    assert torch.allclose(follower.grad[0].float(), column_sums, rtol=0.05, atol=0.02)
    monkeypatch.setattr("h2q_notebook.load.int8.kernel_works", lambda: False)
    assert torch.allclose(model(x).float(), kernel.float(), rtol=0.02, atol=2e-3)


@pytest.mark.parametrize("kind", ["int8", "int4"])
@pytest.mark.parametrize("family", ["deepseek_v2", "deepseek_v3", "deepseek_v4"])
def test_quantised_experts_answer_as_float_experts_with_their_weights(
    family: str, kind: str
) -> None:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny.config_of(family), dtype=torch.bfloat16)
    name = next(n for n, m in model.named_modules() if n.endswith(".experts"))
    original = copy.deepcopy(model.get_submodule(name))
    assert name in swap_modules(model, kind)
    experts = model.get_submodule(name)
    assert experts.h2q_class == "experts"
    for one in ("gate_up_proj", "down_proj"):
        stored = experts.dequantised(one)
        assert not torch.equal(stored, getattr(original, one))
        getattr(original, one).data = stored.float()
    x = torch.randn(9, 64).bfloat16() * 4
    index = torch.stack([torch.randperm(8)[:2] for _ in range(9)])
    index[4, 1] = 8  # an expert that is masked out
    weights = torch.rand(9, 2).bfloat16()
    original.config._experts_implementation = "eager"
    with torch.no_grad():
        right = original(x.float(), index, weights.float())
        got = experts(x, index, weights)
    assert float((got.float() - right).abs().max() / right.abs().max()) < 2**-5


@pytest.mark.parametrize("kind", ["int8", "int4"])
@pytest.mark.parametrize("family", KINDS)
def test_reading_gives_the_bytes_that_quantising_the_plain_model_gives(
    family: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = tiny.save_tiny(family, tmp_path)
    # Small blocks, so that most matrices take several and some cross from gate to up.
    monkeypatch.setattr("h2q_notebook.load.quantising.block_rows", lambda n_in: 64)
    watch = Ledger()
    model, info = load_quantised(where, kind, monkeypatch, watch)
    for field in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        assert not info.get(field), field
    plain = load_plain(where)
    assert type(model) is type(plain)
    names = swap_modules(plain, kind)
    assert names == tuple(n for n, m in model.named_modules() if is_quantised(m))
    own, reference = dict(model.named_parameters()), dict(plain.named_parameters())
    assert own.keys() == reference.keys()
    for name, one in own.items():
        assert one.dtype == reference[name].dtype, name
        assert torch.equal(one, reference[name]), name
        if is_quantised(model.get_submodule(name.rpartition(".")[0])):
            assert name.endswith(".bias") or not one.requires_grad, name
    assert sum(one.dtype == torch.int8 for one in own.values()) >= len(names)
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, plain(IDS).logits)
    # What the ladder counts is what is there, and nothing plain was ever whole in memory.
    meta = swapped_skeleton(where, kind).model
    assert own_bytes(meta) == own_bytes(model)
    assert max(watch.reserved) <= max(one.nbytes for one in own.values()) + 64 * 4 * 160


@pytest.mark.parametrize("kind", ["int8", "int4"])
@pytest.mark.parametrize("family", KINDS)
def test_a_saved_model_is_a_plain_one_under_the_hubs_names(
    family: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = tiny.save_tiny(family, tmp_path / "plain")
    model, _ = load_quantised(where, kind, monkeypatch)
    with quiet():
        model.save_pretrained(tmp_path / "saved")
    before, _ = tiny.read_header(where / "model.safetensors")
    after, _ = tiny.read_header(tmp_path / "saved" / "model.safetensors")
    assert {k: v["shape"] for k, v in after.items() if k != "__metadata__"} == {
        k: v["shape"] for k, v in before.items() if k != "__metadata__"
    }
    again = load_plain(tmp_path / "saved")
    named = dict(again.named_parameters())
    for name, module in model.named_modules():
        if is_quantised(module):
            for one in module.names:
                assert torch.equal(named[f"{name}.{one}"], module.dequantised(one)), name
    with torch.no_grad():
        got, right = model(IDS).logits.float(), again(IDS).logits.float()
    assert float((got - right).abs().max() / right.abs().max()) < 0.1


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_a_quantised_model_generates_and_can_be_copied_and_pickled(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = load_quantised(tiny.save_tiny("deepseek_v3", tmp_path), kind, monkeypatch)
    twin = copy.deepcopy(model)
    with quiet():
        said = model.generate(IDS, max_new_tokens=5, do_sample=False, pad_token_id=0)
        assert said.shape[1] > IDS.shape[1]
        assert torch.equal(
            twin.generate(IDS, max_new_tokens=5, do_sample=False, pad_token_id=0), said
        )
    for module in model.modules():
        if is_quantised(module):
            assert type(pickle.loads(pickle.dumps(module))) is type(module)
    gone = weakref.ref(model)
    del model, module
    gc.collect()
    assert gone() is None
    with torch.no_grad():
        assert bool(torch.isfinite(twin(IDS).logits).all())


def test_plain_weights_are_quantised_when_they_are_put_back() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(64, 48, dtype=torch.bfloat16))
    state = {name: one.clone() for name, one in model.state_dict().items()}
    swap_modules(model, "int8")
    right = model[0].weight.clone()
    model[0].weight.data.zero_()
    model.load_state_dict(state)
    assert torch.equal(model[0].weight, right)


def test_tied_odd_and_foreign_layers_stay() -> None:
    from transformers import AutoModelForCausalLM

    class Own(torch.nn.Linear):
        pass

    model = torch.nn.ModuleDict(
        {
            "odd": torch.nn.Linear(33, 16),  # the kernel reads beyond its memory here
            "narrow": torch.nn.Linear(64, 24),
            "good": torch.nn.Linear(64, 48),
            "own": Own(64, 64),
            "table": torch.nn.Embedding(64, 64),
        }
    )
    assert plan_swaps(model, "int4") == {"narrow": "int8", "good": "int4"}
    assert plan_swaps(model, "int8") == {"narrow": "int8", "good": "int8"}
    for family, head in (("llama_tied", None), ("llama_untied", "int8")):
        with torch.device("meta"):
            whole = AutoModelForCausalLM.from_config(tiny.config_of(family))
        assert plan_swaps(whole, "int4").get("lm_head") == head


def test_blocks_are_whole_layout_blocks_of_at_most_8_mib() -> None:
    for n_in in (32, 1536, 7168, 18432):
        assert block_rows(n_in) % 64 == 0
        assert block_rows(n_in) * n_in * 4 <= 8 * MIB
    rows = random_rows(208, 96)
    for form in (INT8, INT4):
        whole = [torch.empty(s, dtype=torch.int8) for s in form.shapes(208, 96)[:1]]
        whole.append(torch.empty(form.shapes(208, 96)[1], dtype=torch.bfloat16))
        parts = [torch.empty_like(one) for one in whole]
        form.quantise_into(rows.clone(), 0, *whole)
        for first in range(0, 208, 64):
            form.quantise_into(rows[first : first + 64].clone(), first, *parts)
        assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))


def test_a_form_is_offered_only_where_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    why_not.cache_clear()
    try:
        state = torch.random.get_rng_state()
        assert why_not("int8", "bf16") is None
        assert why_not("int4", "bf16") is None
        assert torch.equal(torch.random.get_rng_state(), state)
        assert why_not("full", "fp16", "cuda") is None
        assert "bf16" in str(why_not("int8", "fp32"))
        assert "cuda:1" in str(why_not("int4", "bf16", "cuda:1"))
        why_not.cache_clear()
        monkeypatch.setattr("h2q_notebook.load.int4.kernel_works", lambda: False)
        monkeypatch.setattr("h2q_notebook.load.int8.kernel_works", lambda: False)
        assert "four-bit kernel" in str(why_not("int4", "bf16"))
        assert why_not("int8", "bf16") is None
    finally:
        why_not.cache_clear()
