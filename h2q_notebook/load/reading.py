"""Stored tensors into memory: piece by piece, under a watch, as fast as the machine reads.

Bytes are read by preadv into anonymous memory, never mapped: each byte that is used is one the
watch has admitted. Measured on two cores from a warm page cache (980 MiB into fresh memory, fresh
processes in turn): one thread 0.58 to 0.65 s, two 0.30 to 0.33 s. With transparent huge pages two
threads took 0.13 s at best and one 2.5 s at worst: where a virtual machine gives free memory back
to its host, huge pages are those that have to be fetched again, so no advice is given. io_uring
would save nothing, as the time goes into page faults and the copy, not into system calls.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from h2q_notebook.errors import ModelRefused
from h2q_notebook.load.facts import ModelFacts, TensorFacts
from h2q_notebook.load.mapping import TORCH_DTYPES
from h2q_notebook.load.watch import Watch
from h2q_notebook.units import MIB, shorten

__all__ = ["READ_BYTES", "PieceReader"]

READ_BYTES = 8 * MIB
"""The largest piece read between two checks, and the size of the cast buffer."""

_SMALLEST_BYTES = 4096
"""A batch with less room than this is full; the buffer's padding fits in, too."""

_OWN_BYTES = 2 * MIB

_SHARE_BYTES = MIB
"""Below this a second thread costs more than it saves."""


