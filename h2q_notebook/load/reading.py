"""Stored tensors into memory: piece by piece, under a watch, as fast as the machine reads.

Bytes are read by preadv into anonymous memory, never mapped: each byte that is used is one the
watch has admitted. Measured on two cores from a warm page cache (1 GiB, 16-MiB tensors): fresh
4-KiB pages 1.3 GB/s, with transparent huge pages 3.9, with a second reading thread 5.1. io_uring
would save nothing here, as the time goes into page faults and the copy, not into system calls.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from h2q_notebook.errors import ModelRefused
from h2q_notebook.load.facts import DTYPE_BYTES, ModelFacts, TensorFacts
from h2q_notebook.load.mapping import TORCH_DTYPES
from h2q_notebook.load.watch import Watch
from h2q_notebook.units import MIB, shorten

__all__ = ["READ_BYTES", "PieceReader"]

READ_BYTES = 8 * MIB
"""The largest piece read between two checks, and the size of the cast buffer."""

_OWN_BYTES = 2 * MIB  # one huge page on x86-64 and most arm64 kernels

_SHARE_BYTES = MIB
"""Below this a second thread costs more than it saves."""


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
        """An uninitialised tensor, in memory of its own and in huge pages where it is large.

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
        # Never from the heap: a block that malloc finds there leaves its advice for huge pages
        # behind, and the next small object in that place then takes 2 MiB (measured: 26 MiB more
        # than the model in a process that had loaded others). Freed, this is gone at once.
        own = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with suppress(OSError):  # switched off in this kernel
                own.madvise(mmap.MADV_HUGEPAGE)
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
        self._read(tensor, 0, tensor.n_bytes, into)

    def read_rows(self, tensor: TensorFacts, first_row: int, end_row: int, into: Any) -> None:
        """Read rows (of the first dimension) of one stored tensor, as ``read`` does."""
        row_bytes = tensor.n_bytes // tensor.shape[0]
        self._read(tensor, first_row * row_bytes, end_row * row_bytes, into)

    def _read(self, tensor: TensorFacts, begin: int, end: int, into: Any) -> None:
        import torch

        stored = getattr(torch, TORCH_DTYPES[tensor.dtype])
        flat = into.view(-1)
        cast = stored != flat.dtype
        if cast and self._buffer is None:
            self._buffer = torch.empty(READ_BYTES, dtype=torch.uint8)
        item_bytes = DTYPE_BYTES[tensor.dtype]
        for at in range(begin, end, READ_BYTES):
            self.watch.check()
            n_bytes = min(READ_BYTES, end - at)
            first, count = (at - begin) // item_bytes, n_bytes // item_bytes
            place = flat[first : first + count]
            piece = self._buffer[:n_bytes].view(stored) if cast else place
            self._fill(memoryview(piece.view(torch.uint8).numpy()), tensor, tensor.start + at)
            if cast:
                place.copy_(piece)
            if place.dtype.is_floating_point:
                self.check_finite(place, tensor)
            self._on_bytes(n_bytes)

    def _fill(self, view: memoryview, tensor: TensorFacts, at: int) -> None:
        """Fill *view* from the file, each thread its own stretch of it."""
        share = -(-len(view) // self._threads)
        share += -share % 4096
        if self._threads == 1 or share < _SHARE_BYTES:
            return self._stretch(view, tensor, at)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads - 1, "h2q-read")
        rest = [
            self._pool.submit(self._stretch, view[first : first + share], tensor, at + first)
            for first in range(share, len(view), share)
        ]
        try:
            self._stretch(view[:share], tensor, at)
        finally:
            # Whatever ended this thread's part: nobody may still write when the memory is freed.
            errors = [future.exception() for future in rest]
        for error in errors:
            if error is not None:
                raise error
        return None

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
