"""Names of a notebook as pickles, and back: what crosses between a kernel and its worker.

Covers the bytes, not the way they take. Large buffers stay aside and are not copied. A function
of the notebook goes without what it refers to, and sees the names of the side it arrives on, as it
does in the kernel: ``global n; n += 1`` in it changes the worker's ``n``. What it refers to is
listed, so that it can be sent as names of its own. Values that the other side has already
(``same``) go as a reference: what was one object there stays one.
"""

from __future__ import annotations

import builtins
import hashlib
import importlib
import io
import pickle
import re
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pickle import PickleBuffer
from types import FunctionType
from typing import Any

__all__ = ["Packed", "digest_of", "is_users", "pack", "unpack"]

_NOT_THEIRS = frozenset({"In", "Out", "get_ipython", "exit", "quit", "open"})
# IPython's own: _, __, ___, _3, _i, _ii, _iii, _i3, _ih, _oh, _dh, and Python's __name__
_HIDDEN = re.compile(r"_{1,3}|_i{0,3}\d*|_[iod]h|_exit_code|__\w+__")
_homes: list[MutableMapping[str, Any]] = []


def is_users(name: str) -> bool:
    """Whether a name of the notebook is the user's, not IPython's."""
    return name not in _NOT_THEIRS and not _HIDDEN.fullmatch(name)


@dataclass(frozen=True, slots=True)
class Packed:
    """One pickle. The buffers are views of the originals: nothing large was copied yet."""

    blob: bytes
    buffers: tuple[PickleBuffer, ...]
    wanted: frozenset[str]
    """Names of the notebook that the functions in it refer to."""

    @property
    def n_bytes(self) -> int:
        """All of it."""
        return len(self.blob) + self.buffer_bytes

    @property
    def buffer_bytes(self) -> int:
        """What lies beside the pickle, and is not copied when it is read."""
        return sum(one.raw().nbytes for one in self.buffers)


def pack(
    values: Mapping[str, Any], home: Mapping[str, Any], same: Mapping[int, str] | None = None
) -> Packed:
    """Pickle *values* together, so that what they share is shared in the copy too.

    Args:
        values: by name.
        home: the notebook's namespace; functions with these globals find the other side's.
        same: by id, the names of objects that the other side holds and that go as a reference.

    Raises:
        Exception: whatever a reducer of theirs raises.
    """
    buffers: list[PickleBuffer] = []

    def aside(buffer: PickleBuffer) -> bool:
        try:
            buffer.raw()
        except BufferError:
            return True  # not in one piece: it goes with the rest
        buffers.append(buffer)
        return False

    file = io.BytesIO()
    with_same, without = _picklers()
    # The look at every object that references need costs about 0.1 us each: only where there are.
    pickler = (with_same if same else without)(file, protocol=5, buffer_callback=aside)
    pickler.home, pickler.same, pickler.wanted = home, same or {}, set()
    pickler.dump(dict(values))
    return Packed(file.getvalue(), tuple(buffers), frozenset(filter(is_users, pickler.wanted)))


def digest_of(value: Any, home: Mapping[str, Any]) -> bytes:
    """A digest of the pickle of *value*, without keeping that pickle.

    It costs what pickling costs, and a hash over every byte: about 1 s a GB of arrays, and as much
    for ten million small objects.

    Raises:
        Exception: whatever a reducer raises.
    """
    state = hashlib.blake2b(digest_size=16)

    def aside(buffer: PickleBuffer) -> bool:
        try:
            state.update(buffer.raw())
        except BufferError:
            return True
        return False

    _, without = _picklers()
    pickler = without(_Into(state), protocol=5, buffer_callback=aside)
    pickler.home, pickler.same, pickler.wanted = home, {}, set()
    pickler.dump(value)
    return state.digest()


def unpack(
    blob: bytes | bytearray,
    buffers: Sequence[bytearray | memoryview],
    home: MutableMapping[str, Any],
    same: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Read what ``pack`` wrote; *home* is given to the functions, and not changed.

    Args:
        blob: the pickle.
        buffers: what lay beside it.
        home: the namespace of this side.
        same: the values that references stand for, by name.

    Raises:
        Exception: whatever a class of theirs raises.
    """
    builtins_before = home.get("__builtins__")
    _homes.append(home)
    try:
        reader = _Unpickler(io.BytesIO(blob), buffers=buffers)
        reader.same = same or {}
        values: dict[str, Any] = reader.load()
        return values
    finally:
        _homes.pop()
        if builtins_before is not None:
            home["__builtins__"] = builtins_before  # cloudpickle puts a dict in its place


class _Into:
    """A file that is only hashed."""

    def __init__(self, state: Any) -> None:
        self._state = state

    def write(self, data: bytes) -> int:
        self._state.update(data)
        return len(data)


class _Unpickler(pickle.Unpickler):
    same: Mapping[str, Any]

    def persistent_load(self, pid: Any) -> Any:
        return self.same[pid]


class _Home:
    """Stands for the namespace of whichever side reads it."""

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return _home, ()


def _home() -> MutableMapping[str, Any]:
    return _homes[-1]


_HOME = _Home()


def _place_of(cls: type) -> tuple[str, str] | None:
    """Where a class can be had that says it is a built-in one, and is not.

    Classes of Rust extensions do (``safetensors.safe_open``); pickled by value, which is what
    cloudpickle then does, they cannot be read again.
    """
    if cls.__module__ != "builtins" or getattr(builtins, cls.__name__, None) is cls:
        return None
    places = [
        name
        for name, module in tuple(sys.modules.items())
        if getattr(module, "__dict__", {}).get(cls.__name__) is cls
        and getattr(module, "__name__", "") == name
    ]
    found = [name for name in places if name != "__main__"]
    return (min(found, key=len), cls.__name__) if found else None


def _attribute(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


@lru_cache(maxsize=1)
def _picklers() -> tuple[Any, Any]:
    """Two picklers: one that knows references, one that does not."""
    import cloudpickle

    class Without(cloudpickle.CloudPickler):  # type: ignore[misc]
        home: Mapping[str, Any]
        same: Mapping[int, str]
        wanted: set[str]

        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, type) and (place := _place_of(obj)):
                return _attribute, place
            reduced = super().reducer_override(obj)
            if type(obj) is FunctionType and obj.__globals__ is self.home:
                return self._at_home(reduced)
            return reduced

        def _at_home(self, reduced: Any) -> Any:
            """The same function with the other side's names as its globals."""
            try:
                make, (code, _, *more), (own, slots), *rest = reduced
                self.wanted.update(slots["__globals__"])
            except (TypeError, ValueError, KeyError):
                return reduced  # another form of cloudpickle's: with what it refers to, by value
            return (make, (code, _HOME, *more), (own, {**slots, "__globals__": {}}), *rest)

    class With(Without):
        def persistent_id(self, obj: Any) -> str | None:
            return self.same.get(id(obj))

    return With, Without
