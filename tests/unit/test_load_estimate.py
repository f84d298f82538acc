"""What a model takes is known before a weight is touched, from its config alone if need be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from h2q_notebook.errors import ModelRefused
from h2q_notebook.load.compute import count_run, distinct_loads, run_and_count
from h2q_notebook.load.directory import inspect
from h2q_notebook.load.estimate import curve, estimate
from h2q_notebook.load.history import History, Record, factor_of
from h2q_notebook.load.kv_cache import bytes_per_token
from h2q_notebook.load.ladder import Rung
from h2q_notebook.load.loader import MemorySafeModelLoader
from h2q_notebook.load.planning import corrected
from h2q_notebook.load.skeleton import Skeleton, build_skeleton
from h2q_notebook.units import GIB, MIB
from tests.support import tiny_models as tiny

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


def qwen2(hidden: int, inner: int, layers: int, heads: int, tied: bool) -> dict[str, Any]:
    return {
        "model_type": "qwen2", "vocab_size": 151936, "hidden_size": hidden,
        "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": 2, "tie_word_embeddings": tied,
    }  # fmt: skip


def llama(vocab: int, hidden: int, inner: int, layers: int, heads: int, kv: int) -> dict[str, Any]:
    return {
        "model_type": "llama", "vocab_size": vocab, "hidden_size": hidden,
        "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv, "tie_word_embeddings": vocab == 49152,
    }  # fmt: skip


V2_LITE = {
    "model_type": "deepseek_v2", "vocab_size": 102400, "hidden_size": 2048,
    "intermediate_size": 10944, "moe_intermediate_size": 1408, "num_hidden_layers": 27,
    "num_attention_heads": 16, "num_key_value_heads": 16, "n_shared_experts": 2,
    "n_routed_experts": 64, "num_experts_per_tok": 6, "kv_lora_rank": 512, "q_lora_rank": None,
    "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128,
    "first_k_dense_replace": 1, "topk_method": "greedy", "n_group": 1, "topk_group": 1,
    "tie_word_embeddings": False,
}  # fmt: skip
# As the hub has it: fp8, and with code that h2q never runs.
V3 = {
    "model_type": "deepseek_v3", "vocab_size": 129280, "hidden_size": 7168,
    "intermediate_size": 18432, "moe_intermediate_size": 2048, "num_hidden_layers": 61,
    "num_attention_heads": 128, "num_key_value_heads": 128, "n_shared_experts": 1,
    "n_routed_experts": 256, "num_experts_per_tok": 8, "kv_lora_rank": 512, "q_lora_rank": 1536,
    "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128,
    "first_k_dense_replace": 3, "n_group": 8, "topk_group": 4, "tie_word_embeddings": False,
    "max_position_embeddings": 163840, "torch_dtype": "bfloat16",
    "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    "auto_map": {"AutoModelForCausalLM": "modeling_deepseek.DeepseekV3ForCausalLM"},
}  # fmt: skip
# Published totals. V3's has 58 x 256 routing biases in it, which transformers keeps as buffers.
PUBLISHED = [
    ("SmolLM2-135M", llama(49152, 576, 1536, 30, 9, 3), 134_515_008, 45 * MIB),
    ("Qwen2.5-0.5B", qwen2(896, 4864, 24, 14, True), 494_032_768, 24 * MIB),
    ("R1-Distill-Qwen-1.5B", qwen2(1536, 8960, 28, 12, False), 1_777_088_000, 56 * MIB),
    ("coder-6.7b", llama(32256, 4096, 11008, 32, 32, 32), 6_740_512_768, 1024 * MIB),
    ("DeepSeek-V2-Lite", V2_LITE, 15_706_484_224, 27 * 576 * 2 * 2048),
    ("DeepSeek-V3", V3, 671_026_419_200 - 58 * 256, 61 * 576 * 2 * 2048),
]


@pytest.mark.parametrize(("name", "config", "n_parameters", "cache"), PUBLISHED)
def test_published_models_are_counted_exactly_from_their_config_alone(
    name: str, config: dict[str, Any], n_parameters: int, cache: int, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    facts = inspect(tmp_path, weights=False)
    assert facts.kind == "config"
    figures = estimate(facts, "bf16", context_tokens=2048)
    assert figures.n_parameters == n_parameters
    assert figures.cache_bytes == cache
    assert sum(n for _, n in figures.weights_by_class) == figures.weights_bytes
    if "moe" in str(config):
        assert dict(figures.weights_by_class)["experts"] > 0.8 * figures.weights_bytes


def test_a_config_named_as_a_file_will_do_and_what_only_weights_forbid_is_noted(
    tmp_path: Path,
) -> None:
    path = tmp_path / "v3.json"
    path.write_text(json.dumps(V3))
    told = MemorySafeModelLoader().estimate(path, budget_bytes=64 * GIB)
    assert (told.chosen, told.label) == (None, "v3.json")
    assert any("quantization_config was ignored" in note for note in told.notes)
    assert {v.rung.name for v in told.verdicts} == {"bf16", "mapped", "int8", "int4", "offload"}
    mapped = next(v.rung for v in told.verdicts if v.rung.name == "mapped")
    assert mapped.disk_bytes == mapped.mapped_bytes > 1000 * GIB  # experts have to be converted
    (tmp_path / "config.json").write_text(json.dumps(V3))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelRefused, match="quantization_config"):
        MemorySafeModelLoader().load(tmp_path, budget_bytes=GIB)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"num_hidden_layers": 10**6}, "num_hidden_layers"),
        ({"model_type": "../x"}, "model_type"),
        ({"use_kernels": True}, "kernels"),
    ],
)
def test_a_hostile_config_is_refused_without_weights_too(
    change: dict[str, Any], says: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**V2_LITE, **change}))
    with pytest.raises(ModelRefused, match=says):
        inspect(tmp_path, weights=False)


def test_a_config_alone_cannot_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(V2_LITE))
    with pytest.raises(ModelRefused, match="no weights"):
        MemorySafeModelLoader().load(tmp_path, budget_bytes=GIB)


def pair(kind: str, dtype: str = "bf16") -> tuple[Skeleton, Any]:
    """The structure as an estimate has it, and the model itself."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM

    config = tiny.config_of(kind)
    config.dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[dtype]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=config.dtype).eval()
    chosen = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    return Skeleton(config, chosen, None, dtype), model.requires_grad_(False)


