"""How much memory a torch factory call would add, by arithmetic on its arguments.

Covers ones, zeros, full, rand, randn, randint, eye, arange, linspace, logspace, randperm,
``Tensor.new_ones/new_zeros/new_full`` and the ``*_like`` family. Not ``empty`` (lazy) nor
``tensor`` (its data exists already). Running these on the meta device would tell the same, but the
first such run imports hundreds of modules and costs a second and 30 MB; hence the arithmetic.

Every function returns 0 for what it does not understand, and so lets it pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["FACTORIES", "LIKE", "NEW_METHODS", "factory_bytes", "like_bytes", "new_bytes"]

FACTORIES = (
    *("ones", "zeros", "full", "rand", "randn", "randint"),
    *("eye", "arange", "linspace", "logspace", "randperm"),
)
LIKE = ("ones_like", "zeros_like", "full_like", "rand_like", "randn_like", "randint_like")
NEW_METHODS = ("new_ones", "new_zeros", "new_full")

_INT_BYTES = 8


def factory_bytes(name: str) -> Callable[[tuple[Any, ...], Mapping[str, Any]], int]:
    """The byte count of calls of ``torch.<name>``."""
    import torch

    count_of = _COUNTS.get(name, _shape_count)

    def size(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
        count = count_of(args, kwargs)
        if count < 1 << 16 or kwargs.get("out") is not None:
            return 0
        device = kwargs.get("device")
        device = torch.get_default_device() if device is None else torch.device(device)
        dtype = kwargs.get("dtype")
        width = _natural_bytes(name, args, kwargs) if dtype is None else dtype.itemsize
        return count * width if device.type == "cpu" else 0

    return size


def new_bytes(
    name: str, tensor_types: tuple[type, ...]
) -> Callable[[tuple[Any, ...], Mapping[str, Any]], int]:
    """The byte count of calls of ``Tensor.<name>``."""
    import torch

    def size(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
        if not args or type(args[0]) not in tensor_types:
            return 0
        count = _shape_count(args[1:], kwargs)
        if count < 1 << 16:
            return 0
        device = torch.device(kwargs.get("device") or args[0].device)
        dtype = kwargs.get("dtype") or args[0].dtype
        return count * int(dtype.itemsize) if device.type == "cpu" else 0

    return size


def like_bytes(
    tensor_types: tuple[type, ...],
) -> Callable[[tuple[Any, ...], Mapping[str, Any]], int]:
    """The byte count of ``torch.ones_like`` and its kin."""
    import torch

    def size(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
        if not args or type(args[0]) not in tensor_types:
            return 0
        like = args[0]
        count = int(like.numel())
        if count < 1 << 16 or like.layout is not torch.strided:
            return 0
        device = torch.device(kwargs.get("device") or like.device)
        dtype = kwargs.get("dtype") or like.dtype
        return count * int(dtype.itemsize) if device.type == "cpu" else 0

    return size


def _natural_bytes(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """Bytes per element where no dtype is given."""
    import torch

    default = int(torch.get_default_dtype().itemsize)
    if name in {"randint", "randperm"}:
        return _INT_BYTES
    if name == "full":
        value = args[1] if len(args) > 1 else kwargs.get("fill_value")
        if isinstance(value, bool):
            return 1
        return {int: _INT_BYTES, complex: 2 * default}.get(type(value), default)
    if name == "arange":
        bounds = (*args, *(kwargs.get(key) for key in ("start", "end", "step")))
        return _INT_BYTES if all(b is None or isinstance(b, int) for b in bounds) else default
    return default


def _shape_count(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """``ones(2, 3)``, ``ones((2, 3))``, ``full((2,), 1.0)``, ``randint(0, 9, size=(2,))``."""
    for argument in (*args, kwargs.get("size")):
        if isinstance(argument, (tuple, list)):  # torch.Size is a tuple
            return math.prod(int(length) for length in argument)
    if all(isinstance(length, int) for length in args):
        return math.prod(args)
    return 0


def _named(args: tuple[Any, ...], kwargs: Mapping[str, Any], names: str) -> list[Any]:
    """Arguments by position, then by name; None where absent."""
    keys = names.split()
    found = list(args[: len(keys)])
    return found + [kwargs.get(key) for key in keys[len(found) :]]


def _eye_count(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    rows, columns = _named(args, kwargs, "n m")
    return int(rows) * int(rows if columns is None else columns)


def _arange_count(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    start, end, step = _named(args, kwargs, "start end step")
    if end is None:
        start, end = 0, start
    count: int = math.ceil((end - (start or 0)) / (1 if step is None else step))
    return max(0, count)


def _steps_count(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    return int(_named(args, kwargs, "start end steps")[2])


def _first_count(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    return int(_named(args, kwargs, "n")[0])


_COUNTS: dict[str, Callable[[tuple[Any, ...], Mapping[str, Any]], int]] = {
    "eye": _eye_count,
    "arange": _arange_count,
    "linspace": _steps_count,
    "logspace": _steps_count,
    "randperm": _first_count,
}
