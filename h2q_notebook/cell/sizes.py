"""Which names hold how much memory, roughly and quickly.

Covers numpy arrays, torch tensors and modules, pandas, polars and pyarrow tables, strings,
bytes and (nested) built-in containers. Objects of the user's own classes are looked into through
their ``__dict__``, never asked: no ``__sizeof__``, ``__len__``, ``__getattr__`` or property of
theirs runs. Memory shared by several names (views of one array, tensors of one storage, one list
under two names) is counted once, for the first of them.

The figures are estimates: a large container is measured by a sample of its elements, and whatever
the clock does not allow is left out. They answer "what should I look at", not "where is each
byte".
"""

from __future__ import annotations

import sys
import time
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from h2q_notebook.cell.fingerprints import Kinds, block_arrays, module_tensors, mro_of
from h2q_notebook.cell.outcome import NameSize
from h2q_notebook.units import MIB

__all__ = ["largest"]

_SAMPLE_ITEMS = 64
_MAX_DEPTH = 6
_CLOCK_EVERY = 256

_LISTS = (list, tuple, deque, set, frozenset)
_DICTS = (dict, defaultdict, OrderedDict, Counter)
# Only exact built-ins are asked for their size; a subclass may have its own __sizeof__.
_PLAIN = (int, float, complex, str, bytes, bytearray, range, slice, *_LISTS, *_DICTS)
_ASKED = {id(cls) for cls in _PLAIN}
_LIST_IDS = {id(cls) for cls in _LISTS}
_DICT_IDS = {id(cls) for cls in _DICTS}
_name_of = type.__dict__["__name__"].__get__


class _TimeUpError(Exception):
    """The clock ran out in the middle of an object."""


def largest(
    user_ns: Mapping[str, object],
    *,
    top: int = 5,
    min_bytes: int = MIB,
    time_limit_s: float = 0.05,
    clock: Callable[[], float] = time.perf_counter,
    born: Collection[str] | None = None,
) -> tuple[NameSize, ...]:
    """The names that hold most, largest first.

    Args:
        user_ns: names and values; names that begin with ``_`` and IPython's own are left out.
        top: how many names at most.
        min_bytes: what holds less is not worth telling.
        time_limit_s: when to stop looking, in seconds; what was not reached is not reported.
        clock: seconds, monotonic.
        born: only these names (what the cell made), or None for all.
    """
    meter = _Meter(clock, clock() + time_limit_s)
    found: list[NameSize] = []
    for name, value in dict(user_ns).items():
        if type(name) is not str or name[:1] == "_" or name in ("In", "Out"):
            continue
        if born is not None and name not in born:
            continue
        try:
            n_bytes = meter.measure(value)
        except _TimeUpError:
            n_bytes = meter.partial_bytes
            if n_bytes >= min_bytes:
                found.append(NameSize(name, _type_name(value), n_bytes))
            break
        if n_bytes >= min_bytes:
            found.append(NameSize(name, _type_name(value), n_bytes))
    found.sort(key=lambda held: -held.n_bytes)
    return tuple(found[:top])


def _type_name(value: object) -> str:
    return str(_name_of(type(value)))