@pytest.mark.parametrize("tokens", [40, 100])
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_a_pass_on_fake_tensors_counts_what_a_real_one_takes(kind: str, tokens: int) -> None:
    skeleton, model = pair(kind)
    real = run_and_count(model, torch.randint(3, 200, (2, tokens)))
    assert real.cache_bytes > 0
    assert count_run(skeleton, tokens, 2) == real


@pytest.mark.parametrize("kind", ["llama_tied", "deepseek_v3"])
def test_in_fp32_too_and_there_no_kernels_are_compiled(
    kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    skeleton, model = pair(kind, "fp32")
    real = run_and_count(model, torch.randint(3, 200, (1, 60)))
    assert count_run(skeleton, 60) == real
    assert real.kernel_bytes == 0
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", [kind for kind in tiny.KINDS if kind != "deepseek_v4"])
def test_the_cache_formula_is_exact(kind: str) -> None:
    skeleton, model = pair(kind)
    real = run_and_count(model, torch.randint(3, 200, (3, 50)))
    assert bytes_per_token(skeleton.config, 2) * 3 * 50 == real.cache_bytes


def test_an_encoder_keeps_no_cache() -> None:
    from transformers import BertConfig, T5Config, ViTConfig

    assert bytes_per_token(BertConfig(), 2) == 0
    assert bytes_per_token(ViTConfig(), 2) == 0
    assert bytes_per_token(T5Config(num_decoder_layers=2, num_heads=4, d_kv=8), 2) == 2 * 2 * 32 * 2


def test_a_transposed_product_and_a_softmax_count_their_hidden_copies() -> None:
    class Toy(torch.nn.Module):  # type: ignore[misc, name-defined]
        main_input_name = "input_ids"

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(64, 32, dtype=torch.bfloat16), False)

        def forward(self, input_ids: Any) -> Any:
            x = self.weight[input_ids[0], :].unsqueeze(0)
            return torch.bmm(x, self.weight.t().unsqueeze(0))

    counted = run_and_count(Toy(), torch.arange(4).unsqueeze(0))
    plain = 4 * 32 * 2 + 4 * 64 * 2 + 4 * 8  # rows, product, ids
    assert plain + 64 * 32 * 2 <= counted.peak_bytes <= plain + 64 * 32 * 2 + 256


