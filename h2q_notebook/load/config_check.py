"""config.json under suspicion: no code from elsewhere, no absurd sizes.

Covers what a config can do *before* a weight is read: name code or kernels to run, ask for a model
of a million layers, point outside its directory. What transformers thinks of it is its own matter.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterator
from typing import Any

from h2q_notebook.errors import ModelRefused
from h2q_notebook.units import shorten

__all__ = ["check_class_name", "check_config", "knows_model_type"]

_MAX_DEPTH = 24
_MAX_INT = 10**15
# Ten times what the largest public models use. A skeleton of 10**6 layers would hang the kernel.
_LIMITS = {
    "num_hidden_layers": 1_000,
    "n_layer": 1_000,
    "num_layers": 1_000,
    "num_nextn_predict_layers": 64,
    "hidden_size": 1 << 18,
    "n_embd": 1 << 18,
    "intermediate_size": 1 << 21,
    "moe_intermediate_size": 1 << 20,
    "num_attention_heads": 4096,
    "num_key_value_heads": 4096,
    "head_dim": 1 << 14,
    "vocab_size": 1 << 24,
    "n_routed_experts": 1 << 13,
    "num_experts": 1 << 13,
    "num_local_experts": 1 << 13,
    "n_shared_experts": 1 << 10,
    "num_experts_per_tok": 1 << 10,
    "kv_lora_rank": 1 << 16,
    "q_lora_rank": 1 << 16,
    "qk_rope_head_dim": 1 << 14,
    "qk_nope_head_dim": 1 << 14,
    "v_head_dim": 1 << 14,
    "max_position_embeddings": 1 << 28,
    # DeepSeek V3.2 and V4: indexer, hyper-connections (a loop of so many rounds), grouped output
    "index_topk": 1 << 20,
    "index_n_heads": 4096,
    "index_head_dim": 1 << 14,
    "hc_mult": 256,
    "hc_sinkhorn_iters": 1_000,
    "o_groups": 4096,
    "o_lora_rank": 1 << 16,
    "num_hash_layers": 1_000,
    # encoders, decoders, pictures
    "d_model": 1 << 18,
    "d_ff": 1 << 21,
    "d_kv": 1 << 14,
    "num_heads": 4096,
    "n_layers": 1_000,
    "num_decoder_layers": 1_000,
    "encoder_layers": 1_000,
    "decoder_layers": 1_000,
    "encoder_ffn_dim": 1 << 21,
    "decoder_ffn_dim": 1 << 21,
    "n_positions": 1 << 28,
    "type_vocab_size": 1 << 20,
    "num_labels": 1 << 20,  # transformers makes a dictionary of them
    "image_size": 1 << 14,
    "num_channels": 1 << 12,
}
_MAY_BE_ZERO = {
    "num_nextn_predict_layers", "n_shared_experts", "num_experts_per_tok", "num_hash_layers",
    "type_vocab_size", "num_labels", "encoder_layers", "decoder_layers", "num_decoder_layers",
}  # fmt: skip
_FORBIDDEN = {
    "kernel_config": "asks for kernels from a hub",
    "use_kernels": "asks for kernels from a hub",
    "fusion_config": "asks for other code to be patched in",
    "custom_pipelines": "wants its own code to be run",
}
_IMPLEMENTATIONS = ("attn_implementation", "experts_implementation")
_PROCESSOR = re.compile(r"[A-Za-z_]\w{0,99}(Processor|Extractor)(Fast|Pil|WithLM)?", re.ASCII)
# A model's class must not get through: transformers looks the name up among all its classes, and a
# model's ``from_pretrained`` would read weights, pickles too, past every check and every watch.
_CLASS_FIELDS = {
    "tokenizer_class": re.compile(r"[A-Za-z_]\w{0,99}(Tokenizer(Fast|Base)?|Backend)", re.ASCII),
    "processor_class": _PROCESSOR,
    "image_processor_type": _PROCESSOR,
    "feature_extractor_type": _PROCESSOR,
    "video_processor_type": _PROCESSOR,
}
_MODEL_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def check_config(
    config: dict[str, Any], label: str, *, weights: bool = True
) -> tuple[str, list[str]]:
    """Check a config and take ``auto_map`` out of it, in place.

    Args:
        config: the parsed file.
        label: how error sentences name it (``config.json``).
        weights: whether the model is to be loaded; else what only its weights would forbid is
            taken out and noted.

    Returns:
        The model type, and notes for the user.

    Raises:
        ModelRefused: it wants code from elsewhere, or holds what no model has.
    """
    for trail, key, value in _walk(config, label):
        _check_field(trail, key, value)
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not _MODEL_TYPE.fullmatch(model_type):
        raise ModelRefused(
            f"{label}: model_type is {shorten(str(model_type))!r}, and must be a plain name "
            "such as 'llama'; add the right one"
        )
    notes = []
    if config.get("quantization_config") and not weights:
        del config["quantization_config"]
        notes.append(f"{label}: quantization_config was ignored; figures are for plain weights")
    if config.get("quantization_config"):
        raise ModelRefused(
            f"{label}: quantization_config says the weights are already quantised, which this "
            "version does not load; fetch the bf16 or fp16 version of the model"
        )
    if "auto_map" in config:
        # Public DeepSeek checkpoints name code that transformers has long had itself.
        if not knows_model_type(model_type):
            raise ModelRefused(
                f"{label}: auto_map wants code from the directory to be run, and transformers has "
                f"no {model_type!r} of its own; h2q never runs such code, use a model that "
                "transformers supports"
            )
        del config["auto_map"]
        notes.append(f"{label}: auto_map was ignored; transformers' own {model_type} class is used")
    return model_type, notes


def check_class_name(trail: str, key: str, value: Any) -> None:
    """Refuse a field that names a class which is not of the kind the field is for.

    Raises:
        ModelRefused: it is neither a tokenizer nor a processor.
    """
    pattern = _CLASS_FIELDS.get(key)
    if pattern is None or value is None:
        return
    # Some files name a tokenizer's two classes, slow and fast.
    for name in value if isinstance(value, list) else [value]:
        if name is not None and not (isinstance(name, str) and pattern.fullmatch(name)):
            what = "tokenizer" if key == "tokenizer_class" else "processor"
            raise ModelRefused(
                f"{trail} names {shorten(str(name))!r}, which is no {what}; correct the field"
            )


def knows_model_type(model_type: str) -> bool:
    """Whether the installed transformers has a model of this type; looks at its files only."""
    spec = importlib.util.find_spec("transformers")
    if spec is None or not spec.submodule_search_locations:
        return False
    root = next(iter(spec.submodule_search_locations))
    return os.path.isdir(os.path.join(root, "models", model_type.replace("-", "_")))


def _walk(node: Any, trail: str, depth: int = 0) -> Iterator[tuple[str, str, Any]]:
    """Every key of every nested object with its value."""
    if depth > _MAX_DEPTH:
        raise ModelRefused(f"{trail}: is nested too deeply to be genuine")
    if isinstance(node, dict):
        for key, value in node.items():
            where = f"{trail}: {shorten(key)}" if depth == 0 else f"{trail}.{shorten(key)}"
            yield where, key, value
            yield from _walk(value, where, depth + 1)
    elif isinstance(node, list):
        for value in node:
            if isinstance(value, (dict, list)):
                yield from _walk(value, trail, depth + 1)
            elif isinstance(value, int) and abs(value) > _MAX_INT:
                raise ModelRefused(f"{trail} holds {shorten(str(value), 24)}, which no model has")


def _check_field(trail: str, key: str, value: Any) -> None:
    check_class_name(trail, key, value)
    if key in _FORBIDDEN and value:
        raise ModelRefused(f"{trail} {_FORBIDDEN[key]}, which h2q never does; remove the field")
    if key == "trust_remote_code" and value:
        raise ModelRefused(
            f"{trail} wants code from the directory to be run, which h2q never does; "
            "remove the field"
        )
    if key == "auto_map" and ":" in trail and "." in trail.split(": ", 1)[1]:
        raise ModelRefused(
            f"{trail} wants code from elsewhere to be run, which h2q never does; remove the field"
        )
    if key.strip("_").removesuffix("_internal") in _IMPLEMENTATIONS:
        names = value.values() if isinstance(value, dict) else [value]
        if any(isinstance(name, str) and ("/" in name or ":" in name) for name in names):
            raise ModelRefused(
                f"{trail} names a kernel on a hub, which h2q never fetches; remove the field"
            )
    if (
        key == "transformers_weights"
        and isinstance(value, str)
        and value != os.path.basename(value)
    ):
        raise ModelRefused(f"{trail} points outside the directory; remove the field")
    if type(value) is int and abs(value) > _MAX_INT:
        raise ModelRefused(f"{trail} is {shorten(str(value), 24)}, which no model has; correct it")
    limit = _LIMITS.get(key)
    if limit is None or value is None or isinstance(value, (list, dict)):
        return
    low = 0 if key in _MAY_BE_ZERO else 1
    if type(value) is not int or not low <= value <= limit:
        raise ModelRefused(
            f"{trail} is {shorten(str(value), 24)}, and must be a whole number from {low} to "
            f"{limit}; correct it"
        )
