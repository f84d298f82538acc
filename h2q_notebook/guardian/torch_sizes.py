"""How much memory a torch call would add: a quick upper bound, and the exact figure.

Covers an allow-list of functions whose result is new memory: factories, products, broadcasting
arithmetic, joining and copying. Not on the list, so never refused: ``torch.empty*`` (lazy),
in-place and ``out=`` calls, indexing, convolutions, views, anything on another device.

A bound costs under a microsecond and never touches data. The exact figure comes from running the
same function on meta tensors: shapes only, no memory, no random numbers. torch is imported inside
the functions; this module loads without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from h2q_notebook.guardian.torch_factories import (
    FACTORIES,
    LIKE,
    NEW_METHODS,
    factory_bytes,
    like_bytes,
    new_bytes,
)

__all__ = ["Bound", "bounds_by_function", "exact_bytes"]

Bound = Callable[[tuple[Any, ...], Mapping[str, Any]], int]
"""From the arguments of a call to an upper bound of the bytes it would add; 0 lets it pass."""

_WIDEST_BYTES = 16  # complex128
_DEVICES = frozenset({"cpu", "cuda", "meta", "mps", "xpu", "hip", "xla", "mtia", "hpu", "vulkan"})

_UNARY = (
    "clone contiguous to float double half bfloat16 int long short bool type type_as reshape"
    " flatten abs neg negative exp expm1 log log1p log2 log10 sqrt rsqrt reciprocal sin cos tan"
    " sinh cosh tanh sigmoid erf relu gelu silu softmax log_softmax logical_not bitwise_not isnan"
    " isfinite round floor ceil trunc sign square clamp clip cumsum cumprod sort argsort nan_to_num"
)
_BINARY = (
    "add sub subtract mul multiply div divide true_divide floor_divide remainder fmod pow rsub"
    " maximum minimum atan2 hypot eq ne lt le gt ge where lerp addcmul addcdiv"
    " logical_and logical_or logical_xor bitwise_and bitwise_or bitwise_xor"
    " __rdiv__ __rtruediv__ __rsub__ __rpow__ __rfloordiv__ __rmod__ __pow__ __floordiv__"
    " __and__ __or__ __xor__ __rand__ __ror__ __rxor__"
)
_PRODUCTS = "outer ger kron cdist"
_MATMULS = "matmul mm bmm __rmatmul__ linear"
_JOINS = "cat concat concatenate stack hstack vstack dstack column_stack row_stack"
_REPEATS = "repeat tile repeat_interleave"


def bounds_by_function() -> dict[Any, tuple[str, Bound, bool]]:
    """The allow-list of the torch that is loaded.

    Returns:
        For each function: its name for people, its bound, and whether that is exact.
    """
    import torch
    from torch.nn import functional

    tensor_types = (torch.Tensor, torch.nn.Parameter)
    table: dict[Any, tuple[str, Bound, bool]] = {}
    for name in FACTORIES:
        table[getattr(torch, name)] = (f"torch.{name}", factory_bytes(name), True)
    for name in NEW_METHODS:
        table[getattr(torch.Tensor, name)] = (f"Tensor.{name}", new_bytes(name, tensor_types), True)
    for name in LIKE:
        table[getattr(torch, name)] = (f"torch.{name}", like_bytes(tensor_types), True)
    for names, bound in (
        (_UNARY, _unary_bound(tensor_types)),
        (_BINARY, _broadcast_bound(tensor_types)),
        (_PRODUCTS, _product_bound(tensor_types)),
        (_MATMULS, _matmul_bound(tensor_types)),
        (_JOINS, _join_bound(tensor_types)),
        (_REPEATS, _repeat_bound(tensor_types)),
        ("einsum", _einsum_bound),
    ):
        for name in names.split():
            for module in (torch, torch.Tensor, functional):
                function = getattr(module, name, None)
                if function is not None:
                    label = module.__name__.rpartition(".")[2]
                    table.setdefault(function, (f"{label}.{name}", bound, False))
    return table


def _product(numbers: Iterable[Any]) -> int:
    total = 1
    for number in numbers:
        total *= int(number)
    return total


def _unary_bound(tensor_types: tuple[type, ...]) -> Bound:
    def bound(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
        if not args or type(args[0]) not in tensor_types:
            return 0
        return int(args[0].numel()) * _WIDEST_BYTES

    return bound


def _broadcast_bound(tensor_types: tuple[type, ...]) -> Bound:
    def bound(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
        largest: int = 1
        total: int = 1
        shapes = []
        for argument in args:
            if type(argument) in tensor_types:
                elements = int(argument.numel())
                total *= elements
                largest = max(largest, elements)
                shapes.append(argument.shape)
        if total in {0, largest} or total * _WIDEST_BYTES < 1 << 20:
            return total * _WIDEST_BYTES
        if all(shape == shapes[0] for shape in shapes):
            return largest * _WIDEST_BYTES
        count: int = 1
        for axis in range(1, max(map(len, shapes)) + 1):
            count *= max(shape[-axis] for shape in shapes if len(shape) >= axis)
        return count * _WIDEST_BYTES

    return bound


def _product_bound(tensor_types: tuple[type, ...]) -> Bound:
    def bound(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
        counts = [a.numel() for a in args if type(a) in tensor_types]
        return _product(counts) * _WIDEST_BYTES if len(counts) == 2 else 0

    return bound


def _matmul_bound(tensor_types: tuple[type, ...]) -> Bound:
    def bound(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
        if len(args) < 2 or type(args[0]) not in tensor_types or type(args[1]) not in tensor_types:
            return 0
        left, right = args[0], args[1]
        rows, columns = left.numel(), right.numel()
        if rows * columns * _WIDEST_BYTES < 1 << 20 or not left.dim():
            return int(rows * columns * _WIDEST_BYTES)
        shared = max(1, left.shape[-1])
        if left.dim() == 3 and right.dim() == 3:  # a batch must not be counted twice
            columns //= max(1, min(left.shape[0], right.shape[0]))
        return int((rows // shared) * (columns // shared) * _WIDEST_BYTES)

    return bound


def _join_bound(tensor_types: tuple[type, ...]) -> Bound:
    def bound(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
        parts = args[0] if args else kwargs.get("tensors", ())
        if not isinstance(parts, (tuple, list)):
            return 0
        return sum(p.numel() if type(p) in tensor_types else 0 for p in parts) * _WIDEST_BYTES

    return bound


def _repeat_bound(tensor_types: tuple[type, ...]) -> Bound:
    def bound(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
        if not args or type(args[0]) not in tensor_types:
            return 0
        count: int = args[0].numel()
        for argument in (*args[1:], *kwargs.values()):
            if isinstance(argument, (tuple, list)):
                count *= _product(argument)
            elif type(argument) is int and argument > 0:
                count *= argument
        return count * _WIDEST_BYTES

    return bound


def _einsum_bound(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """``einsum('ij,jk->ik', a, b)`` written out; every other spelling passes."""
    equation = args[0]
    if type(equation) is not str or "->" not in equation or "." in equation:
        return 0
    operands = args[1:] if len(args) != 2 or not isinstance(args[1], (tuple, list)) else args[1]
    inputs, output = equation.replace(" ", "").split("->")
    sizes: dict[str, int] = {}
    for labels, operand in zip(inputs.split(","), operands, strict=False):
        sizes.update(zip(labels, operand.shape, strict=False))
    return _product(sizes.get(label, 1) for label in output) * _WIDEST_BYTES


def exact_bytes(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int | None:
    """Run *function* on meta tensors and add up what its result would newly take, in bytes.

    The caller has switched torch-function modes off. None where no sure answer exists: another
    device or layout, a tensor subclass, tracing, a function transform, or a failing run.
    """
    import torch

    if _torch_is_busy() or kwargs.get("out") is not None or kwargs.get("inplace"):
        return None
    known: set[int] = set()
    try:
        meta_args = tuple(_to_meta(a, known) for a in args)
        meta_kwargs = {k: _to_meta(v, known) for k, v in kwargs.items() if k != "generator"}
        with torch.no_grad():
            result = function(*meta_args, **meta_kwargs)
    except Exception:
        return None
    storages: dict[int, int] = {}
    for tensor in result if isinstance(result, (tuple, list)) else (result,):
        if isinstance(tensor, torch.Tensor) and tensor.device.type == "meta":
            storage = tensor.untyped_storage()
            if storage._cdata not in known:  # a view or the input itself takes nothing new
                storages[storage._cdata] = storage.nbytes()
    return sum(storages.values())


def _torch_is_busy() -> bool:
    """Whether something else is watching torch calls that an extra call could confuse."""
    import torch

    return bool(
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._functorch.peek_interpreter_stack() is not None
    )


class _NotOursError(Exception):
    """An argument that has no exact counterpart on the meta device."""


def _to_meta(value: Any, known: set[int]) -> Any:
    """The meta counterpart of an argument; storages of tensors are noted in *known*."""
    import torch

    if isinstance(value, torch.Tensor):
        if type(value) not in {torch.Tensor, torch.nn.Parameter} or value.device.type != "cpu":
            raise _NotOursError
        if value.layout is not torch.strided or value.is_quantized:
            raise _NotOursError
        if value.dim() == 0 and not value.requires_grad:
            meta = torch.empty((), dtype=value.dtype, device="meta")
        else:
            meta = torch.empty_strided(
                value.shape, value.stride(), dtype=value.dtype, device="meta"
            )
        known.add(meta.untyped_storage()._cdata)
        return meta
    if isinstance(value, torch.device):
        value = value.type
    if type(value) is str and value.partition(":")[0] in _DEVICES:
        if value != "cpu":
            raise _NotOursError
        return "meta"
    if type(value) in {tuple, list}:
        return type(value)(_to_meta(item, known) for item in value)
    return value
