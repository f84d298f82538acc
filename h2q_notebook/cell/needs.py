"""What a cell needs of the kernel: which names, and copies of them for another process.

Covers finding and pickling. A name that is only spelled the same (an attribute, a word in a line
magic) may be copied though it is not needed; one that is needed is never left out for that.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from h2q_notebook.cell.pickling import Packed, is_users, pack

__all__ = ["Copies", "copies_of", "modules_of", "needed_names", "packed_of"]

_WORD = re.compile(r"[^\W\d]\w*")
_PLAIN = (int, float, complex, bool, str, bytes, type(None))
_ROUNDS = 20  # of functions that refer to functions that are found only when they are pickled


@dataclass(frozen=True, slots=True)
class Copies:
    """Pickled values, and the modules that names stand for."""

    packed: Packed
    names: tuple[str, ...]
    modules: dict[str, str]
    missing: tuple[tuple[str, str], ...]
    """Names that cannot be pickled, each with its type."""


def needed_names(source: str, user_ns: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the notebook that *source* may use.

    Args:
        source: the cell after IPython's transformation; one that cannot be parsed needs nothing.
        user_ns: the notebook's names.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return ()
    words = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            words.update(_WORD.findall(node.value))  # the text of a magic, an f-string, an eval
    return tuple(name for name in tuple(user_ns) if name in words and is_users(name))


def modules_of(names: Iterable[str], user_ns: Mapping[str, Any]) -> dict[str, str]:
    """Name to the name of the module it stands for, where it stands for one."""
    return {name: user_ns[name].__name__ for name in names if isinstance(user_ns[name], ModuleType)}


def copies_of(names: Iterable[str], user_ns: Mapping[str, Any]) -> Copies:
    """Pickle them together, with every other name of the same objects.

    Functions and classes of the notebook go by value, and what they refer to goes with them as
    names. Views of one array become arrays of their own.
    """
    now = dict(user_ns)  # threads may bind names meanwhile
    wanted, taken = set(names) & set(now), set[str]()
    missing: dict[str, str] = {}
    packed = pack({}, user_ns)
    for _ in range(_ROUNDS):
        wanted |= _aliases(wanted, now)
        values = {
            name: value
            for name, value in now.items()
            if name in wanted and name not in missing and not isinstance(value, ModuleType)
        }
        packed, left = packed_of(values, user_ns)
        missing.update(left)
        taken = set(values) - set(missing)
        if packed.wanted & set(now) <= wanted:
            break
        wanted |= packed.wanted & set(now)
    return Copies(
        packed,
        tuple(name for name in now if name in taken),
        modules_of((name for name in now if name in wanted), now),
        tuple(missing.items()),
    )


def packed_of(
    values: Mapping[str, Any], home: Mapping[str, Any], same: Mapping[int, str] | None = None
) -> tuple[Packed, dict[str, str]]:
    """Those of *values* that can be pickled; the others with the names of their types."""
    left: dict[str, str] = {}
    try:
        return pack(values, home, same), left
    except Exception:  # whatever a reducer of theirs raises
        good = dict(values)
    for name in tuple(good):
        try:
            pack({name: good[name]}, home, same)
        except Exception:
            left[name] = type(good.pop(name)).__name__
    return pack(good, home, same), left


def _aliases(names: set[str], user_ns: Mapping[str, Any]) -> set[str]:
    """Other names of the same objects: what changes under one name changes under each."""
    held = {id(user_ns[name]) for name in names if type(user_ns[name]) not in _PLAIN}
    return {name for name, value in user_ns.items() if id(value) in held and is_users(name)}
