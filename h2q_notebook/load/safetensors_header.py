"""The header of a safetensors file, read and checked by ourselves.

safetensors' own parser accepts a key given twice and knows nothing of directories; this one is
stricter: every offset inside the file, the data covered exactly, every dtype known.
Reads the header only, never a weight.
"""

from __future__ import annotations

import struct
from typing import Any

from h2q_notebook.errors import ModelRefused
from h2q_notebook.load.facts import DTYPE_BYTES, TensorFacts
from h2q_notebook.load.safe_json import parse_object, regular_size
from h2q_notebook.units import shorten

__all__ = ["read_header"]

_MAX_HEADER_BYTES = 100_000_000  # the limit of safetensors itself
_MAX_DIMS = 8
_MAX_SIZE = 1 << 40


def read_header(path: str, label: str, shard: int) -> list[TensorFacts]:
    """Read the tensors of one file, in the order of their bytes.

    Args:
        path: the file.
        label: how error sentences name it.
        shard: its index among the shards.

    Raises:
        ModelRefused: the file is not a sound safetensors file.
    """
    size = regular_size(path, label)
    if size < 8:
        raise ModelRefused(f"{label}: has {size} bytes, too few for a safetensors file")
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > _MAX_HEADER_BYTES:
            raise ModelRefused(
                f"{label}: its header length says {length} bytes, and 100 MB is the most; "
                "fetch the file again"
            )
        if 8 + length > size:
            raise ModelRefused(
                f"{label}: its header length says {length} bytes, and the file has only {size}; "
                "it is cut short, fetch it again"
            )
        header = parse_object(file.read(length), f"{label} header")
    header.pop("__metadata__", None)
    base = 8 + length
    tensors = [_tensor(name, meta, base, shard, label) for name, meta in header.items()]
    tensors.sort(key=lambda tensor: (tensor.start, tensor.end))
    at = base
    for tensor in tensors:
        if tensor.start != at:
            word = "overlaps the tensor before it" if tensor.start < at else "leaves a hole"
            raise _bad(label, tensor.name, "data_offsets", word)
        at = tensor.end
    if at != size:
        word = "cut short" if at > size else "longer than its tensors"
        raise ModelRefused(
            f"{label}: the tensors end at byte {at} and the file at byte {size}, so it is {word}; "
            "fetch it again"
        )
    return tensors


def _tensor(name: str, meta: Any, base: int, shard: int, label: str) -> TensorFacts:
    if not name or len(name) > 512:
        raise _bad(label, name, "name", "is empty or longer than 512 characters")
    if not isinstance(meta, dict):
        raise _bad(label, name, "entry", "is not an object")
    dtype = meta.get("dtype")
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise _bad(label, name, "dtype", f"is {shorten(str(dtype))!r}, which is not known")
    shape: Any = meta.get("shape")
    if not _ints(shape) or len(shape) > _MAX_DIMS or any(n > _MAX_SIZE for n in shape):
        raise _bad(label, name, "shape", "is not a list of sensible sizes")
    offsets: Any = meta.get("data_offsets")
    if not _ints(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _bad(label, name, "data_offsets", "is not a pair of ascending numbers")
    start, end = offsets
    facts = TensorFacts(name, dtype, tuple(shape), shard, base + start, base + end)
    if facts.n_values * DTYPE_BYTES[dtype] != end - start:
        raise _bad(label, name, "data_offsets", "does not match its shape and dtype")
    return facts


def _ints(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)


def _bad(label: str, name: str, field: str, what: str) -> ModelRefused:
    return ModelRefused(f"{label}: tensor {shorten(name)!r}, {field} {what}; fetch the file again")
