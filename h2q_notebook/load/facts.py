"""What a model directory holds, as plain frozen data.

Covers the shape only: filled by ``directory``, read by every other module of this room.
Imports nothing heavy, so that views and tests may take it too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["DTYPE_BYTES", "FLOAT_DTYPES", "ModelFacts", "ShardFacts", "TensorFacts"]

DTYPE_BYTES: dict[str, int] = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip
"""Bytes per value of the safetensors dtypes this loader knows."""

FLOAT_DTYPES = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """One stored tensor: where its bytes are and how they are to be read."""

    name: str
    dtype: str
    """A safetensors dtype (``BF16``), or a ggml one (``Q4_1``)."""
    shape: tuple[int, ...]
    """In torch order."""
    shard: int
    """Index into ``ModelFacts.shards``."""
    start: int
    """First byte, counted from the beginning of the file."""
    end: int

    @property
    def n_values(self) -> int:
        """Number of values."""
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def n_bytes(self) -> int:
        """Bytes in the file."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class ShardFacts:
    """One weight file, as it was when it was inspected."""

    path: str
    n_bytes: int


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model directory that passed every check."""

    path: str
    """The directory (for a GGUF: the one that holds the file)."""
    kind: Literal["safetensors", "gguf", "config"]
    """``config``: no weights, only a config to estimate from."""
    model_type: str
    config_json: str
    """config.json as it was checked, without ``auto_map``; ``{}`` for a GGUF."""
    shards: tuple[ShardFacts, ...]
    tensors: tuple[TensorFacts, ...]
    stored_dtype: str
    """The float dtype most of the bytes are stored in (for a GGUF: the commonest ggml type)."""
    has_tokenizer: bool
    notes: tuple[str, ...] = ()
    has_processor: bool = False
    """A processor, an image processor or a feature extractor."""

    @property
    def stored_bytes(self) -> int:
        """Bytes of all weights as they are stored."""
        return sum(tensor.n_bytes for tensor in self.tensors)

    @property
    def n_values(self) -> int:
        """Number of stored values, quantised ones counted one by one."""
        return sum(tensor.n_values for tensor in self.tensors)
