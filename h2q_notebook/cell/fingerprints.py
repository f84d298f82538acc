"""Cheap marks of what containers, arrays, frames, tensors and modules hold.

A mark is a tuple of plain numbers that differs when the content (very probably) differs. It is
a *sample*: exact for containers of up to 512 elements and arrays of up to 64 KiB, a spread of
elements or of 2 KiB pieces beyond. One element changed in the middle of something large can
escape it; an append, a sort, an arithmetic update of a whole array or a training step can't.

Nothing here imports numpy, pandas or torch (what is not imported has no objects to mark) and
nothing runs the user's code: exact types only, ``id`` instead of ``==``, class look-ups by the
method resolution order rather than ``isinstance`` (which would ask the object for
``__class__``). Memory-mapped arrays are left alone: marking one would read the disk.
"""

from __future__ import annotations

import sys
import zlib
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from types import FunctionType, ModuleType
from typing import Any, Literal

__all__ = [
    "Kind",
    "Kinds",
    "Mark",
    "block_arrays",
    "frame_columns",
    "mark",
    "module_tensors",
    "mro_of",
    "prefix_mark",
    "size_text",
    "weight",
]

Kind = Literal["sequence", "mapping", "set", "bytes", "array", "frame", "tensor", "module"]
Mark = tuple[object, ...]

_FULL_ITEMS = 512
_SAMPLE_ITEMS = 64
_PIECES = 32
_GATHERED = 4096
_MAX_TENSORS = 4096
_MAX_MODULES = 4096

_BUILTIN: tuple[tuple[type, Kind], ...] = (
    (list, "sequence"),
    (deque, "sequence"),
    (dict, "mapping"),
    (defaultdict, "mapping"),
    (OrderedDict, "mapping"),
    (Counter, "mapping"),
    (set, "set"),
    (bytearray, "bytes"),
)
_SIZED: dict[int, Any] = {id(kind): kind for kind, _ in _BUILTIN}
# What most names are bound to.
_NEVER = (int, float, bool, str, bytes, tuple, type, type(None), FunctionType, ModuleType)
_COUNTED = ("sequence", "mapping", "set", "bytes")
# A metaclass cannot get in between this one.
mro_of: Callable[[type], tuple[type, ...]] = type.__dict__["__mro__"].__get__


class Kinds:
    """Says what kind of watchable thing an object is, for the libraries loaded by now."""

    __slots__ = ("_by_id", "_module")

    def __init__(self) -> None:
        # Keyed by id(type): the hash of a type may be its metaclass's, hence the user's.
        self._by_id: dict[int, Kind | None] = {id(cls): kind for cls, kind in _BUILTIN}
        for library, names, kind in (
            ("numpy", ("ndarray",), "array"),
            ("pandas", ("DataFrame", "Series"), "frame"),
            ("torch", ("Tensor",), "tensor"),
            ("torch.nn", ("Parameter",), "tensor"),
        ):
            for name in names:
                cls = getattr(sys.modules.get(library), name, None)
                if isinstance(cls, type):
                    self._by_id[id(cls)] = kind  # type: ignore[assignment]
        self._module: type | None = getattr(sys.modules.get("torch.nn"), "Module", None)

    def of(self, value: object) -> Kind | None:
        """The kind of *value*, None for what is not watched."""
        cls = type(value)
        try:
            return self._by_id[id(cls)]
        except KeyError:
            module = self._module
            is_module = module is not None and any(base is module for base in mro_of(cls))
            kind: Kind | None = "module" if is_module else None
            # Safe to remember: the value keeps its type alive as long as we look at it, and one
            # Kinds lives for one look at the namespace only.
            self._by_id[id(cls)] = kind
            return kind

    def candidates(self, names: Mapping[str, object]) -> list[tuple[str, object]]:
        """The names that may hold something watchable; quick for thousands that do not."""
        known = {**dict.fromkeys(map(id, _NEVER)), **self._by_id}
        kind_of = known.get
        return [one for one in names.items() if kind_of(id(type(one[1])), "module") is not None]


