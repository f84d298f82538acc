"""Copies of contents, kept for ``--rollback deep``, and putting them back in place.

Covers one object at a time; which ones, and within how many bytes, is ``contents``. Copies of
containers are shallow: their structure comes back, not the inside of their elements. Torch
modules are copied tensor by tensor (parameters and buffers).
"""

from __future__ import annotations

import sys
from typing import Any, Literal

from h2q_notebook.cell.fingerprints import (
    Kind,
    Mark,
    block_arrays,
    frame_columns,
    module_tensors,
    prefix_mark,
    weight,
)

__all__ = ["cut_back", "kept_copy", "put_back"]

_COMPARE_BYTES = 1 << 22


def kept_copy(value: Any, kind: Kind, limit_bytes: int) -> tuple[Any, int] | None:
    """A copy of *value* and its bytes, or None if it is over *limit_bytes* or cannot be copied."""
    try:
        n_bytes = _bytes_of(value, kind)
        return None if n_bytes > limit_bytes else (_copied(value, kind), n_bytes)
    except Exception:
        return None


def _copied(value: Any, kind: Kind) -> Any:
    if kind == "array":
        return value.copy(order="K")
    if kind == "frame":
        return value.copy(deep=True)
    if kind == "tensor":
        return value.detach().clone()
    if kind == "module":
        return [(tensor, tensor.detach().clone()) for tensor in module_tensors(value)]
    return value.copy()


def put_back(
    value: Any, kind: Kind, copy: Any, *, certain: bool
) -> Literal["same", "restored", "failed"]:
    """Give *value* the content of *copy*, in place.

    Args:
        certain: the marks already differ; without it the content itself is compared, because a
            mark is only a sample.
    """
    try:
        if not certain and _same(value, kind, copy):
            return "same"
        if kind == "sequence":
            if type(value) is list:
                value[:] = copy
            else:
                value.clear()
                value.extend(copy)
        elif kind in ("mapping", "set"):
            value.clear()
            value.update(copy)
        elif kind == "bytes":
            value[:] = copy
        elif kind == "array":
            if value.shape != copy.shape or value.dtype != copy.dtype:
                return "failed"
            value[...] = copy
        elif kind == "frame":
            # What pandas' own inplace=True methods end with; one frame, so aliases see it.
            value._update_inplace(copy.copy(deep=False))
        elif kind == "tensor":
            return "restored" if _put_back_tensor(value, copy) else "failed"
        else:
            return _put_back_module(copy)
    except Exception:
        return "failed"
    return "restored"


def cut_back(value: Any, kind: Kind, before: Mark, *, sample_bytes: int) -> bool:
    """Undo pure growth: True if *value* now ends where it did when *before* was made."""
    if kind not in ("sequence", "mapping", "set", "bytes"):
        return False
    n_before = before[0]
    assert isinstance(n_before, int)
    if len(value) <= n_before:
        return False
    if n_before == 0:
        value.clear()
        return True
    if kind == "set" or (prefix_mark(value, kind, n_before, sample_bytes=sample_bytes) != before):
        return False
    try:
        if kind == "mapping":
            _pop_last(value, len(value) - n_before)
        elif type(value) in (list, bytearray):
            del value[n_before:]
        else:
            for _ in range(len(value) - n_before):
                value.pop()
    except Exception:
        return False
    return True


def _pop_last(mapping: Any, n_items: int) -> None:
    # popitem of an exact dict uses the stored hash: the keys' own code is not run.
    for _ in range(n_items):
        mapping.popitem()


def _bytes_of(value: Any, kind: Kind) -> int:
    if kind in ("sequence", "mapping", "set", "bytes"):
        return sys.getsizeof(value)
    if kind in ("module", "tensor"):
        tensors = list(module_tensors(value)) if kind == "module" else [value]
        if any(tensor.device.type != "cpu" for tensor in tensors):
            raise NotImplementedError  # a copy would fill the device, which no budget counts
        return sum(weight(tensor, "tensor") for tensor in tensors)
    if kind == "frame":
        usage = value.memory_usage(index=False, deep=False)
        return int(usage if isinstance(usage, int) else usage.sum())
    return weight(value, kind)


def _same(value: Any, kind: Kind, copy: Any) -> bool:
    if kind == "array":
        return _same_array(value, copy)
    if kind == "frame":
        return bool(value.shape == copy.shape) and all(
            _same_column(a, b)
            for a, b in zip(frame_columns(value), frame_columns(copy), strict=True)
        )
    # Tensors count their own in-place changes; only inference tensors do not.
    if kind == "tensor":
        return not value.is_inference() or _same_tensor(value, copy)
    if kind == "module":
        return all(not mine.is_inference() or _same_tensor(mine, old) for mine, old in copy)
    return _same_items(value, kind, copy)


def _same_items(value: Any, kind: Kind, copy: Any) -> bool:
    """By identity: equality would run the code of the elements."""
    if len(value) != len(copy):
        return False
    if kind == "bytes":
        return bool(value == copy)
    if kind == "set":
        return {*map(id, value)} == {*map(id, copy)}
    if kind == "mapping":
        return all(
            k is q and v is w
            for (k, v), (q, w) in zip(dict.items(value), dict.items(copy), strict=True)
        )
    return all(a is b for a, b in zip(value, copy, strict=True))


def _same_column(mine: Any, theirs: Any) -> bool:
    pairs = list(zip(block_arrays(mine), block_arrays(theirs), strict=True))
    if not pairs:
        return getattr(mine, "_pa_array", None) is getattr(theirs, "_pa_array", None)
    return all(_same_array(a, b) for a, b in pairs)


def _same_tensor(mine: Any, theirs: Any) -> bool:
    import torch

    return torch.equal(mine, theirs)


def _same_array(mine: Any, theirs: Any) -> bool:
    """Bytewise (NaN equals itself), in pieces so that comparing takes little memory."""
    if mine.shape != theirs.shape or mine.dtype != theirs.dtype:
        return False
    a, b = mine.ravel(order="K"), theirs.ravel(order="K")
    if a.dtype.hasobject:
        return bool(
            a.dtype.kind == "O" and all(x is y for x, y in zip(a.tolist(), b.tolist(), strict=True))
        )
    if not a.dtype.itemsize:
        return True
    a, b = a.view("u1"), b.view("u1")
    return all(
        bool((a[at : at + _COMPARE_BYTES] == b[at : at + _COMPARE_BYTES]).all())
        for at in range(0, a.size, _COMPARE_BYTES)
    )


def _put_back_tensor(tensor: Any, copy: Any) -> bool:
    import torch

    if tensor.shape != copy.shape or tensor.dtype != copy.dtype:
        return False
    inference = tensor.is_inference()
    with torch.inference_mode() if inference else torch.no_grad():
        tensor.copy_(copy)
    return True


def _put_back_module(copies: Any) -> Literal["restored", "failed"]:
    done = [_put_back_tensor(tensor, copy) for tensor, copy in copies]
    return "restored" if all(done) else "failed"
