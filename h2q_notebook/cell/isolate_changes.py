"""What an isolated cell did to its names: what has to come back to the kernel.

Covers the comparison, in the worker. A name that was sent and is bound to the same object is
compared by a digest of its pickle, before and after: that costs twice what pickling it costs, and
a hash over every byte (see ``digest_of``); names the cell does not use are not sent and cost
nothing. Values of immutable built-in types need none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from types import BuiltinFunctionType, ModuleType
from typing import Any

from h2q_notebook.cell.needs import packed_of
from h2q_notebook.cell.pickling import Packed, digest_of, is_users, pack, unpack

__all__ = ["VALUE", "Changes", "Sent", "changes_of"]

VALUE = "\0value"
"""Stands for the value of the last expression; no name can be spelled so."""
_OBJECTS_OF_PICKLE = 10
"""A list of small numbers takes up to ten times the bytes of its pickle."""
_PLAIN = (int, float, complex, bool, str, bytes, type(None), range, BuiltinFunctionType, ModuleType)


class Sent:
    """The names of the notebook as they came, and digests of those that can change.

    Args:
        names: by name.
        home: the namespace they are in.
    """

    def __init__(self, names: Mapping[str, Any], home: Mapping[str, Any]) -> None:
        self.values = dict(names)
        self._home = home
        self._digests = {
            name: _digest(value, home)
            for name, value in self.values.items()
            if type(value) not in _PLAIN
        }

    def changed(self) -> dict[str, bool]:
        """For each that can change, whether its content has."""
        return {
            name: before is None or _digest(self.values[name], self._home) != before
            for name, before in self._digests.items()
        }


def _digest(value: Any, home: Mapping[str, Any]) -> bytes | None:
    try:
        return digest_of(value, home)
    except Exception:  # whatever a reducer raises: it cannot come back either
        return None


@dataclass(frozen=True, slots=True)
class Changes:
    """What has to be done to the kernel's names."""

    packed: Packed
    names: tuple[str, ...]
    """Those in the pickle; ``VALUE`` too, if it is there."""
    modules: dict[str, str]
    deleted: tuple[str, ...]
    left: dict[str, str]
    """What cannot be pickled, each with its type."""


def changes_of(
    home: MutableMapping[str, Any],
    sent: Sent,
    values: list[Any],
    spare_bytes: Callable[[], int] = lambda: 1 << 60,
) -> Changes:
    """Compare, and pickle what is new, bound anew, or changed in place.

    Args:
        home: the namespace after the cell.
        sent: what it was before.
        values: the value of the last expression, if it had one.
        spare_bytes: reads what there is still room for here.

    Raises:
        Exception: it cannot be done (no memory).
    """
    changed = sent.changed()
    back: dict[str, Any] = {}
    for name, value in home.items():
        if type(name) is str and is_users(name):
            known = name in sent.values and sent.values[name] is value
            if not known or changed.get(name, False):
                back[name] = value
    same = {id(sent.values[name]): name for name, other in changed.items() if not other}
    modules = {name: one.__name__ for name, one in back.items() if isinstance(one, ModuleType)}
    wanted = {name: one for name, one in back.items() if name not in modules}
    if values:
        wanted[VALUE] = values[-1]
    packed, left = packed_of(wanted, home, same)
    if spare_bytes() > _OBJECTS_OF_PICKLE * len(packed.blob):
        packed, left = _readable(packed, left, wanted, home, same, sent.values)
    return Changes(
        packed,
        tuple(name for name in wanted if name not in left),
        modules,
        tuple(name for name in sent.values if name not in home),
        left,
    )


def _readable(
    packed: Packed,
    left: dict[str, str],
    wanted: Mapping[str, Any],
    home: MutableMapping[str, Any],
    same: Mapping[int, str],
    sent: Mapping[str, Any],
) -> tuple[Packed, dict[str, str]]:
    """A pickle that has been read once: one object that cannot be must not keep all others back.

    (An open safetensors file can be pickled, and not read again.) Buffers are not copied for it.
    """
    good = {name: one for name, one in wanted.items() if name not in left}
    if _can_be_read(packed, home, sent):
        return packed, left
    for name in tuple(good):
        if not _can_be_read(pack({name: good[name]}, home, same), home, sent):
            left[name] = type(good.pop(name)).__name__
    return pack(good, home, same), left


def _can_be_read(packed: Packed, home: MutableMapping[str, Any], sent: Mapping[str, Any]) -> bool:
    try:
        # At home: a class that is known here is not made anew but set again, with its functions.
        unpack(packed.blob, [one.raw() for one in packed.buffers], home, sent)
    except MemoryError:
        return True  # who knows; the kernel finds out
    except Exception:  # whatever a class of theirs raises
        return False
    return True
