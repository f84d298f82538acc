"""Models for other tasks than writing text: the same answers as transformers gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from h2q_notebook.load.loader import MemorySafeModelLoader
from h2q_notebook.units import MIB
from tests.support import tiny_models as tiny

torch = pytest.importorskip("torch")
tf = pytest.importorskip("transformers")

BUDGET = 512 * MIB
IDS = torch.arange(3, 11).unsqueeze(0)


def t5() -> Any:
    config = tf.T5Config(
        vocab_size=256, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4,
        decoder_start_token_id=0,
    )  # fmt: skip
    return tf.T5ForConditionalGeneration(config)


def bert_config(**more: Any) -> Any:
    return tf.BertConfig(
        vocab_size=256, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=64, **more,
    )  # fmt: skip


def vit() -> Any:
    config = tf.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        image_size=32, patch_size=8, num_labels=3,
    )  # fmt: skip
    return tf.ViTForImageClassification(config)


PICTURE = torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)
CASES: dict[str, tuple[Callable[[], Any], str, dict[str, Any]]] = {
    "t5": (t5, "seq2seq", {"input_ids": IDS, "decoder_input_ids": torch.tensor([[0]])}),
    "bert": (lambda: tf.BertModel(bert_config()), "embeddings", {"input_ids": IDS}),
    "bert classifier": (
        lambda: tf.BertForSequenceClassification(bert_config(num_labels=4)),
        "sequence-classification",
        {"input_ids": IDS},
    ),
    "vit": (vit, "image-classification", {"pixel_values": PICTURE}),
}


def answer(model: Any, inputs: dict[str, Any]) -> Any:
    with torch.no_grad():
        found = model(**inputs)
    return found.logits if "logits" in found else found.last_hidden_state


@pytest.mark.parametrize("name", CASES)
def test_the_config_names_the_task_and_the_answer_is_bit_equal(name: str, tmp_path: Path) -> None:
    make, task, inputs = CASES[name]
    torch.manual_seed(0)
    plain = make().eval()
    plain.save_pretrained(tmp_path)
    outcome = MemorySafeModelLoader().load(tmp_path, budget_bytes=BUDGET)
    assert outcome.task == task
    assert type(outcome.model) is type(plain)
    assert torch.equal(answer(outcome.model, inputs), answer(plain, inputs))


def test_the_same_weights_load_for_another_task_where_it_is_asked_for(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = tf.BertForMaskedLM(bert_config()).eval()
    plain.save_pretrained(tmp_path)
    outcome = MemorySafeModelLoader().load(tmp_path, budget_bytes=BUDGET, task="masked-lm")
    assert torch.equal(answer(outcome.model, {"input_ids": IDS}), answer(plain, {"input_ids": IDS}))


def test_a_picture_models_processor_comes_along(tmp_path: Path) -> None:
    vit().save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        '{"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}}'
    )
    outcome = MemorySafeModelLoader().load(tmp_path, budget_bytes=BUDGET)
    told = any("processor could not be loaded" in note for note in outcome.notes)
    assert outcome.processor is not None or told  # it needs pillow, which may be absent
    assert outcome.tokenizer is None


def test_a_text_models_tokenizer_and_chat_template_come_along(tmp_path: Path) -> None:
    tiny.save_tiny("llama_tied", tmp_path)
    tiny.save_tokenizer(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    outcome = MemorySafeModelLoader().load(tmp_path, budget_bytes=BUDGET)
    said = [{"role": "user", "content": "hello"}]
    assert outcome.tokenizer.apply_chat_template(said, tokenize=False) == "hello"
    assert outcome.tokenizer.decode(outcome.tokenizer("a b")["input_ids"]) == "a b"
