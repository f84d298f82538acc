"""Weights from safetensors into their final place, under a watch.

A lazy state dict for the public ``from_pretrained(None, config=..., state_dict=...)``: transformers
keeps tying, buffers and naming; the bytes are read here, by preadv into anonymous memory in pieces
of at most 8 MiB, each piece cast at once, so that peak is final size plus one piece and every byte
is one the watch has admitted. Experts of DeepSeek V2 and V3 go straight into their fused parameter;
what follows no known chain is handed over raw to transformers' own converter.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from h2q_notebook.errors import ModelRefused
from h2q_notebook.load.estimate import READ_BYTES
from h2q_notebook.load.facts import DTYPE_BYTES, FLOAT_DTYPES, ModelFacts, TensorFacts
from h2q_notebook.load.skeleton import Skeleton, torch_dtype
from h2q_notebook.load.watch import Watch
from h2q_notebook.units import shorten

__all__ = ["WeightSource"]

_TORCH = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
_SAFETENSORS = {name: dtype for dtype, name in _TORCH.items()}


@dataclass(frozen=True, slots=True)
class _Part:
    """One stored tensor and the place in the final one that it fills (None: all of it)."""

    tensor: TensorFacts
    place: tuple[int, int, int] | None


class LazyTensor:
    """A tensor that is read when ``[...]`` asks for it; all else is known without reading."""

    def __init__(
        self,
        source: WeightSource,
        name: str,
        shape: tuple[int, ...],
        parts: list[_Part],
        dtype: Any,
    ) -> None:
        import torch

        self._source = source
        self._name = name
        self._parts = parts
        self.shape = torch.Size(shape)
        self.dtype = dtype

    def get_shape(self) -> list[int]:
        """As safetensors' slices say it."""
        return list(self.shape)

    def get_dtype(self) -> str:
        """As safetensors' slices say it."""
        return _SAFETENSORS[str(self.dtype).removeprefix("torch.")]

    def is_floating_point(self) -> bool:
        """As torch's tensors say it."""
        return bool(self.dtype.is_floating_point)

    def __getitem__(self, index: Any) -> Any:
        import torch

        source = self._source
        source.watch.reserve(self.shape.numel() * self.dtype.itemsize, f"tensor {self._name}")
        whole = torch.empty(self.shape, dtype=self.dtype)
        for part in self._parts:
            if part.place is None:
                source.read(part.tensor, whole)
            else:
                expert, first, last = part.place
                source.read(part.tensor, whole[expert, first:last])
        return whole if index is Ellipsis else whole[index]


