"""A GGUF becomes the model transformers makes of it, once, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from h2q_notebook.errors import (
    LoadFailed,
    LoadRefused,
    MemoryBudgetExceeded,
    ModelRefused,
)
from h2q_notebook.load.loader import MemorySafeModelLoader
from h2q_notebook.load.outcome import Progress
from h2q_notebook.units import MIB

pytest.importorskip("torch")
pytest.importorskip("transformers")
gguf = pytest.importorskip("gguf")

BUDGET = 512 * MIB
HIDDEN, INNER, HEADS, KV_HEADS, VOCAB, LAYERS = 64, 96, 4, 2, 64, 2
# What transformers itself warns of while it reads a GGUF is not this test's subject.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def write_gguf(
    path: Path, arch: str, kind: Any, *, tied: bool = True, without: str = "", layers: int = LAYERS
) -> Path:
    """A random model in the given ggml type, norms in F32 as llama.cpp writes them."""
    import numpy as np

    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, arch)
    writer.add_name("tiny")
    writer.add_block_count(layers)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(VOCAB)

    def add(name: str, *shape: int, plain: bool = False) -> None:
        if name == without:
            return
        values = rng.standard_normal(shape).astype(np.float32) * 0.2
        if plain or len(shape) == 1:
            writer.add_tensor(name, values)
        else:
            blocks = gguf.quantize(values, kind)
            writer.add_tensor(name, blocks, raw_dtype=kind)

    add("token_embd.weight", VOCAB, HIDDEN)
    add("output_norm.weight", HIDDEN)
    if not tied:
        add("output.weight", VOCAB, HIDDEN)
    for i in range(min(layers, LAYERS)):
        kv = HIDDEN // HEADS * KV_HEADS
        for name, rows in (("attn_q", HIDDEN), ("attn_k", kv), ("attn_v", kv)):
            add(f"blk.{i}.{name}.weight", rows, HIDDEN)
            if arch == "qwen2":
                add(f"blk.{i}.{name}.bias", rows)
        add(f"blk.{i}.attn_output.weight", HIDDEN, HIDDEN)
        add(f"blk.{i}.ffn_gate.weight", INNER, HIDDEN)
        add(f"blk.{i}.ffn_up.weight", INNER, HIDDEN)
        add(f"blk.{i}.ffn_down.weight", HIDDEN, INNER)
        add(f"blk.{i}.attn_norm.weight", HIDDEN)
        add(f"blk.{i}.ffn_norm.weight", HIDDEN)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("H2Q_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


KINDS = gguf.GGMLQuantizationType


@pytest.mark.parametrize(
    ("arch", "kind", "tied", "dtype"),
    [
        ("llama", KINDS.Q8_0, True, "fp32"),
        ("llama", KINDS.Q4_1, False, "bf16"),
        ("llama", KINDS.F16, True, "fp16"),
        ("qwen2", KINDS.Q8_0, False, "bf16"),
        ("qwen2", KINDS.BF16, True, "fp32"),
    ],
)
def test_it_equals_what_transformers_makes_of_the_file(
    arch: str, kind: Any, tied: bool, dtype: str, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    path = write_gguf(tmp_path / "m.gguf", arch, kind, tied=tied)
    names = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    outcome = MemorySafeModelLoader().load(path, budget_bytes=BUDGET, dtype=dtype)
    expected = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file=path.name, dtype=names[dtype]
    )
    state = outcome.model.state_dict()
    assert set(state) == set(expected.state_dict())
    for name, value in expected.state_dict().items():
        assert torch.equal(state[name], value), name
    ids = torch.arange(12).unsqueeze(0)
    with torch.no_grad():
        assert torch.equal(outcome.model(ids).logits, expected(ids).logits)


def test_it_is_converted_once_and_the_size_is_told(tmp_path: Path, cache: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", "llama", KINDS.Q8_0)
    seen: list[Progress] = []
    loader = MemorySafeModelLoader(progress=seen.append)
    first = loader.load(path, budget_bytes=BUDGET)
    assert "convert" in {p.stage for p in seen}
    assert any("converted once" in note for note in first.notes)
    assert len(list((cache / "gguf").iterdir())) == 1
    seen.clear()
    again = loader.load(tmp_path, budget_bytes=BUDGET)  # the directory will do as well
    assert "convert" not in {p.stage for p in seen}
    assert not any("converted" in note for note in again.notes)


def test_a_changed_file_is_converted_anew(tmp_path: Path, cache: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", "llama", KINDS.Q8_0)
    MemorySafeModelLoader().load(path, budget_bytes=BUDGET)
    write_gguf(path, "llama", KINDS.Q4_1)
    MemorySafeModelLoader().load(path, budget_bytes=BUDGET)
    assert len(list((cache / "gguf").iterdir())) == 2


@pytest.mark.parametrize("kind", [MemoryBudgetExceeded, KeyboardInterrupt, OSError])
def test_a_broken_conversion_leaves_nothing(
    kind: type[BaseException], tmp_path: Path, cache: Path
) -> None:
    path = write_gguf(tmp_path / "m.gguf", "llama", KINDS.Q8_0)

    class Fails:
        calls = 0

        def reserve(self, n_bytes: int, what: str) -> None:
            self.calls += 1
            if self.calls == 9:
                raise kind("stop")

        def check(self) -> None:
            pass

    loader = MemorySafeModelLoader(watch_factory=lambda limit, read: Fails())
    with pytest.raises(LoadFailed if kind is OSError else kind):
        loader.load(path, budget_bytes=BUDGET)
    assert list((cache / "gguf").iterdir()) == []


def test_one_too_large_is_refused_before_it_is_converted(tmp_path: Path, cache: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", "llama", KINDS.Q8_0)
    with pytest.raises(LoadRefused, match=r"m\.gguf does not fit"):
        MemorySafeModelLoader().load(path, budget_bytes=1000)
    assert not cache.exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"arch": "llama", "without": "blk.1.ffn_up.weight"}, r"mlp\.up_proj\.weight' is missing"),
        ({"arch": "llama", "layers": 3}, r"layers\.2\..* is missing"),
        ({"arch": "llama", "layers": 10**6}, r"num_hidden_layers is 1000000"),
        ({"arch": "mamba"}, r"general\.architecture 'mamba' is not one"),
        ({"arch": "evil"}, r"general\.architecture 'evil'"),
    ],
)
def test_one_that_is_no_whole_model_is_refused(
    options: dict[str, Any], says: str, tmp_path: Path
) -> None:
    arch = options.pop("arch")
    path = write_gguf(tmp_path / "m.gguf", arch, KINDS.Q8_0, **options)
    with pytest.raises(ModelRefused, match=says):
        MemorySafeModelLoader().load(path, budget_bytes=BUDGET)