class _Meter:
    """Adds up objects, each once; one use."""

    __slots__ = ("_clock", "_deadline_s", "_kinds", "_n_looks", "_seen", "_tables", "partial_bytes")

    def __init__(self, clock: Callable[[], float], deadline_s: float) -> None:
        self._clock = clock
        self._deadline_s = deadline_s
        self._kinds = Kinds()
        self._n_looks = 0
        self._seen: set[int] = set()
        self._tables = _tables()
        self.partial_bytes = 0

    def measure(self, value: object) -> int:
        """Bytes reachable from *value* and not counted before."""
        self.partial_bytes = 0
        if self._clock() > self._deadline_s:
            raise _TimeUpError
        return self._of(value, 0)

    def _tick(self) -> None:
        self._n_looks += 1
        if self._n_looks % _CLOCK_EVERY == 0 and self._clock() > self._deadline_s:
            raise _TimeUpError

    def _of(self, value: Any, depth: int) -> int:
        self._tick()
        key = id(value)
        if key in self._seen:
            return 0
        self._seen.add(key)
        cls = id(type(value))
        if cls in _ASKED:
            own = sys.getsizeof(value)
            if depth >= _MAX_DEPTH:
                return own
            if cls in _LIST_IDS:
                return own + self._sampled(len(value), _spread(value), depth)
            if cls in _DICT_IDS:
                return own + self._sampled(2 * len(value), _pairs(value), depth)
            return own
        try:
            known = self._library(value)
        except _TimeUpError:
            raise
        except Exception:
            known = 0  # an unknown inner layout: better silent than wrong
        return known if known is not None else self._instance(value, depth)

    def _sampled(self, n_items: int, sample: Iterable[object], depth: int) -> int:
        """All elements, from the size of some of them."""
        total = n_seen = 0
        try:
            for item in sample:
                total += self._of(item, depth + 1)
                n_seen += 1
        except RuntimeError:  # a thread changes it meanwhile
            pass
        return total * n_items // n_seen if n_seen else 0

    def _instance(self, value: object, depth: int) -> int:
        """An object of some class: what its ``__dict__`` reaches, without asking it."""
        if depth >= _MAX_DEPTH or _is_code(value):
            return 0
        try:
            inner = object.__getattribute__(value, "__dict__")
        except Exception:
            return 0
        if type(inner) is not dict:
            return 0
        return self._of(inner, depth + 1)

    def _library(self, value: Any) -> int | None:
        """Arrays, tensors, frames and tables; None for anything else."""
        kind = self._kinds.of(value)
        if kind == "module":
            return sum(self._tensor(tensor) for tensor in module_tensors(value))
        if kind == "array":
            return self._array(value)
        if kind in ("tensor", "frame"):
            return self._tensor(value) if kind == "tensor" else self._frame(value)
        how = self._tables.get(id(type(value)))
        return int(how(value)) if how is not None else None

    def _once(self, key: int, n_bytes: int) -> int:
        if key in self._seen:
            return 0
        self._seen.add(key)
        return n_bytes

    def _array(self, array: Any) -> int:
        base, cls = array, type(array)
        while type(base) is cls and base.base is not None:
            base = base.base
        if type(base) is not cls:
            if self._kinds.of(base) == "tensor":
                return self._tensor(base)
            if _type_name(base) in ("mmap", "memmap"):
                return 0  # pages of a file, not of the kernel's own memory
            return self._once(id(base), int(array.nbytes))
        extra = 0
        if base.dtype.kind == "O":
            step = max(1, base.size // _SAMPLE_ITEMS)
            sample = base.ravel(order="K")[::step].tolist()
            extra = self._sampled(int(base.size), sample, 1)
        # The array itself is in _seen when it is its own base: count its memory by its address.
        where = int(base.__array_interface__["data"][0])
        return self._once(-where - 1, int(base.nbytes)) + extra

    def _tensor(self, tensor: Any) -> int:
        if tensor.device.type not in ("cpu", "meta"):
            return 0  # device memory is not charged to the budget of a cell
        storage = tensor.untyped_storage()
        if tensor.device.type == "meta":
            return 0
        return self._once(-int(storage.data_ptr()) - 1, int(storage.nbytes()))

    def _frame(self, frame: Any) -> int:
        total = 0
        for block in frame._mgr.blocks:
            self._tick()
            arrays = list(block_arrays(block.values))
            if arrays:
                total += sum(self._array(array) for array in arrays)
            else:
                total += self._once(id(block.values), int(block.values.nbytes))
        return total


def _is_code(value: object) -> bool:
    """Classes and imported modules: theirs is not the data of a name."""
    return any(base is type or base is type(sys) for base in mro_of(type(value)))


def _tables() -> dict[int, Callable[[Any], int]]:
    """How the tables of polars and pyarrow tell their size, for those imported by now."""
    made: dict[int, Callable[[Any], int]] = {}
    for library, names, how in (
        ("polars", ("DataFrame", "Series"), lambda table: table.estimated_size()),
        ("pyarrow", ("Table", "RecordBatch"), lambda table: table.nbytes),
    ):
        for name in names:
            cls = getattr(sys.modules.get(library), name, None)
            if cls is not None:
                made[id(cls)] = how
    return made


def _spread(value: Any) -> Iterator[object]:
    """Some elements, spread over a list or tuple, the first ones of anything else."""
    n_items = len(value)
    if n_items <= _SAMPLE_ITEMS or type(value) not in (list, tuple):
        return islice(value, _SAMPLE_ITEMS)
    # Without a fixed step: periodic data (every tenth row large) would fool one.
    places = (at * n_items // _SAMPLE_ITEMS + (at * 7919) % 13 for at in range(_SAMPLE_ITEMS))
    return (value[min(place, n_items - 1)] for place in places)


def _pairs(value: Any) -> Iterator[object]:
    """Keys and values of the first and last entries, in turn."""
    n_half = _SAMPLE_ITEMS // 4
    entries = islice(dict.items(value), n_half * 2)
    for key, item in entries:
        yield key
        yield item
    if len(value) > n_half * 2:
        for key, item in islice(reversed(dict.items(value)), n_half):
            yield key
            yield item
