"""Weights that stay in their file: mapped privately, read by the system when they are used.

Nothing is copied. Clean pages can be dropped and read again at any time, so they count as
file-backed memory, never against a budget; a write to a weight copies that page only and never
reaches the file. What the file does not hold in the right form (another dtype, an odd offset) is
read into memory instead. As with every mapped file: if somebody cuts the file short while it is in
use, the system ends the process; replacing or deleting it is harmless.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from h2q_notebook.load.facts import DTYPE_BYTES, ModelFacts
from h2q_notebook.load.lazy import LazyTensor, ReadTensor
from h2q_notebook.load.mapping import TORCH_DTYPES, Filling
from h2q_notebook.load.reading import READ_BYTES, PieceReader

__all__ = ["MappedSource", "can_map"]


def can_map(filling: Filling) -> bool:
    """Whether the file holds this parameter as it must be in memory, in one aligned piece."""
    tensor = filling.parts[0].tensor
    return (
        filling.as_stored and tensor.start % DTYPE_BYTES[tensor.dtype] == 0 and tensor.n_bytes > 0
    )


class _MappedTensor(LazyTensor):
    def __init__(self, filling: Filling, source: MappedSource) -> None:
        import torch

        super().__init__(filling.shape, getattr(torch, TORCH_DTYPES[filling.dtype]))
        self._filling = filling
        self._source = source

    def materialise(self) -> Any:
        import torch

        tensor = self._filling.parts[0].tensor
        view = torch.frombuffer(
            self._source.mapping(tensor.shard),
            dtype=self.dtype,
            count=tensor.n_values,
            offset=tensor.start,
        )
        if self._source.unchecked:
            self._source.look_at(view, self._filling)
        return view.view(self.shape)


class MappedSource(Mapping[str, LazyTensor]):
    """Weights mapped from their files.

    Args:
        fillings: from ``map_weights``, or of a converted file.
        facts: whose shards they are in.
        reader: for what cannot be mapped; closed with this.
        on_bytes: called with the bytes of each piece once it was looked at.
        unchecked: look at every value once, as a plain load does; False for a file that this
            loader wrote and checked itself.
    """

    def __init__(
        self,
        fillings: Iterable[Filling],
        facts: ModelFacts,
        reader: PieceReader,
        on_bytes: Callable[[int], None] = lambda _: None,
        *,
        unchecked: bool = True,
    ) -> None:
        self.unchecked = unchecked
        self._facts = facts
        self._reader = reader
        self._on_bytes = on_bytes
        self._mappings: dict[int, mmap.mmap] = {}
        self._lazy: dict[str, LazyTensor] = {
            one.key: _MappedTensor(one, self) if can_map(one) else ReadTensor(one, reader)
            for one in fillings
        }

    def __getitem__(self, key: str) -> LazyTensor:
        return self._lazy[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._lazy)

    def __len__(self) -> int:
        return len(self._lazy)

    def mapping(self, shard: int) -> mmap.mmap:
        """The whole of one file; it lives as long as a tensor in it does."""
        found = self._mappings.get(shard)
        if found is None:
            fd = os.open(self._facts.shards[shard].path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                # Private and writable: torch wants memory it may write to, the file never sees it.
                rights = mmap.PROT_READ | mmap.PROT_WRITE
                found = mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE, prot=rights)
            finally:
                os.close(fd)
            self._mappings[shard] = found
        return found

    def look_at(self, view: Any, filling: Filling) -> None:
        """Refuse NaN and infinity, piece by piece under the watch."""
        step = READ_BYTES // view.element_size()
        for first in range(0, view.numel(), step):
            self._reader.watch.check()
            piece = view[first : first + step]
            if piece.dtype.is_floating_point:
                self._reader.check_finite(piece, filling.parts[0].tensor)
            self._on_bytes(piece.nbytes)

    def close(self) -> None:
        """Let go of files; mapped tensors stay valid. Safe to call twice."""
        self._lazy.clear()
        self._mappings.clear()
        self._reader.close()