def weight(value: Any, kind: Kind) -> int:
    """Roughly how many bytes are at stake; the order in which things are marked."""
    if kind in _COUNTED:
        return _length(value) * (1 if kind == "bytes" else 8)
    if kind == "module":
        return 1 << 60  # one glance at version counters, and the most precious thing to watch
    if kind == "frame":
        n_cells = 1
        for extent in value.shape:
            n_cells *= extent
        return int(n_cells) * 8
    if kind == "array":
        return int(value.nbytes)
    return int(value.numel()) * int(value.element_size())


def size_text(value: Any, kind: Kind) -> str:
    """The size for people: ``3 items``, ``1000 x 4``; empty where it says nothing."""
    if kind in ("sequence", "mapping", "set"):
        return f"{_length(value):,} items"
    if kind == "bytes":
        return f"{_length(value):,} bytes"
    if kind == "module":
        return "parameters or buffers"
    return " x ".join(f"{extent:,}" for extent in value.shape)


def mark(value: Any, kind: Kind, *, sample_bytes: int = 1 << 16) -> Mark | None:
    """The mark of *value*, None if it cannot be told (then nothing is claimed about it)."""
    try:
        if kind in _COUNTED:
            return _prefix(value, kind, _length(value), sample_bytes)
        if kind == "array":
            return _array_mark(value, sample_bytes)
        if kind == "frame":
            return _frame_mark(value, sample_bytes)
        if kind == "tensor":
            return (tuple(value.shape), _tensor_mark(value))
        return tuple(_tensor_mark(tensor) for tensor in module_tensors(value))
    except Exception:
        # A thread may be changing it meanwhile, or a library's inner layout is not the known one.
        return None


def prefix_mark(value: Any, kind: Kind, n_items: int, *, sample_bytes: int) -> Mark | None:
    """The mark that a container would have if only its first *n_items* were there."""
    try:
        return _prefix(value, kind, n_items, sample_bytes)
    except Exception:
        return None


def module_tensors(module: Any) -> Iterator[Any]:
    """Parameters and buffers of a torch module, some 4096 at most, without running its code."""
    seen: set[int] = set()
    todo, n_tensors = [module], 0
    dict_of = object.__getattribute__
    while todo and len(seen) < _MAX_MODULES:
        current = todo.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        inner = dict_of(current, "__dict__")
        for table in (inner.get("_parameters"), inner.get("_buffers")):
            if table and n_tensors < _MAX_TENSORS:
                n_tensors += len(table)
                yield from [tensor for tensor in table.values() if tensor is not None]
        children = inner.get("_modules")
        if children:
            todo.extend(children.values())


def _length(value: Any) -> int:
    """The built-in's own ``len``: the exact type has been checked, so no user code runs."""
    return int(_SIZED[id(type(value))].__len__(value))


def _token(item: object) -> object:
    """Identity of an element, and its length where it is itself a plain container.

    So that ``history["loss"].append(x)`` is noticed one level down.
    """
    cls = type(item)
    if cls is list or cls is dict or cls is set or cls is bytearray:
        return (id(item), len(item))  # type: ignore[arg-type]
    return id(item)


