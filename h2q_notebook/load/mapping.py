"""Which stored tensor fills which parameter, decided before a weight is read.

transformers' own renamings and converters say where each key of a checkpoint belongs. Where its
chain is the one that stacks experts (DeepSeek V2, V3 and V4, Qwen, Mixtral), the places inside the
fused parameter are worked out here, so that every expert can be read straight into its slice; what
follows another chain keeps its stored name, and transformers converts it. Absent, superfluous and
misshapen tensors are refused here. Reads nothing.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from typing import Any

from h2q_notebook.errors import ModelRefused
from h2q_notebook.load.facts import DTYPE_BYTES, FLOAT_DTYPES, ModelFacts, TensorFacts
from h2q_notebook.load.skeleton import Skeleton
from h2q_notebook.units import shorten

__all__ = ["SAFETENSORS_DTYPES", "TORCH_DTYPES", "Filling", "Part", "map_weights"]

TORCH_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
"""torch's name for each safetensors dtype that is loaded."""

SAFETENSORS_DTYPES = {name: dtype for dtype, name in TORCH_DTYPES.items()}
_WANTED = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}


@dataclass(frozen=True, slots=True)
class Part:
    """One stored tensor and the place in the final one that it fills."""

    tensor: TensorFacts
    expert: int | None = None
    """Index into the first dimension of a fused parameter; None: it is the whole parameter."""
    first_row: int = 0
    end_row: int = 0


@dataclass(frozen=True, slots=True)
class Filling:
    """One entry of the state dict that transformers is given."""

    key: str
    """The name it is handed over under: the stored one, or the parameter's where it is fused."""
    target: str
    """The parameter it fills, or helps to fill."""
    shape: tuple[int, ...]
    dtype: str
    """The safetensors dtype it is to have in memory."""
    parts: tuple[Part, ...]
    converts: bool = False
    """Whether transformers itself turns it, with others, into the parameter while it loads."""

    @property
    def n_bytes(self) -> int:
        """Bytes in memory."""
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]

    @property
    def fused(self) -> bool:
        """Whether several stored tensors fill it in place."""
        return self.parts[0].expert is not None

    @property
    def as_stored(self) -> bool:
        """Whether the file holds exactly these bytes in one piece."""
        same_dtype = self.parts[0].tensor.dtype == self.dtype
        return same_dtype and not self.fused and not self.converts


def map_weights(facts: ModelFacts, skeleton: Skeleton) -> tuple[Filling, ...]:
    """Decide for every stored tensor which parameter it fills, and how.

    Args:
        facts: the inspected directory.
        skeleton: the plain structure (not a quantised one) in the dtype to load.

    Raises:
        ModelRefused: a tensor is absent, superfluous or of the wrong shape.
    """
    return _Mapper(facts, skeleton).fillings()


