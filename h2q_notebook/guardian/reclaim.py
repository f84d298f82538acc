"""Give memory back after a stop: frames, cycles, pools, the heap's free pages.

Covers what is general. The shell's own references (``sys.last_value``, ``Out`` ...) are the cell
room's. What cannot be returned: small-object arenas with one living object each (433 of 433 MB
stayed in the measured worst case), and C memory whose only pointer was rolled back.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import traceback

__all__ = ["clear_exception", "release_memory", "trim_heap"]


def clear_exception(error: BaseException | None, *, keep_trace: bool = False) -> None:
    """Cut everything that *error* keeps alive: frames, tracebacks, causes, contexts, groups.

    Args:
        error: the exception; None does nothing.
        keep_trace: empty the frames only, so that the traceback can still be shown.
    """
    seen: set[int] = set()
    todo = [error]
    while todo:
        one = todo.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        todo += [one.__context__, one.__cause__, *getattr(one, "exceptions", ())]
        if one.__traceback__ is not None:
            traceback.clear_frames(one.__traceback__)
        if not keep_trace:
            one.__traceback__ = one.__context__ = one.__cause__ = None


def trim_heap() -> bool:
    """Let glibc return free pages of all its arenas; False where there is no such call."""
    try:
        return bool(ctypes.CDLL(None).malloc_trim(ctypes.c_size_t(0))) or True
    except (OSError, AttributeError, TypeError):
        return False


def release_memory() -> None:
    """Collect cycles, then empty the pools that keep freed memory, then trim the heap.

    Only libraries already imported are asked. polars gives its memory back by itself within
    about 1.5 s and has no call for it.
    """
    gc.collect()
    arrow = sys.modules.get("pyarrow")
    if arrow is not None and hasattr(arrow, "default_memory_pool"):
        arrow.default_memory_pool().release_unused()
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    if cuda is not None and hasattr(cuda, "is_initialized") and cuda.is_initialized():
        cuda.empty_cache()
    trim_heap()
