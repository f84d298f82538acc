"""The largest batch that fits, found by trying: halved on every failure to allocate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from h2q_notebook.errors import BadArgument
from h2q_notebook.guardian.reclaim import clear_exception, release_memory

__all__ = ["Fitted", "fit_batch_size", "is_allocation_failure"]

T = TypeVar("T")
# accelerate's find_executable_batch_size knows the first three; torch's allocator on the CPU raises
# a plain RuntimeError, numpy and h2q's own refusals a MemoryError.
_SIGNS = (
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED",
    "DefaultCPUAllocator",
    "can't allocate memory",
    "not enough memory",
    "std::bad_alloc",
)


@dataclass(frozen=True, slots=True)
class Fitted(Generic[T]):
    """What came of it."""

    batch_size: int
    result: T
    tried: tuple[int, ...]
    """Every size that was tried, the one that fitted last."""


def is_allocation_failure(error: BaseException) -> bool:
    """Whether an exception says that memory could not be had."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


def fit_batch_size(run: Callable[[int], T], start: int = 64, *, smallest: int = 1) -> Fitted[T]:
    """Call ``run(batch_size)``, with half the size after each failure to allocate.

    What a failed try held is given back before the next one. Anything else that *run* raises, and
    the stop of a guarded cell, goes on up.

    Args:
        run: does the work for a batch size.
        start: the first size.
        smallest: the last size worth trying.

    Returns:
        The size that fitted, and what *run* returned for it.

    Raises:
        BadArgument: sizes that cannot be.
        MemoryError: not even the smallest fits.

    Example:
        >>> fitted = h2q.fit_batch_size(lambda n: evaluate(model, texts, batch_size=n), start=256)
        >>> fitted.batch_size
        32
    """
    if not 1 <= smallest <= start:
        raise BadArgument(f"start: {start!r} is below smallest, {smallest!r}, or that below 1")
    tried: list[int] = []
    size = start
    while True:
        tried.append(size)
        why = ""
        try:
            return Fitted(size, run(size), tuple(tried))
        except (MemoryError, RuntimeError) as error:
            if not is_allocation_failure(error):
                raise
            why = str(error).partition("\n")[0]
            clear_exception(error)
        release_memory()
        if size <= smallest:
            sizes = ", ".join(str(one) for one in tried)
            raise MemoryError(f"no batch fits: tried {sizes}; the last one said: {why}")
        size = max(size // 2, smallest)