def _prefix(value: Any, kind: Kind, n_items: int, sample_bytes: int) -> Mark:
    if kind == "bytes":
        return (n_items, _bytes_mark(value, n_items, sample_bytes))
    if kind == "set":
        return (n_items, hash(frozenset(map(id, islice(value, _FULL_ITEMS)))))
    items: Iterable[object]
    keys: Iterable[object] = ()
    n_looked = min(n_items, _FULL_ITEMS)
    if kind == "mapping":
        # In insertion order; an exact built-in iterates without asking the keys anything.
        keys = islice(dict.keys(value), n_looked)
        items = islice(dict.values(value), n_looked)
    elif n_items <= _FULL_ITEMS:
        items = islice(value, n_items)
    elif type(value) is list:
        items = [*value[: n_items : n_items // _SAMPLE_ITEMS], value[n_items - 1]]
    else:
        items = [*islice(value, _SAMPLE_ITEMS), value[n_items - 1]]
    return (n_items, hash(tuple(map(id, keys))), hash(tuple(map(_token, items))))


def _bytes_mark(value: Any, size: int, sample_bytes: int) -> int:
    if size <= sample_bytes:
        return zlib.crc32(value[:size])
    piece = sample_bytes // _PIECES
    sums = 0
    for start in range(0, size - piece, max(piece, (size - piece) // (_PIECES - 1))):
        sums = zlib.crc32(value[start : start + piece], sums)
    return zlib.crc32(value[size - piece : size], sums)


def _array_mark(array: Any, sample_bytes: int) -> Mark | None:
    if not _in_memory(array):
        return None
    dtype = array.dtype
    kind = id(dtype) if dtype.hasobject else dtype.str
    where = array.__array_interface__["data"][0]
    return (array.shape, array.strides, kind, where, _values_mark(array, sample_bytes))


def _values_mark(array: Any, sample_bytes: int) -> int:
    flags = array.flags
    if not (flags.c_contiguous or flags.f_contiguous):
        # A view with holes: a strided sample, small enough to gather.
        per_axis = max(2, int(_GATHERED ** (1 / array.ndim)))
        array = array[tuple(slice(None, None, max(1, n // per_axis)) for n in array.shape)].copy()
    flat = array.ravel(order="K")
    if flat.dtype.hasobject:
        if flat.dtype.kind != "O":
            return 0
        step = max(1, flat.size // _FULL_ITEMS)
        return hash(tuple(map(id, flat[::step].tolist())))
    raw = flat.view("u1") if flat.dtype.itemsize else flat[:0].astype("u1")
    if raw.size <= sample_bytes:
        return zlib.crc32(raw)
    piece = sample_bytes // _PIECES
    # Rows of a view, so that one C call gathers all the pieces.
    rows = raw[: raw.size // _PIECES * _PIECES].reshape(_PIECES, -1)[:, :piece]
    return zlib.crc32(raw[-piece:], zlib.crc32(rows.tobytes()))


def _in_memory(array: Any) -> bool:
    """True if the data is ordinary memory: the last base is an array, a tensor or bytes."""
    base, cls = array, type(array)
    while type(base) is cls and base.base is not None:
        base = base.base
    tensor = getattr(sys.modules.get("torch"), "Tensor", None)
    return any(type(base) is known for known in (cls, bytes, bytearray, tensor))


def _frame_mark(frame: Any, sample_bytes: int) -> Mark:
    # Column by column, not block by block: mere reading may merge blocks ("consolidation").
    n_columns = frame.shape[1] if frame.ndim == 2 else 1
    step = -(-n_columns // _SAMPLE_ITEMS) or 1
    per_column = max(1 << 9, sample_bytes // max(1, n_columns // step))
    columns = [
        tuple(_values_mark(inner, per_column) for inner in block_arrays(values))
        or id(getattr(values, "_pa_array", None))  # Arrow data is immutable, only replaced
        for values in frame_columns(frame, step=step)
    ]
    return (frame.shape, tuple(map(id, frame._mgr.axes)), *columns)


def frame_columns(frame: Any, *, step: int = 1) -> Iterator[Any]:
    """The values of every *step*-th column of a frame, or of a series, without copying."""
    manager = frame._mgr
    blocks = manager.blocks
    if frame.ndim == 1:
        yield blocks[0].values
        return
    for at in range(0, frame.shape[1], step):
        values = blocks[manager.blknos[at]].values
        yield values[manager.blklocs[at]] if values.ndim == 2 else values


def block_arrays(values: Any) -> Iterator[Any]:
    """The plain numpy arrays behind values of pandas (none for Arrow)."""
    ndarray = getattr(sys.modules.get("numpy"), "ndarray", None)
    if type(values) is ndarray:
        yield values
        return
    for name in ("_ndarray", "_data", "_mask"):
        inner = getattr(values, name, None)
        if type(inner) is ndarray:
            yield inner
            if name == "_ndarray":
                return


def _tensor_mark(tensor: Any) -> Mark:
    # is_inference() first: such a tensor has no version counter and would raise.
    version = -1 if tensor.is_inference() else tensor._version
    try:
        where = tensor.data_ptr()
    except RuntimeError:  # sparse and functional tensors have none
        where = 0
    return (id(tensor), version, where)