class _Span(NamedTuple):
    """A part of one stored tensor, and the flat memory it fills."""

    tensor: TensorFacts
    begin: int
    """First byte, from the tensor's own first."""
    n_bytes: int
    place: Any
    stored: Any
    """torch's dtype of the stored bytes."""

    @classmethod
    def of(cls, tensor: TensorFacts, begin: int, end: int, into: Any) -> _Span:
        import torch

        stored = getattr(torch, TORCH_DTYPES[tensor.dtype])
        return cls(tensor, begin, end - begin, into.view(-1), stored)

    def cut(self, room: int) -> tuple[_Span, _Span | None]:
        """The first *room* bytes, and the rest if there is one."""
        if self.n_bytes <= room:
            return self, None
        count = max(room // self.stored.itemsize, 1)
        n_bytes = count * self.stored.itemsize
        head = self._replace(n_bytes=n_bytes, place=self.place[:count])
        begin, left = self.begin + n_bytes, self.n_bytes - n_bytes
        return head, self._replace(begin=begin, n_bytes=left, place=self.place[count:])


class _Stretch(NamedTuple):
    """Bytes that lie together in a file, and where they go."""

    view: memoryview
    tensor: TensorFacts
    at: int


def _shares(stretches: list[_Stretch], share: int) -> list[list[_Stretch]]:
    """The same bytes in lists of *share* bytes each; the last one may be shorter."""
    shares: list[list[_Stretch]] = [[]]
    room = share
    for one in stretches:
        view, at = one.view, one.at
        while len(view):
            if not room:
                shares.append([])
                room = share
            n_bytes = min(room, len(view))
            shares[-1].append(_Stretch(view[:n_bytes], one.tensor, at))
            view, at, room = view[n_bytes:], at + n_bytes, room - n_bytes
    return shares


class PieceReader:
    """Reads the tensors of one inspected directory; close it when the load has ended.

    Args:
        facts: the directory.
        watch: asked before each tensor and at every piece.
        on_bytes: called with the stored bytes of each piece once it is in place.
        threads: how many read at once; None for one a core, four at most.

    Raises:
        ModelRefused: a file has changed since it was inspected.
    """

    def __init__(
        self,
        facts: ModelFacts,
        watch: Watch,
        on_bytes: Callable[[int], None] = lambda _: None,
        *,
        threads: int | None = None,
    ) -> None:
        self.watch = watch
        self._facts = facts
        self._on_bytes = on_bytes
        self._fds: list[int] = []
        self._buffer: Any = None
        self._threads = threads or min(4, len(os.sched_getaffinity(0)))
        self._pool: ThreadPoolExecutor | None = None
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        for shard in self._facts.shards:
            fd = os.open(shard.path, os.O_RDONLY | os.O_CLOEXEC)
            self._fds.append(fd)
            if os.fstat(fd).st_size != shard.n_bytes:
                name = os.path.basename(shard.path)
                raise ModelRefused(f"{name}: has changed since it was inspected; load it again")

    def close(self) -> None:
        """Give descriptors, threads and the cast buffer back; safe to call twice."""
        self._buffer = None
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True)
        fds, self._fds = self._fds, []
        for fd in fds:
            os.close(fd)

    def allocate(self, shape: tuple[int, ...], dtype: Any, what: str) -> Any:
        """An uninitialised tensor; a large one in memory of its own.

        Args:
            shape: of the tensor.
            dtype: torch's.
            what: for the watch's sentence, for example ``tensor x``.

        Raises:
            MemoryBudgetExceeded: the watch does not admit it.
        """
        import torch

        size = torch.Size(shape)
        n_bytes = size.numel() * dtype.itemsize
        self.watch.reserve(n_bytes, what)
        if n_bytes < _OWN_BYTES:
            return torch.empty(size, dtype=dtype)
        # Not from the heap: freed, this is gone at once, whatever lies beside it.
        own = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        return torch.frombuffer(own, dtype=dtype).view(size)

    def read(self, tensor: TensorFacts, into: Any) -> None:
        """Read one stored tensor into contiguous memory, casting as it comes.

        Args:
            tensor: what to read.
            into: a contiguous tensor of as many values, in the dtype that is wanted.

        Raises:
            ModelRefused: the file ended early, or a value is NaN or infinite.
            MemoryBudgetExceeded: the watch ended the load.
        """
        self.read_many([(tensor, into)])

    def read_many(self, wanted: Iterable[tuple[TensorFacts, Any]]) -> None:
        """Read several as ``read`` does one; small ones (experts) share their batches."""
        self._read(_Span.of(tensor, 0, tensor.n_bytes, into) for tensor, into in wanted)

    def read_rows(self, tensor: TensorFacts, first_row: int, end_row: int, into: Any) -> None:
        """Read rows (of the first dimension) of one stored tensor, as ``read`` does."""
        row_bytes = tensor.n_bytes // tensor.shape[0]
        self._read([_Span.of(tensor, first_row * row_bytes, end_row * row_bytes, into)])

    def _read(self, spans: Iterable[_Span]) -> None:
        """All spans, in batches of at most READ_BYTES."""
        batch: list[_Span] = []
        room = READ_BYTES
        for span in spans:
            rest: _Span | None = span
            while rest is not None:
                head, rest = rest.cut(room)
                batch.append(head)
                room -= head.n_bytes + -head.n_bytes % 8
                if rest is not None or room < _SMALLEST_BYTES:
                    self._read_batch(batch)
                    batch, room = [], READ_BYTES
        if batch:
            self._read_batch(batch)

    def _read_batch(self, batch: list[_Span]) -> None:
        import torch

        self.watch.check()
        stretches, pieces, at = [], [], 0
        for span in batch:
            piece = span.place
            if span.stored != piece.dtype:
                if self._buffer is None:
                    self._buffer = torch.empty(READ_BYTES, dtype=torch.uint8)
                # Each piece begins where any dtype may begin.
                piece = self._buffer[at : at + span.n_bytes].view(span.stored)
                at += span.n_bytes + -span.n_bytes % 8
            pieces.append(piece)
            view = memoryview(piece.view(torch.uint8).numpy())
            stretches.append(_Stretch(view, span.tensor, span.tensor.start + span.begin))
        self._fill(stretches)
        for span, piece in zip(batch, pieces, strict=True):
            if piece is not span.place:
                span.place.copy_(piece)
            if span.place.dtype.is_floating_point:
                self.check_finite(span.place, span.tensor)
            self._on_bytes(span.n_bytes)

    def _fill(self, stretches: list[_Stretch]) -> None:
        """Fill every stretch from its file, each thread its own share of all bytes."""
        n_bytes = sum(len(one.view) for one in stretches)
        share = -(-n_bytes // self._threads)
        share += -share % 4096
        if self._threads == 1 or share < _SHARE_BYTES:
            return self._stretches(stretches)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads - 1, "h2q-read")
        mine, *others = _shares(stretches, share)
        rest = [self._pool.submit(self._stretches, one) for one in others]
        try:
            self._stretches(mine)
        finally:
            # Whatever ended this thread's part: nobody may still write when the memory is freed.
            errors = [future.exception() for future in rest]
        for error in errors:
            if error is not None:
                raise error
        return None

    def _stretches(self, stretches: list[_Stretch]) -> None:
        for one in stretches:
            self._stretch(one.view, one.tensor, one.at)

    def _stretch(self, view: memoryview, tensor: TensorFacts, at: int) -> None:
        done = 0
        while done < len(view):
            count = os.preadv(self._fds[tensor.shard], [view[done:]], at + done)
            if count <= 0:
                name = os.path.basename(self._facts.shards[tensor.shard].path)
                raise ModelRefused(
                    f"{name}: ended while tensor {shorten(tensor.name)!r} was read; fetch it again"
                )
            done += count

    def check_finite(self, values: Any, tensor: TensorFacts) -> None:
        """Refuse values that are NaN or infinite.

        Raises:
            ModelRefused: one is.
        """
        import torch

        # The sum is the cheapest pass that NaN and infinity survive; only a suspicion costs more.
        if bool(torch.isfinite(values.sum())) or bool(torch.isfinite(values).all()):
            return
        name = os.path.basename(self._facts.shards[tensor.shard].path)
        raise ModelRefused(
            f"{name}: tensor {shorten(tensor.name)!r} holds NaN or infinity; "
            "fetch it again, or load it with --dtype fp32 if it is sound"
        )
