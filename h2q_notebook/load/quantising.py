"""The state dict of a quantised load: weights quantised block by block while they are read.

No plain weight is ever whole in memory: a buffer of about 2 MiB holds the rows that are being
quantised. Weight and scale are two entries of the state dict and share one pass over the file.
Reading alone is ``reading``'s, what is stored is the form's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from h2q_notebook.errors import ModelRefused
from h2q_notebook.load.facts import TensorFacts
from h2q_notebook.load.lazy import LazyTensor, ReadTensor
from h2q_notebook.load.mapping import Filling
from h2q_notebook.load.quantised import Form, block_rows, scale_name
from h2q_notebook.load.reading import PieceReader
from h2q_notebook.load.swap import FORMS
from h2q_notebook.units import shorten

__all__ = ["QuantisedSource"]

_WEIGHTS = ("weight", "gate_up_proj", "down_proj")


class QuantisedSource(Mapping[str, LazyTensor]):
    """Weights for a class of ``swap.make_class``.

    Args:
        fillings: from ``map_weights`` with the plain skeleton.
        reader: closed with this.
        swaps: from ``swap.plan_swaps`` with the plain skeleton's model.

    Raises:
        ModelRefused: experts are stored in a way that cannot be quantised while it is read.
    """

    def __init__(
        self, fillings: Iterable[Filling], reader: PieceReader, swaps: Mapping[str, str]
    ) -> None:
        self._reader = reader
        self._lazy: dict[str, LazyTensor] = {}
        buffer = _RowBuffer(reader)
        targets: set[str] = set()
        for one in fillings:
            module, _, name = one.target.rpartition(".")
            if module not in swaps or name not in _WEIGHTS:
                self._lazy[one.key] = ReadTensor(one, reader)
                continue
            if one.target in targets:
                raise ModelRefused(
                    f"the parts of {shorten(one.target)!r} are stored in a way that cannot be "
                    "quantised while it is read; load it with --ladder full,bf16,mapped"
                )
            targets.add(one.target)
            work = _Pass(one, FORMS[swaps[module]], reader, buffer)
            self._lazy[one.key] = _Stored(work, 0)
            self._lazy[f"{module}.{scale_name(name)}"] = _Stored(work, 1)

    def __getitem__(self, key: str) -> LazyTensor:
        return self._lazy[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._lazy)

    def __len__(self) -> int:
        return len(self._lazy)

    def close(self) -> None:
        """Close the files and drop what was not taken; safe to call twice."""
        self._lazy.clear()
        self._reader.close()


class _RowBuffer:
    """One fp32 buffer for all passes, grown when a wider matrix comes."""

    def __init__(self, reader: PieceReader) -> None:
        self._reader = reader
        self._flat: Any = None

    def rows(self, n_rows: int, n_in: int) -> Any:
        import torch

        count = n_rows * n_in
        if self._flat is None or len(self._flat) < count:
            self._flat = None
            self._flat = self._reader.allocate((count,), torch.float32, "the quantising buffer")
        return self._flat[:count].view(n_rows, n_in)


class _Pass:
    """Reads and quantises one weight when its first half is asked for; keeps the other half."""

    def __init__(
        self, filling: Filling, form: Form, reader: PieceReader, buffer: _RowBuffer
    ) -> None:
        import torch

        *self._lead, self._n_out, self._n_in = filling.shape
        shapes = form.shapes(self._n_out, self._n_in)
        self.shapes = tuple((*self._lead, *shape) for shape in shapes)
        self.dtypes = (torch.int8, torch.bfloat16)
        self._filling, self._form, self._reader, self._buffer = filling, form, reader, buffer
        self._halves: list[Any] = [None, None]

    def take(self, which: int) -> Any:
        if self._halves[which] is None:
            self._halves = self._run()
        half, self._halves[which] = self._halves[which], None
        return half

    def _run(self) -> list[Any]:
        what = f"tensor {self._filling.target}"
        weight, scale = (
            self._reader.allocate(shape, dtype, what)
            for shape, dtype in zip(self.shapes, self.dtypes, strict=True)
        )
        step = min(block_rows(self._n_in), self._n_out)
        buffer = self._buffer.rows(step, self._n_in)
        for at, spans in enumerate(self._matrices()):
            to, by = (weight[at], scale[at]) if self._lead else (weight, scale)
            for first in range(0, self._n_out, step):
                rows = buffer[: min(step, self._n_out - first)]
                self._read(spans, first, rows)
                self._form.quantise_into(rows, first, to, by)
        return [weight, scale]

    def _read(self, spans: list[_Span], first: int, rows: Any) -> None:
        """Fill *rows*, which may lie across the border between gate and up."""
        end = first + len(rows)
        for begin, stop, tensor, offset in spans:
            low, high = max(first, begin), min(end, stop)
            if low < high:
                into = rows[low - first : high - first]
                self._reader.read_rows(tensor, low - begin + offset, high - begin + offset, into)

    def _matrices(self) -> Iterator[list[_Span]]:
        """For each matrix where its rows are: first row, end row, a 2-D tensor, its first row."""
        if self._filling.fused:
            experts: dict[int, list[_Span]] = {}
            for part in self._filling.parts:
                span = (part.first_row, part.end_row, part.tensor, 0)
                experts.setdefault(part.expert or 0, []).append(span)
            yield from (experts[at] for at in sorted(experts))
            return
        tensor = self._filling.parts[0].tensor
        count = self._lead[0] if self._lead else 1
        flat = replace(tensor, shape=(count * self._n_out, self._n_in))
        for at in range(count):
            yield [(0, self._n_out, flat, at * self._n_out)]


_Span = tuple[int, int, TensorFacts, int]


class _Stored(LazyTensor):
    """The stored weight (0) or the scale (1) of one pass."""

    def __init__(self, work: _Pass, which: int) -> None:
        super().__init__(work.shapes[which], work.dtypes[which])
        self._work, self._which = work, which

    def materialise(self) -> Any:
        return self._work.take(self._which)
