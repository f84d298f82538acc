"""The state dict that ``from_pretrained(None, config=..., state_dict=...)`` is given.

Its tensors know shape and dtype at once and are read when ``[...]`` asks for them, so transformers
keeps tying, buffers, naming and placement, and every byte is read here. A source is a mapping with
``close``; one for each way a rung gets its weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

from h2q_notebook.load.mapping import SAFETENSORS_DTYPES, TORCH_DTYPES, Filling, Part
from h2q_notebook.load.reading import PieceReader

__all__ = ["LazyTensor", "ReadSource", "ReadTensor", "Source"]


class LazyTensor:
    """What transformers asks of an entry before it reads it.

    Args:
        shape: of the tensor.
        dtype: torch's, as it will be in memory.
    """

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        import torch

        self.shape = torch.Size(shape)
        self.dtype = dtype

    def get_shape(self) -> list[int]:
        """As safetensors' slices say it."""
        return list(self.shape)

    def get_dtype(self) -> str:
        """As safetensors' slices say it."""
        return SAFETENSORS_DTYPES[str(self.dtype).removeprefix("torch.")]

    def is_floating_point(self) -> bool:
        """As torch's tensors say it."""
        return bool(self.dtype.is_floating_point)

    def materialise(self) -> Any:
        """The tensor itself."""
        raise NotImplementedError

    def __getitem__(self, index: Any) -> Any:
        whole = self.materialise()
        return whole if index is Ellipsis else whole[index]


class Source(Protocol):
    """A lazy state dict that holds files open until it is closed."""

    def __getitem__(self, key: str, /) -> LazyTensor: ...
    def __iter__(self) -> Iterator[str]: ...
    def __len__(self) -> int: ...
    def close(self) -> None:
        """Let go of everything; safe to call twice."""


class ReadTensor(LazyTensor):
    """One entry that is read whole, fused ones part by part into their places."""

    def __init__(self, filling: Filling, reader: PieceReader) -> None:
        import torch

        super().__init__(filling.shape, getattr(torch, TORCH_DTYPES[filling.dtype]))
        self._filling = filling
        self._reader = reader

    def materialise(self) -> Any:
        """Read it now, under the watch."""
        filling, reader = self._filling, self._reader
        whole = reader.allocate(filling.shape, self.dtype, f"tensor {filling.key}")
        reader.read_many((part.tensor, _place(part, whole)) for part in filling.parts)
        return whole


def _place(part: Part, whole: Any) -> Any:
    return whole if part.expert is None else whole[part.expert, part.first_row : part.end_row]


class ReadSource(Mapping[str, LazyTensor]):
    """Weights read whole into anonymous memory.

    Args:
        fillings: from ``map_weights``.
        reader: closed with this.
    """

    def __init__(self, fillings: Iterable[Filling], reader: PieceReader) -> None:
        self._reader = reader
        self._lazy: dict[str, LazyTensor] = {one.key: ReadTensor(one, reader) for one in fillings}

    def __getitem__(self, key: str) -> LazyTensor:
        return self._lazy[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._lazy)

    def __len__(self) -> int:
        return len(self._lazy)

    def close(self) -> None:
        """Close the files; safe to call twice."""
        self._lazy.clear()
        self._reader.close()