class WeightSource(Mapping[str, LazyTensor]):
    """The lazy state dict of one load; close it when the load has ended.

    Args:
        facts: the inspected directory.
        skeleton: the structure the weights are for.
        watch: asked before each tensor and at every piece.
        on_bytes: called with the bytes of each piece once it is in place.

    Raises:
        ModelRefused: a tensor is absent, superfluous or of the wrong shape, or a file has changed
            since it was inspected. No weight has been read by then.
    """

    def __init__(
        self,
        facts: ModelFacts,
        skeleton: Skeleton,
        watch: Watch,
        on_bytes: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.watch = watch
        self._facts = facts
        self._on_bytes = on_bytes
        self._wanted = torch_dtype(skeleton.dtype)
        self._lazy: dict[str, LazyTensor] = {}
        self._fds: list[int] = []
        self._buffer: Any = None
        self.fused = 0
        """How many parameters are filled expert by expert in place."""
        try:
            self._open()
            self._map(skeleton)
        except BaseException:
            self.close()
            raise

    def __getitem__(self, key: str) -> LazyTensor:
        return self._lazy[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._lazy)

    def __len__(self) -> int:
        return len(self._lazy)

    def close(self) -> None:
        """Give descriptors and the cast buffer back; safe to call twice."""
        self._lazy.clear()
        self._buffer = None
        fds, self._fds = self._fds, []
        for fd in fds:
            os.close(fd)

    def _open(self) -> None:
        for shard in self._facts.shards:
            fd = os.open(shard.path, os.O_RDONLY | os.O_CLOEXEC)
            self._fds.append(fd)
            if os.fstat(fd).st_size != shard.n_bytes:
                name = os.path.basename(shard.path)
                raise ModelRefused(f"{name}: has changed since it was inspected; load it again")

    def _map(self, skeleton: Skeleton) -> None:
        """Decide for every stored tensor which parameter it fills, and how."""
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import (
            WeightConverter,
            WeightRenaming,
            rename_source_key,
        )

        model = skeleton.model
        state = model.state_dict()
        mapping = get_model_conversion_mapping(model)
        renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
        converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
        by_pattern = {p: c for c in converters for p in c.source_patterns}
        keeps = self._fp32_names(model)
        groups: dict[str, list[tuple[str, TensorFacts]]] = {}
        targets: set[str] = set()
        extra: list[TensorFacts] = []
        for tensor in self._facts.tensors:
            target, pattern = rename_source_key(
                tensor.name, renamings, converters, model.base_model_prefix, state
            )
            if target not in state and tensor.name in state:
                target, pattern = tensor.name, None
            targets.add(target)
            if pattern is None or target not in state:
                if target in state:
                    self._check_shape(tensor, tensor.shape, state[target])
                elif pattern is None:
                    extra.append(tensor)
                self._add_raw(tensor, target, keeps)
            else:
                groups.setdefault(target, []).append((pattern, tensor))
        for target, members in groups.items():
            self._add_group(target, members, by_pattern[members[0][0]], state[target], keeps)
        if all(len(c.target_patterns) == 1 for c in converters):
            self._check_missing(model, state, targets)
        self._check_extra(model, extra)

    def _fp32_names(self, model: Any) -> re.Pattern[str] | None:
        """Parameters that this model keeps in fp32 whatever is asked (routers' biases, norms)."""
        names = [*(model._keep_in_fp32_modules or ()), *(model._keep_in_fp32_modules_strict or ())]
        # Handed over as stored when in doubt: casting is then transformers' own decision.
        return re.compile("|".join(names)) if names else None

    def _final_dtype(self, tensor: TensorFacts, target: str, keeps: re.Pattern[str] | None) -> Any:
        import torch

        stored = getattr(torch, _TORCH[tensor.dtype])
        if tensor.dtype not in FLOAT_DTYPES or (keeps is not None and keeps.search(target)):
            return stored
        return self._wanted

    def _add_raw(self, tensor: TensorFacts, target: str, keeps: re.Pattern[str] | None) -> None:
        dtype = self._final_dtype(tensor, target, keeps)
        parts = [_Part(tensor, None)]
        self._lazy[tensor.name] = LazyTensor(self, tensor.name, tensor.shape, parts, dtype)

    def _add_group(
        self,
        target: str,
        members: list[tuple[str, TensorFacts]],
        converter: Any,
        reference: Any,
        keeps: re.Pattern[str] | None,
    ) -> None:
        shape = tuple(reference.shape)
        if _merges_experts(converter):
            self._check_experts(target, members, converter, shape[0])
        parts = _fused_parts(members, converter, shape)
        if parts is None:
            for _, tensor in members:
                self._add_raw(tensor, target, keeps)
            return
        dtype = self._final_dtype(parts[0].tensor, target, keeps)
        self._lazy[target] = LazyTensor(self, target, shape, parts, dtype)
        self.fused += 1

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

    def _check_shape(self, tensor: TensorFacts, shape: tuple[int, ...], reference: Any) -> None:
        if tuple(shape) != tuple(reference.shape):
            raise ModelRefused(
                f"{self._file(tensor)}: tensor {shorten(tensor.name)!r}, shape is {list(shape)}, "
                f"and config.json makes it {list(reference.shape)}; they do not belong together"
            )

    def _check_missing(self, model: Any, state: Mapping[str, Any], targets: set[str]) -> None:
        """An absent tensor would be filled with random numbers, and only logged."""
        ignore = list(getattr(model, "_keys_to_ignore_on_load_missing", None) or ())
        by_tensor: dict[int, list[str]] = {}
        for name, tensor in (
            *model.named_parameters(remove_duplicate=False),
            *model.named_buffers(remove_duplicate=False),
        ):
            if name in state:
                by_tensor.setdefault(id(tensor), []).append(name)
        for names in by_tensor.values():
            if any(name in targets or _matches(ignore, name) for name in names):
                continue
            raise ModelRefused(
                f"{os.path.basename(self._facts.shards[0].path)}: tensor {shorten(names[0])!r} is "
                "missing; the download is incomplete or config.json belongs to another model"
            )

    def _check_extra(self, model: Any, extra: list[TensorFacts]) -> None:
        ignore = list(getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ())
        for tensor in extra:
            if _matches(ignore, tensor.name) or tensor.name.endswith("rotary_emb.inv_freq"):
                continue
            raise ModelRefused(
                f"{self._file(tensor)}: tensor {shorten(tensor.name)!r} has no place in a "
                f"{self._facts.model_type} model; config.json belongs to another model"
            )

    def _file(self, tensor: TensorFacts) -> str:
        return os.path.basename(self._facts.shards[tensor.shard].path)

    def read(self, tensor: TensorFacts, into: Any) -> None:
        """Read one stored tensor into contiguous memory, piece by piece, casting as it comes."""
        import torch

        stored = getattr(torch, _TORCH[tensor.dtype])
        flat = into.view(-1)
        cast = stored != flat.dtype
        if cast and self._buffer is None:
            self._buffer = torch.empty(READ_BYTES, dtype=torch.uint8)
        item_bytes = DTYPE_BYTES[tensor.dtype]
        fd = self._fds[tensor.shard]
        done = 0
        while done < tensor.n_bytes:
            self.watch.check()
            n_bytes = min(READ_BYTES, tensor.n_bytes - done)
            first, count = done // item_bytes, n_bytes // item_bytes
            place = flat[first : first + count]
            piece = self._buffer[:n_bytes].view(stored) if cast else place
            self._fill(fd, memoryview(piece.view(torch.uint8).numpy()), tensor, tensor.start + done)
            if cast:
                place.copy_(piece)
            if flat.dtype.is_floating_point:
                self._check_finite(place, tensor)
            done += n_bytes
            self._on_bytes(n_bytes)

    def _fill(self, fd: int, view: memoryview, tensor: TensorFacts, at: int) -> None:
        done = 0
        while done < len(view):
            count = os.preadv(fd, [view[done:]], at + done)
            if count <= 0:
                raise ModelRefused(
                    f"{self._file(tensor)}: ended while tensor {shorten(tensor.name)!r} was read; "
                    "fetch it again"
                )
            done += count

    def _check_finite(self, values: Any, tensor: TensorFacts) -> None:
        import torch

        # The sum is the cheapest pass that NaN and infinity survive; only a suspicion costs more.
        if bool(torch.isfinite(values.sum())) or bool(torch.isfinite(values).all()):
            return
        raise ModelRefused(
            f"{self._file(tensor)}: tensor {shorten(tensor.name)!r} holds NaN or infinity; "
            "fetch it again, or load it with --dtype fp32 if it is sound"
        )


def _matches(patterns: list[str], name: str) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)


