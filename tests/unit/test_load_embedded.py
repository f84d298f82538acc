"""h2q brings a real DeepSeek that adds, on a machine with no network."""

from __future__ import annotations

import hashlib
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from h2q_notebook.errors import BadArgument, LoadFailed
from h2q_notebook.load import embedded, sources
from h2q_notebook.load.loader import MemorySafeModelLoader
from h2q_notebook.load.outcome import LoadOutcome
from h2q_notebook.units import MIB

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
NAME = "h2q://tiny-deepseek"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def loaded() -> LoadOutcome:
    with pytest.MonkeyPatch.context() as patch:

        def refuse(*args: Any, **more: Any) -> Any:
            raise AssertionError("a connection was opened")

        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        return MemorySafeModelLoader().load(NAME, budget_bytes=256 * MIB)


def test_it_is_a_deepseek_with_everything_beside_it(loaded: LoadOutcome) -> None:
    model = loaded.model
    assert type(model).__name__ == "DeepseekV3ForCausalLM"
    assert model.config.kv_lora_rank
    assert model.model.layers[1].mlp.shared_experts
    assert loaded.tokenizer.chat_template
    assert model.generation_config.max_new_tokens == 48
    assert loaded.plan.rung.name == "fp32"


def test_it_adds_pairs_it_has_never_seen(loaded: LoadOutcome) -> None:
    from benchmarks.train_tiny_deepseek import pairs, wrong_sums

    held_out, trained = pairs()
    assert not set(held_out) & set(trained)
    assert wrong_sums(loaded.model, loaded.tokenizer, held_out[:40]) == []


@pytest.mark.parametrize("step", ["bf16", "mapped", "int8"])
def test_it_adds_in_other_forms_too(step: Any) -> None:
    from benchmarks.train_tiny_deepseek import pairs, wrong_sums

    outcome = MemorySafeModelLoader().load(NAME, budget_bytes=256 * MIB, ladder=(step,))
    wrong = wrong_sums(outcome.model, outcome.tokenizer, pairs()[0][:20])
    assert len(wrong) <= (0 if step == "mapped" else 2)  # rounded weights may miss one


def test_its_logits_are_those_of_plain_transformers(loaded: LoadOutcome) -> None:
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(embedded.path())
    ids = torch.arange(8, 24).unsqueeze(0)
    with torch.no_grad():
        assert torch.equal(loaded.model(ids).logits, plain(ids).logits)


def test_the_shipped_weights_are_those_that_were_measured(loaded: LoadOutcome) -> None:
    result = json.loads((ROOT / "benchmarks/results/train_tiny_deepseek.json").read_text())
    weights = (embedded.path() / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == result["weights_sha256"]
    assert sum(one.numel() for one in loaded.model.parameters()) == result["n_parameters"]
    card = (embedded.path() / "README.md").read_text()
    assert f"answered {result['held_out_right']} rightly" in card


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("h2q://tiny-depseek", r"did you mean h2q://tiny-deepseek\?"),
        ("h2q://gpt", "there are h2q://tiny-deepseek and h2q://smollm2"),
        ("h2q:tiny-deepseek", r"did you mean h2q://tiny-deepseek\?"),
    ],
)
def test_an_unknown_name_is_told_the_known_ones(name: str, says: str) -> None:
    with pytest.raises(BadArgument, match=says):
        sources.resolve(name)


def test_an_installation_without_it_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(embedded.h2q_notebook, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(LoadFailed, match="install h2q-notebook again"):
        sources.resolve(NAME)