def test_a_model_that_takes_no_token_ids_is_not_counted() -> None:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=1, image_size=32)
    assert count_run(Skeleton(config, ViTForImageClassification, None, "fp32"), 16) is None


def test_unbalanced_experts_make_more_shapes_than_one_and_fewer_than_all() -> None:
    assert distinct_loads(256, 64.0) == pytest.approx(126, abs=1)
    assert distinct_loads(256, 256.0) == pytest.approx(204, abs=1)
    assert distinct_loads(8, 1e4) == pytest.approx(8, abs=0.1)
    assert distinct_loads(8, 0.0) == 0


def test_a_curve_rises_with_the_context_and_starts_above_the_weights(tmp_path: Path) -> None:
    facts = inspect(tiny.save_tiny("deepseek_v3", tmp_path))
    points = curve(build_skeleton(facts, "bf16"), 1000, [16, 64, 128])
    assert [tokens for tokens, _ in points] == [16, 64, 128]
    sizes = [n for _, n in points]
    assert 1000 < sizes[0] < sizes[1] < sizes[2]


def record(measured: int, model_type: str = "llama", rung: str = "bf16") -> Record:
    return Record(model_type, rung, 1000, measured, 0.0)


def test_history_corrects_by_the_median_once_there_is_enough_of_it() -> None:
    assert factor_of([record(1100)] * 2, "llama", "bf16") == 1.0
    assert factor_of([record(1100), record(1200), record(9000)], "llama", "bf16") == 1.2
    assert factor_of([record(1100)] * 3, "llama", "int8") == 1.0
    assert factor_of([record(5000)] * 3, "llama", "bf16") == 1.5
    assert factor_of([record(10)] * 3, "llama", "bf16") == 1.0
    assert factor_of([record(1400)] * 9 + [record(1000)] * 20, "llama", "bf16") == 1.0
    rung = Rung("bf16", "full", "bf16", 90, 100, 120)
    told = corrected(rung, [record(1200)] * 3, "llama")
    assert (told.load_peak_bytes, told.note) == (120, "load peak x 1.20, as measured here before")


def test_history_survives_torn_lines_and_stays_small(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "history.jsonl"
    history = History(path, clock=lambda: 7.0)
    history.record("llama", "bf16", estimated_bytes=10, measured_bytes=11)
    with path.open("a") as file:
        file.write('{"model_type": "llama", "rung\n\x00\n{"a": 1}\n[]\n' + "x" * 500_000 + "\n")
    history.record("llama", "bf16", estimated_bytes=10, measured_bytes=12)
    assert [one.measured_bytes for one in history.records()] == [11, 12]
    assert path.stat().st_size < 1000
    assert [name.name for name in path.parent.iterdir()] == ["history.jsonl"]


def test_history_that_cannot_be_kept_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    history = History(tmp_path / "file" / "history.jsonl")
    history.record("llama", "bf16", estimated_bytes=10, measured_bytes=11)
    assert history.records() == []


def test_a_large_load_is_remembered_and_a_small_one_is_not(tmp_path: Path) -> None:
    history = History(tmp_path / "history.jsonl")
    loader = MemorySafeModelLoader(history=history)
    loader.load(tiny.save_tiny("llama_tied", tmp_path / "small"), budget_bytes=GIB)
    assert history.records() == []
    loader.load(tiny.save_dense(tmp_path / "large", 272), budget_bytes=GIB)
    (one,) = history.records()
    assert (one.model_type, one.rung) == ("llama", "bf16")
    assert one.measured_bytes == pytest.approx(one.estimated_bytes, rel=0.1)
