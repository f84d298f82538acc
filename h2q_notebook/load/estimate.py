"""What a model will take, before a weight is touched.

Weights are exact (meta skeleton); load peak is weights plus one read buffer (measured error of
these 0.1 to 0.7 %), tokenizer and structure; the key/value cache follows transformers' formula,
MLA's compressed one included. Compute is a rough upper figure by formula; a fake-tensor run will
take its place (``run_peak_bytes``).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from h2q_notebook.load.facts import ModelFacts
from h2q_notebook.load.ladder import Rung
from h2q_notebook.load.skeleton import Skeleton, build_skeleton
from h2q_notebook.units import MIB

__all__ = ["READ_BYTES", "Estimate", "around_weights_bytes", "estimate", "rung_of", "stored_dtype"]

READ_BYTES = 8 * MIB
"""The largest piece read between two checks, and the size of the cast buffer."""

_TOKENIZER_FACTOR = 10
_STRUCTURE_BYTES = 16 * MIB
"""Python objects of the structure and the probe forward, at most. This and the factor (bytes held
for each byte of tokenizer.json) are measured on SmolLM2-135M: 310 MiB at the peak, of which 257 are
weights, 8 the buffer and 34 the tokenizer."""

_STORED = {"F64": "fp32", "F32": "fp32", "F16": "fp16", "BF16": "bf16"}


@dataclass(frozen=True, slots=True)
class Estimate:
    """One model in one dtype. Bytes."""

    dtype: str
    n_parameters: int
    weights_bytes: int
    weights_by_class: tuple[tuple[str, int], ...]
    """``linear``, ``embedding``, ``experts``, ``other``: what a quantiser would (not) touch."""
    load_peak_bytes: int
    kv_bytes_per_token: int
    compute_bytes: int
    """For ``context_tokens``; rough."""
    context_tokens: int

    @property
    def run_peak_bytes(self) -> int:
        """Weights, cache and compute for a prompt of ``context_tokens``."""
        cache = self.kv_bytes_per_token * self.context_tokens
        return self.weights_bytes + cache + self.compute_bytes


def stored_dtype(facts: ModelFacts) -> str:
    """What ``--dtype auto`` means for a model: as it is stored; bf16 for quantised GGUF blocks."""
    return _STORED.get(facts.stored_dtype, "bf16")


def estimate(
    facts: ModelFacts, dtype: str, *, context_tokens: int = 2048, skeleton: Skeleton | None = None
) -> Estimate:
    """Estimate an inspected model.

    Args:
        facts: from ``directory.inspect`` (for a GGUF: of its converted directory).
        dtype: ``fp32``, ``bf16`` or ``fp16``.
        context_tokens: the prompt length the run peak is for.
        skeleton: the structure, if it was built already.

    Raises:
        ModelRefused: transformers cannot build the model.
    """
    skeleton = skeleton or build_skeleton(facts, dtype)
    classes = {"linear": 0, "embedding": 0, "experts": 0, "other": 0}
    seen: set[int] = set()
    n_parameters = 0
    for module_name, module in skeleton.model.named_modules():
        for name, tensor in (
            *module.named_parameters(recurse=False),
            *module.named_buffers(recurse=False),
        ):
            if id(tensor) in seen:
                continue
            seen.add(id(tensor))
            is_parameter = name in module._parameters
            n_parameters += tensor.numel() if is_parameter else 0
            kind = _class_of(module, module_name, tensor) if is_parameter else "other"
            classes[kind] += tensor.numel() * tensor.element_size()
    weights = sum(classes.values())
    item_bytes = 4 if dtype == "fp32" else 2
    return Estimate(
        dtype=dtype,
        n_parameters=n_parameters,
        weights_bytes=weights,
        weights_by_class=tuple(classes.items()),
        load_peak_bytes=weights + READ_BYTES + around_weights_bytes(facts, weights),
        kv_bytes_per_token=_kv_bytes_per_token(skeleton.config, item_bytes),
        compute_bytes=_compute_bytes(skeleton.config, item_bytes, context_tokens),
        context_tokens=context_tokens,
    )


def around_weights_bytes(facts: ModelFacts, weights_bytes: int) -> int:
    """What a load takes beside weights and buffer: the tokenizer, the structure, the probe.

    Args:
        facts: from ``directory.inspect``.
        weights_bytes: the weights; a tiny model has a tiny structure.
    """
    try:
        tokenizer = os.path.getsize(os.path.join(facts.path, "tokenizer.json"))
    except OSError:
        tokenizer = 0
    return _TOKENIZER_FACTOR * tokenizer + min(_STRUCTURE_BYTES, weights_bytes // 8)


def rung_of(figures: Estimate) -> Rung:
    """The rung of the ladder that an estimate describes."""
    return Rung(
        name=figures.dtype,
        kind="full",
        dtype=figures.dtype,
        resident_bytes=figures.weights_bytes,
        load_peak_bytes=figures.load_peak_bytes,
        run_peak_bytes=figures.run_peak_bytes,
    )


def _class_of(module: Any, module_name: str, tensor: Any) -> str:
    import torch

    if isinstance(module, torch.nn.Linear):
        return "linear"
    if isinstance(module, torch.nn.Embedding):
        return "embedding"
    # Fused experts are 3-D parameters of a module of their own, which stock quantisers skip.
    return "experts" if module_name.endswith(".experts") or tensor.dim() == 3 else "other"


def _size(config: Any, *names: str, default: int = 0) -> int:
    for name in names:
        value = getattr(config, name, None)
        if isinstance(value, int):
            return value
    return default


def _kv_bytes_per_token(config: Any, item_bytes: int) -> int:
    layers = _size(config, "num_hidden_layers", "n_layer")
    # transformers caches MLA's compressed latent for DeepSeek V2 and V3 (measured: exact).
    if _size(config, "kv_lora_rank") and str(config.model_type).startswith("deepseek"):
        latent = _size(config, "kv_lora_rank") + _size(config, "qk_rope_head_dim")
        return layers * latent * item_bytes
    heads = _size(config, "num_attention_heads", "n_head", default=1)
    head_dim = _size(config, "head_dim") or _size(config, "hidden_size", "n_embd") // heads
    kv_heads = _size(config, "num_key_value_heads", default=heads)
    return layers * 2 * kv_heads * head_dim * item_bytes


def _compute_bytes(config: Any, item_bytes: int, tokens: int) -> int:
    hidden = _size(config, "hidden_size", "n_embd")
    inner = _size(config, "intermediate_size", default=4 * hidden)
    compute = tokens * (6 * hidden + 3 * inner) * item_bytes
    if _size(config, "kv_lora_rank"):
        # MLA has no flash kernel on the CPU: scores are quadratic, about 10 bytes each (measured).
        compute += tokens * tokens * _size(config, "num_attention_heads", default=1) * 10
        compute += 150 * MIB
    return compute
