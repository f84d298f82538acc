"""A model rewritten once into a file that can be mapped as it is.

Where a checkpoint keeps experts apart (DeepSeek) or in another dtype than is wanted, its weights
cannot be mapped. This writes them, fused and cast as a load would have them, into one safetensors
file in h2q's cache; later loads map that. It is keyed by the source files' sizes and times, so a
changed model is written anew. Peak memory is one read buffer.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from h2q_notebook.errors import LoadFailed
from h2q_notebook.load.facts import DTYPE_BYTES, ModelFacts, ShardFacts
from h2q_notebook.load.mapping import TORCH_DTYPES, Filling, Part
from h2q_notebook.load.reading import READ_BYTES, PieceReader
from h2q_notebook.load.safetensors_header import read_header
from h2q_notebook.load.watch import Watch
from h2q_notebook.places import cache_root
from h2q_notebook.units import MIB, format_bytes

__all__ = ["Converted"]

_LAYOUT = 1
_FILE = "model.safetensors"


class Converted:
    """The mappable file of one model in one dtype.

    Args:
        facts: the inspected directory.
        fillings: from ``map_weights``.
        dtype: ``fp32``, ``bf16`` or ``fp16``; part of the folder's name.
    """

    def __init__(self, facts: ModelFacts, fillings: Sequence[Filling], dtype: str) -> None:
        self._facts = facts
        # Wide items first: every tensor then starts at a multiple of its item, without holes.
        self._fillings = sorted(fillings, key=lambda one: -DTYPE_BYTES[one.dtype])
        self._scratch: Path | None = None
        self.disk_bytes = sum(one.n_bytes for one in fillings)
        stem = Path(facts.path).name[:60]
        self.folder = cache_root() / "mapped" / f"{stem}-{dtype}-{self._key()}"

    @property
    def ready(self) -> bool:
        """Whether it was written before."""
        try:
            return (self.folder / _FILE).stat().st_size > self.disk_bytes
        except OSError:
            return False

    def run(self, watch: Watch, on_bytes: Callable[[int], None]) -> None:
        """Write it; it appears whole or not at all.

        Raises:
            LoadFailed: the disk is too small.
            ModelRefused: a file has changed or ended, or a value is not finite.
            MemoryBudgetExceeded: the watch ended it.
        """
        home = self.folder.parent
        home.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(home).free
        if free < self.disk_bytes + 64 * MIB:
            raise LoadFailed(
                f"{Path(self._facts.path).name}: its mappable form needs "
                f"{format_bytes(self.disk_bytes)} in {home}, and {format_bytes(free)} are free; "
                "free some or set H2Q_CACHE_DIR"
            )
        self._scratch = Path(tempfile.mkdtemp(prefix=".converting-", dir=home))
        reader = PieceReader(self._facts, watch, on_bytes)
        try:
            with (self._scratch / _FILE).open("wb") as sink:
                sink.write(self._header())
                buffer = reader.allocate((READ_BYTES,), _torch("U8"), "the conversion's buffer")
                for filling in self._fillings:
                    self._write(filling, reader, buffer, sink)
                sink.flush()
                os.fsync(sink.fileno())
        finally:
            reader.close()
        try:
            os.replace(self._scratch, self.folder)
        except OSError:
            # Another kernel was quicker; its result is as good.
            if not self.ready:
                raise
            self.undo()
        self._scratch = None

    def undo(self) -> None:
        """Leave nothing half-made."""
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = None

    def mappable(self) -> tuple[ModelFacts, tuple[Filling, ...]]:
        """The model's facts and fillings with the written file in place of its own.

        Raises:
            ModelRefused: the written file is not sound any more; delete it.
        """
        path = self.folder / _FILE
        tensors = read_header(str(path), str(path), 0)
        by_name = {tensor.name: tensor for tensor in tensors}
        fillings = tuple(replace(one, parts=(Part(by_name[one.key]),)) for one in self._fillings)
        shard = ShardFacts(str(path), path.stat().st_size)
        return replace(self._facts, shards=(shard,), tensors=tuple(tensors)), fillings

    def _key(self) -> str:
        from transformers import __version__

        # The fused layout is transformers' own, so it belongs to the version.
        digest = hashlib.sha256(f"{_LAYOUT} {__version__} {self._facts.config_json}".encode())
        for shard in self._facts.shards:
            info = os.stat(shard.path)
            digest.update(f"{shard.path} {info.st_size} {info.st_mtime_ns}".encode())
        return digest.hexdigest()[:16]

    def _header(self) -> bytes:
        entries: dict[str, Any] = {"__metadata__": {"format": "pt", "h2q": "mapped"}}
        at = 0
        for one in self._fillings:
            end = at + one.n_bytes
            entries[one.key] = {
                "dtype": one.dtype,
                "shape": list(one.shape),
                "data_offsets": [at, end],
            }
            at = end
        text = json.dumps(entries).encode()
        text += b" " * (-(len(text) + 8) % 64)
        return struct.pack("<Q", len(text)) + text

    def _write(self, filling: Filling, reader: PieceReader, buffer: Any, sink: BinaryIO) -> None:
        """One parameter's bytes in order: experts one after the other, gate above up."""
        dtype = _torch(filling.dtype)
        for part in sorted(filling.parts, key=lambda one: (one.expert or 0, one.first_row)):
            tensor = part.tensor
            rows = tensor.shape[0] if tensor.shape else 1
            row_values = tensor.n_values // rows if rows else 0
            if not row_values:
                continue
            step = max(READ_BYTES // (row_values * dtype.itemsize), 1)
            for first in range(0, rows, step):
                count = min(step, rows - first)
                n_bytes = count * row_values * dtype.itemsize
                # A single row longer than the buffer gets memory of its own.
                room = buffer if n_bytes <= READ_BYTES else reader.allocate(
                    (n_bytes,), _torch("U8"), f"a row of {tensor.name}"
                )  # fmt: skip
                into = room[:n_bytes].view(dtype)
                reader.read_rows(tensor, first, first + count, into)
                sink.write(room[:n_bytes].numpy().data)


def _torch(dtype: str) -> Any:
    import torch

    return getattr(torch, TORCH_DTYPES[dtype])