class _Mapper:
    def __init__(self, facts: ModelFacts, skeleton: Skeleton) -> None:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming

        self._facts = facts
        self._model = skeleton.model
        self._state: dict[str, Any] = dict(skeleton.model.state_dict())
        self._wanted = _WANTED[skeleton.dtype]
        mapping = get_model_conversion_mapping(skeleton.model)
        self._renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
        self._converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
        names = [
            *(self._model._keep_in_fp32_modules or ()),
            *(self._model._keep_in_fp32_modules_strict or ()),
        ]
        # Parameters this model keeps in fp32 whatever is asked (routers' biases, norms) are handed
        # over as stored: casting is then transformers' own decision.
        self._keeps = re.compile("|".join(names)) if names else None

    def fillings(self) -> tuple[Filling, ...]:
        by_pattern = {p: c for c in self._converters for p in c.source_patterns}
        found: list[Filling] = []
        groups: dict[str, list[tuple[str, TensorFacts]]] = {}
        targets: set[str] = set()
        extra: list[TensorFacts] = []
        for tensor in self._facts.tensors:
            target, pattern = self._target(tensor.name)
            targets.add(target)
            if pattern is not None and target in self._state:
                groups.setdefault(target, []).append((pattern, tensor))
                continue
            if target in self._state:
                self._check_shape(tensor, self._state[target])
            elif pattern is None:
                extra.append(tensor)
            found.append(self._raw(tensor, target, converts=pattern is not None))
        for target, members in groups.items():
            found += self._group(target, members, by_pattern[members[0][0]])
        # A converter with several targets fills some that no stored name stands for.
        if all(len(c.target_patterns) == 1 for c in self._converters):
            self._check_missing(targets)
        self._check_extra(extra)
        return tuple(found)

    def _target(self, name: str) -> tuple[str, str | None]:
        """As transformers decides it: the parameter's name, and the converter's pattern if any."""
        from transformers.core_model_loading import rename_source_key

        prefix, state = self._model.base_model_prefix, self._state
        target, pattern = rename_source_key(name, self._renamings, self._converters, prefix, state)
        if target not in state and name in state:
            return name, None
        return target, pattern

    def _final_dtype(self, tensor: TensorFacts, target: str) -> str:
        if tensor.dtype not in FLOAT_DTYPES:
            return tensor.dtype
        if self._keeps is not None and self._keeps.search(target):
            return tensor.dtype
        return self._wanted

    def _raw(self, tensor: TensorFacts, target: str, *, converts: bool) -> Filling:
        dtype = self._final_dtype(tensor, target)
        return Filling(tensor.name, target, tensor.shape, dtype, (Part(tensor),), converts)

    def _group(
        self, target: str, members: list[tuple[str, TensorFacts]], converter: Any
    ) -> list[Filling]:
        shape = tuple(self._state[target].shape)
        if _merges_experts(converter):
            self._check_experts(target, members, converter, shape[0])
        parts = _fused_parts(members, converter, shape)
        # The name must survive the renamings it goes through once more inside transformers.
        if parts is None or self._target(target)[0] != target:
            return [self._raw(tensor, target, converts=True) for _, tensor in members]
        return [Filling(target, target, shape, self._final_dtype(parts[0].tensor, target), parts)]

    def _check_experts(
        self, target: str, members: list[tuple[str, TensorFacts]], converter: Any, n_experts: int
    ) -> None:
        for pattern in converter.source_patterns:
            found = sum(1 for one, _ in members if one == pattern)
            if found != n_experts:
                raise ModelRefused(
                    f"{self._file(members[0][1])}: {shorten(target)!r} wants {n_experts} experts "
                    f"and {found} are there; the download is incomplete or config.json belongs to "
                    "another model"
                )

    def _check_shape(self, tensor: TensorFacts, reference: Any) -> None:
        if tensor.shape != tuple(reference.shape):
            raise ModelRefused(
                f"{self._file(tensor)}: tensor {shorten(tensor.name)!r}, shape is "
                f"{list(tensor.shape)}, and config.json makes it {list(reference.shape)}; they do "
                "not belong together"
            )

    def _check_missing(self, targets: set[str]) -> None:
        """An absent tensor would be filled with random numbers, and only logged."""
        ignore = list(getattr(self._model, "_keys_to_ignore_on_load_missing", None) or ())
        by_tensor: dict[int, list[str]] = {}
        for name, tensor in (
            *self._model.named_parameters(remove_duplicate=False),
            *self._model.named_buffers(remove_duplicate=False),
        ):
            if name in self._state:
                by_tensor.setdefault(id(tensor), []).append(name)
        for names in by_tensor.values():
            if any(name in targets or _matches(ignore, name) for name in names):
                continue
            raise ModelRefused(
                f"{os.path.basename(self._facts.shards[0].path)}: tensor {shorten(names[0])!r} is "
                "missing; the download is incomplete or config.json belongs to another model"
            )

    def _check_extra(self, extra: list[TensorFacts]) -> None:
        ignore = list(getattr(self._model, "_keys_to_ignore_on_load_unexpected", None) or ())
        for tensor in extra:
            if _matches(ignore, tensor.name) or tensor.name.endswith("rotary_emb.inv_freq"):
                continue
            raise ModelRefused(
                f"{self._file(tensor)}: tensor {shorten(tensor.name)!r} has no place in a "
                f"{self._facts.model_type} model; config.json belongs to another model"
            )

    def _file(self, tensor: TensorFacts) -> str:
        return os.path.basename(self._facts.shards[tensor.shard].path)


def _matches(patterns: list[str], name: str) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)


def _merges_experts(converter: Any) -> bool:
    """Whether the chain stacks experts and, if there are two patterns, joins gate and up."""
    from transformers.core_model_loading import Concatenate, MergeModulelist

    steps = [(type(step), getattr(step, "dim", None)) for step in converter.operations]
    merge, join = (MergeModulelist, 0), (Concatenate, 1)
    return steps in ([merge, join], [merge]) and len(converter.target_patterns) == 1


def _fused_parts(
    members: list[tuple[str, TensorFacts]], converter: Any, shape: tuple[int, ...]
) -> tuple[Part, ...] | None:
    """Places of all experts in their fused parameter, or None where the chain is another one."""
    from transformers.core_model_loading import dot_natural_key

    same_dtype = len({tensor.dtype for _, tensor in members}) == 1
    if not _merges_experts(converter) or converter.quantization_operation or not same_dtype:
        return None
    parts: list[Part] = []
    first = 0
    for pattern in converter.source_patterns:
        own = sorted((t for p, t in members if p == pattern), key=lambda t: dot_natural_key(t.name))
        rows = own[0].shape[0]
        if any(tensor.shape != (rows, *shape[2:]) for tensor in own):
            return None
        parts += [Part(tensor, e, first, first + rows) for e, tensor in enumerate(own)]
        first += rows
    return tuple(parts) if first == shape[1] else None
