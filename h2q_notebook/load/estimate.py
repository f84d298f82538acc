"""What a model will take, before a weight is touched.

Weights are exact (meta skeleton). Load peak is weights, one read buffer, tokenizer and structure.
A run takes cache and compute on top: counted on fake tensors where that is asked for, else by
formula, which for compute is rough and high.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from h2q_notebook.load.compute import count_run
from h2q_notebook.load.facts import ModelFacts
from h2q_notebook.load.kv_cache import bytes_per_token, size_of
from h2q_notebook.load.skeleton import Skeleton, build_skeleton
from h2q_notebook.units import MIB

__all__ = ["READ_BYTES", "Estimate", "around_weights_bytes", "curve", "estimate", "stored_dtype"]

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
    """``linear``, ``embedding``, ``experts``, ``norms``, ``other`` (buffers too): what a quantiser
    would, and would not, touch. A tied embedding counts once, as embedding."""
    load_peak_bytes: int
    cache_bytes: int
    """Keys and values, or the compressed latent, for ``context_tokens`` and ``batch``."""
    compute_bytes: int
    """What a pass over the prompt takes beside weights and cache."""
    context_tokens: int
    batch: int = 1
    source: Literal["counted", "formula"] = "formula"
    """How cache and compute were found: on fake tensors, or by formula (rough)."""

    @property
    def run_peak_bytes(self) -> int:
        """Weights, cache and compute for prompts of ``context_tokens``."""
        return self.weights_bytes + self.cache_bytes + self.compute_bytes


def stored_dtype(facts: ModelFacts) -> str:
    """What ``--dtype auto`` means for a model: as it is stored; bf16 for quantised GGUF blocks."""
    return _STORED.get(facts.stored_dtype, "bf16")


def estimate(
    facts: ModelFacts,
    dtype: str,
    *,
    context_tokens: int = 4096,
    batch: int = 1,
    skeleton: Skeleton | None = None,
    count: bool = False,
) -> Estimate:
    """Estimate an inspected model.

    Args:
        facts: from ``directory.inspect`` (for a GGUF: of its converted directory).
        dtype: ``fp32``, ``bf16`` or ``fp16``.
        context_tokens: the prompt length the run figures are for.
        batch: how many such prompts at once.
        skeleton: the structure, if it was built already.
        count: count a pass on fake tensors (a quarter of a second to two); else the formulas.

    Raises:
        ModelRefused: transformers cannot build the model.
    """
    skeleton = skeleton or build_skeleton(facts, dtype)
    classes, n_parameters = _weigh(skeleton.model)
    weights = sum(classes.values())
    item_bytes = 4 if dtype == "fp32" else 2
    counted = count_run(skeleton, context_tokens, batch) if count else None
    tokens = context_tokens * batch
    return Estimate(
        dtype=dtype,
        n_parameters=n_parameters,
        weights_bytes=weights,
        weights_by_class=tuple(classes.items()),
        load_peak_bytes=weights + READ_BYTES + around_weights_bytes(facts, weights),
        cache_bytes=counted.cache_bytes
        if counted
        else bytes_per_token(skeleton.config, item_bytes) * tokens,
        compute_bytes=counted.compute_bytes
        if counted
        else _rough_compute_bytes(skeleton.config, item_bytes, context_tokens) * batch,
        context_tokens=context_tokens,
        batch=batch,
        source="counted" if counted else "formula",
    )


def curve(
    skeleton: Skeleton, resident_bytes: int, contexts: Sequence[int], batch: int = 1
) -> tuple[tuple[int, int], ...]:
    """Memory over context: tokens, and bytes of a run on top of *resident_bytes*.

    Args:
        skeleton: of the model.
        resident_bytes: what the loaded model holds.
        contexts: prompt lengths; those that cannot be counted are left out.
        batch: prompts at once.
    """
    points = []
    for tokens in contexts:
        counted = count_run(skeleton, tokens, batch)
        if counted is not None:
            points.append((tokens, resident_bytes + counted.cache_bytes + counted.compute_bytes))
    return tuple(points)


def _weigh(model: Any) -> tuple[dict[str, int], int]:
    """Bytes by class, every tensor once, and the number of parameters."""
    classes = {"linear": 0, "embedding": 0, "experts": 0, "norms": 0, "other": 0}
    seen: set[int] = set()
    n_parameters = 0
    for module_name, module in model.named_modules():
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
    return classes, n_parameters


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


def _class_of(module: Any, module_name: str, tensor: Any) -> str:
    import torch

    if isinstance(module, torch.nn.Linear):
        return "linear"
    if isinstance(module, torch.nn.Embedding):
        return "embedding"
    # Fused experts are 3-D parameters of a module of their own, which stock quantisers skip.
    if module_name.endswith(".experts") or tensor.dim() == 3:
        return "experts"
    return "norms" if "Norm" in type(module).__name__ else "other"


def _rough_compute_bytes(config: Any, item_bytes: int, tokens: int) -> int:
    """Higher than what is counted for dense models; near it for MLA."""
    hidden = size_of(config, "hidden_size", "d_model", "n_embd")
    inner = size_of(config, "intermediate_size", "d_ff", default=4 * hidden)
    compute = tokens * (6 * hidden + 3 * inner) * item_bytes
    if size_of(config, "kv_lora_rank"):
        # MLA has no flash kernel on the CPU: scores are quadratic, about 10 bytes each (measured).
        compute += tokens * tokens * size_of(config, "num_attention_heads", default=1) * 10
        compute += 150 * MIB
    return compute
