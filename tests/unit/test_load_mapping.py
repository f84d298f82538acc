"""What does not belong together is refused before a weight is read, never filled at random."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from h2q_notebook.errors import ModelRefused
from h2q_notebook.load.loader import MemorySafeModelLoader
from h2q_notebook.units import MIB
from tests.support import tiny_models as tiny

pytest.importorskip("torch")
pytest.importorskip("transformers")


class NothingAdmitted:
    """A watch that proves no tensor was asked for."""

    def reserve(self, n_bytes: int, what: str) -> None:
        raise AssertionError(f"{what} was about to be read")

    def check(self) -> None:
        pass


def drop(name: str) -> Callable[[Path], None]:
    def change(where: Path) -> None:
        header, data = tiny.read_header(where / "model.safetensors")
        rebuilt: dict[str, Any] = {}
        kept, at = b"", 0
        for key, meta in header.items():
            if key in ("__metadata__", name):
                continue
            start, end = meta["data_offsets"]
            kept += data[start:end]
            rebuilt[key] = {**meta, "data_offsets": [at, at + end - start]}
            at += end - start
        assert name in header
        tiny.write_safetensors(where / "model.safetensors", rebuilt, kept)

    return change


def rename(old: str, new: str) -> Callable[[Path], None]:
    def change(where: Path) -> None:
        header, data = tiny.read_header(where / "model.safetensors")
        header[new] = header.pop(old)
        tiny.write_safetensors(where / "model.safetensors", header, data)

    return change


def config(**changes: Any) -> Callable[[Path], None]:
    return lambda where: tiny.edit_config(where, **changes)


@pytest.mark.parametrize(
    ("kind", "change", "says"),
    [
        ("llama_tied", drop("model.norm.weight"), r"'model\.norm\.weight' is missing"),
        ("llama_untied", drop("lm_head.weight"), r"'lm_head\.weight' is missing"),
        ("llama_tied", drop("model.embed_tokens.weight"), r"embed_tokens\.weight' is missing"),
        ("deepseek_v2", drop("model.layers.1.mlp.experts.3.up_proj.weight"), r"8 experts and 7"),
        (
            "deepseek_v3",
            drop("model.layers.1.mlp.gate.e_score_correction_bias"),
            r"e_score_correction_bias' is missing",
        ),
        (
            "llama_tied",
            rename("model.norm.weight", "model.norms.weight"),
            r"'model\.norms?\.weight' (is missing|has no place)",
        ),
        ("llama_tied", config(num_hidden_layers=2), r"layers\.2\..* has no place"),
        ("llama_tied", config(num_hidden_layers=4), r"layers\.3\..* is missing"),
        ("qwen2_tied", config(intermediate_size=128), r"mlp\..* shape is \[160, 64\]|shape is"),
        ("llama_tied", config(vocab_size=300), r"embed_tokens\.weight', shape is \[256, 64\]"),
        ("llama_tied", config(num_attention_heads=5), r"config\.json|shape is"),
        ("llama_tied", config(hidden_act="evil"), r"config\.json: transformers cannot build"),
        ("llama_tied", config(model_type="nonesuch"), r"config\.json: model_type 'nonesuch'"),
        ("llama_tied", config(model_type="clip"), r"config\.json"),
    ],
)
def test_a_mismatched_directory_is_refused_before_a_weight_is_read(
    kind: str, change: Callable[[Path], None], says: str, tmp_path: Path
) -> None:
    where = tiny.save_tiny(kind, tmp_path)
    change(where)
    before = tiny.open_files()
    loader = MemorySafeModelLoader(watch_factory=lambda limit, read: NothingAdmitted())
    with pytest.raises(ModelRefused, match=says) as caught:
        loader.load(where, budget_bytes=512 * MIB)
    assert "\n" not in str(caught.value)
    assert tiny.open_files() == before


def test_a_file_changed_since_it_was_inspected_is_refused(tmp_path: Path) -> None:
    from h2q_notebook.load.directory import inspect
    from h2q_notebook.load.reading import PieceReader

    where = tiny.save_tiny("llama_tied", tmp_path)
    facts = inspect(where)
    before = tiny.open_files()
    with (where / "model.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ModelRefused, match=r"has changed since it was inspected"):
        PieceReader(facts, NothingAdmitted())
    assert tiny.open_files() == before