def _merges_experts(converter: Any) -> bool:
    """Whether the chain is the one DeepSeek V2 and V3 use: stack experts, then join gate and up."""
    from transformers.core_model_loading import Concatenate, MergeModulelist

    steps = [(type(step), getattr(step, "dim", None)) for step in converter.operations]
    merge, join = (MergeModulelist, 0), (Concatenate, 1)
    return steps in ([merge, join], [merge]) and len(converter.target_patterns) == 1


def _fused_parts(
    members: list[tuple[str, TensorFacts]], converter: Any, shape: tuple[int, ...]
) -> list[_Part] | None:
    """Places of all experts in their fused parameter, or None where the chain is another one."""
    from transformers.core_model_loading import dot_natural_key

    same_dtype = len({tensor.dtype for _, tensor in members}) == 1
    if not _merges_experts(converter) or converter.quantization_operation or not same_dtype:
        return None
    parts: list[_Part] = []
    first = 0
    for pattern in converter.source_patterns:
        own = sorted((t for p, t in members if p == pattern), key=lambda t: dot_natural_key(t.name))
        rows = own[0].shape[0]
        if any(tensor.shape != (rows, *shape[2:]) for tensor in own):
            return None
        parts += [_Part(tensor, (e, first, first + rows)) for e, tensor in enumerate(own)]
        first += rows
    return parts if first == shape[1] else None
