"""The header of a GGUF file, read and checked by ourselves.

Every count is bounded by the bytes that are there, so a lying header cannot make us allocate.
Keeps where each metadata entry lies, so that ``gguf_cache`` can write a short header without the
vocabulary (transformers takes 9 s to walk 49 000 tokens, twice). Never reads a weight.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from h2q_notebook.errors import ModelRefused
from h2q_notebook.load.facts import TensorFacts
from h2q_notebook.load.safe_json import regular_size
from h2q_notebook.units import MIB, shorten

__all__ = ["GGML_TYPES", "GgufHeader", "MetadataEntry", "read_gguf"]

GGML_TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210), 16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2),
}  # fmt: skip
"""ggml type number -> name, values per block, bytes per block."""

_SCALARS = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
_STRING, _ARRAY = 8, 9
_MAX_HEADER_BYTES = 256 * MIB
_MAX_ENTRIES = 4096
_MAX_TENSORS = 1 << 17
_MAX_KEY = 256


@dataclass(frozen=True, slots=True)
class MetadataEntry:
    """One metadata entry: its scalar or string value (an array's length), and where it lies."""

    value: Any
    type_number: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """A header that passed every check."""

    version: int
    architecture: str
    metadata: dict[str, MetadataEntry]
    tensors: tuple[TensorFacts, ...]
    table_start: int
    table_end: int
    data_start: int


class _Reader:
    """Walks a header that is held in memory; every step is checked against its end."""

    def __init__(self, blob: bytes, label: str) -> None:
        self.blob = blob
        self.at = 0
        self._label = label

    def take(self, n_bytes: int, what: str) -> int:
        start, end = self.at, self.at + n_bytes
        if n_bytes < 0 or end > len(self.blob):
            raise ModelRefused(
                f"{self._label}: {what} reaches past the end of the file; it is cut short or "
                "damaged, fetch it again"
            )
        self.at = end
        return start

    def number(self, code: str, what: str) -> Any:
        layout = struct.Struct("<" + code)
        return layout.unpack_from(self.blob, self.take(layout.size, what))[0]

    def text(self, what: str, limit: int) -> str:
        length = self.number("Q", what)
        if length > limit:
            raise ModelRefused(f"{self._label}: {what} says it has {length} bytes; fetch it again")
        start = self.take(length, what)
        try:
            return self.blob[start : self.at].decode("utf-8")
        except UnicodeDecodeError:
            raise ModelRefused(f"{self._label}: {what} is not UTF-8; fetch it again") from None


def read_gguf(path: str, label: str) -> GgufHeader:
    """Read and check a GGUF header.

    Raises:
        ModelRefused: the file is not a sound little-endian GGUF of version 2 or 3.
    """
    size = regular_size(path, label)
    with open(path, "rb") as file:
        blob = file.read(min(size, _MAX_HEADER_BYTES))
    reader = _Reader(blob, label)
    if blob[:4] != b"GGUF":
        raise ModelRefused(f"{label}: does not begin with GGUF, so it is no GGUF file")
    reader.take(4, "magic")
    version = reader.number("I", "version")
    if version not in (2, 3):
        raise ModelRefused(f"{label}: version is {version}, and 2 or 3 is wanted; convert it anew")
    n_tensors = reader.number("Q", "tensor count")
    n_entries = reader.number("Q", "metadata count")
    if not 0 < n_tensors <= _MAX_TENSORS:
        raise ModelRefused(f"{label}: tensor count is {n_tensors}, which no model has")
    if n_entries > _MAX_ENTRIES:
        raise ModelRefused(f"{label}: metadata count is {n_entries}, which no model has")
    metadata = _read_metadata(reader, n_entries, label)
    architecture = metadata.get("general.architecture")
    if architecture is None or not isinstance(architecture.value, str):
        raise ModelRefused(f"{label}: general.architecture is missing; convert the model anew")
    alignment = metadata["general.alignment"].value if "general.alignment" in metadata else 32
    if type(alignment) is not int or not 8 <= alignment <= MIB or alignment & (alignment - 1):
        raise ModelRefused(
            f"{label}: general.alignment is {shorten(str(alignment))}, not a power of 2"
        )
    table_start = reader.at
    table = [_read_tensor(reader, label) for _ in range(n_tensors)]
    table_end = reader.at
    data_start = -(-table_end // alignment) * alignment
    tensors = tuple(_place(entry, data_start, size, label) for entry in table)
    _check_layout(tensors, label)
    return GgufHeader(
        version, architecture.value, metadata, tensors, table_start, table_end, data_start
    )


def _read_metadata(reader: _Reader, count: int, label: str) -> dict[str, MetadataEntry]:
    metadata: dict[str, MetadataEntry] = {}
    for _ in range(count):
        start = reader.at
        key = reader.text("a metadata key", _MAX_KEY)
        kind = reader.number("I", f"metadata {shorten(key)}")
        value = _read_value(reader, kind, f"metadata {shorten(key)}", label)
        if key in metadata:
            raise ModelRefused(f"{label}: metadata {shorten(key)} is given twice; convert it anew")
        metadata[key] = MetadataEntry(value, kind, start, reader.at)
    return metadata


def _read_value(reader: _Reader, kind: int, what: str, label: str) -> Any:
    if kind in _SCALARS:
        return reader.number(_SCALARS[kind], what)
    if kind == _STRING:
        return reader.text(what, 16 * MIB)
    if kind != _ARRAY:
        raise ModelRefused(f"{label}: {what} has the unknown type {kind}; fetch it again")
    inner = reader.number("I", what)
    count = reader.number("Q", what)
    if inner in _SCALARS:
        reader.take(count * struct.calcsize("<" + _SCALARS[inner]), what)
    elif inner == _STRING:
        if count * 8 > len(reader.blob) - reader.at:
            reader.take(count * 8, what)
        for _ in range(count):
            reader.take(reader.number("Q", what), what)
    else:
        raise ModelRefused(f"{label}: {what} is an array of the unknown type {inner}")
    return count


def _read_tensor(reader: _Reader, label: str) -> tuple[str, tuple[int, ...], int, int]:
    name = reader.text("a tensor name", _MAX_KEY)
    what = f"tensor {shorten(name)!r}"
    n_dims = reader.number("I", what)
    if not 0 < n_dims <= 4:
        raise ModelRefused(f"{label}: {what} has {n_dims} dimensions; fetch it again")
    dims = tuple(reader.number("Q", what) for _ in range(n_dims))
    if any(not 0 < size <= 1 << 40 for size in dims):
        raise ModelRefused(f"{label}: {what} has the shape {dims}; fetch it again")
    # ggml writes the fastest-moving dimension first, torch last.
    return name, dims[::-1], reader.number("I", what), reader.number("Q", what)


def _place(
    entry: tuple[str, tuple[int, ...], int, int], data_start: int, size: int, label: str
) -> TensorFacts:
    name, shape, type_number, offset = entry
    if type_number not in GGML_TYPES:
        raise ModelRefused(
            f"{label}: tensor {shorten(name)!r} has the ggml type {type_number}, which is not "
            "known; fetch a Q4_K_M, Q8_0 or F16 version"
        )
    dtype, per_block, block_bytes = GGML_TYPES[type_number]
    if shape[-1] % per_block:
        raise ModelRefused(f"{label}: tensor {shorten(name)!r} does not fill whole {dtype} blocks")
    count = 1
    for n in shape:
        count *= n
    start = data_start + offset
    end = start + count // per_block * block_bytes
    if end > size:
        raise ModelRefused(
            f"{label}: tensor {shorten(name)!r} ends at byte {end} and the file at byte {size}; "
            "it is cut short, fetch it again"
        )
    return TensorFacts(name, dtype, shape, 0, start, end)


def _check_layout(tensors: tuple[TensorFacts, ...], label: str) -> None:
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise ModelRefused(f"{label}: a tensor name is given twice; convert the model anew")
    at = 0
    for tensor in sorted(tensors, key=lambda tensor: tensor.start):
        if tensor.start < at:
            raise ModelRefused(
                f"{label}: tensor {shorten(tensor.name)!r}, offset overlaps the one before it"
            )
        at = tensor.end
