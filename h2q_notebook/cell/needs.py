"""What a cell needs of the kernel: which names, and copies of them for another process.

Covers finding and pickling. A name that is only spelled the same (an attribute, a word in a line
magic) may be copied though it is not needed; one that is needed is never left out for that.
"""

from __future__ import annotations

import ast
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pickle import PickleBuffer
from types import ModuleType
from typing import Any

__all__ = ["Copies", "copies_of", "modules_of", "needed_names"]

_WORD = re.compile(r"[^\W\d]\w*")
_NOT_THEIRS = ("In", "Out", "get_ipython", "exit", "quit", "open")


@dataclass(frozen=True, slots=True)
class Copies:
    """Pickled values. The buffers are views of the originals: nothing large was copied yet."""

    blob: bytes
    buffers: tuple[PickleBuffer, ...]
    names: tuple[str, ...]
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
    return tuple(
        name
        for name in user_ns
        if name in words and not name.startswith("_") and name not in _NOT_THEIRS
    )


def modules_of(names: Iterable[str], user_ns: Mapping[str, Any]) -> dict[str, str]:
    """Name to the name of the module it stands for, where it stands for one."""
    return {name: user_ns[name].__name__ for name in names if isinstance(user_ns[name], ModuleType)}


def copies_of(names: Iterable[str], user_ns: Mapping[str, Any]) -> Copies:
    """Pickle them together, so that what they share is shared in the copy too.

    Functions and classes of the notebook go by value, with what they refer to: they see the names
    as they are now, whatever the cell binds. Views of one array become arrays of their own.
    """
    values = {name: user_ns[name] for name in names if not isinstance(user_ns[name], ModuleType)}
    missing: list[tuple[str, str]] = []
    try:
        blob, buffers = _pickled(values)
    except Exception:  # whatever a reducer of theirs raises
        for name in tuple(values):
            try:
                _pickled({name: values[name]})
            except Exception:
                missing.append((name, type(values.pop(name)).__name__))
        blob, buffers = _pickled(values)
    return Copies(blob, buffers, tuple(values), tuple(missing))


def _pickled(values: Mapping[str, Any]) -> tuple[bytes, tuple[PickleBuffer, ...]]:
    import cloudpickle

    buffers: list[PickleBuffer] = []

    def aside(buffer: PickleBuffer) -> bool:
        try:
            buffer.raw()
        except BufferError:
            return True  # not in one piece: it goes with the rest
        buffers.append(buffer)
        return False

    file = io.BytesIO()
    cloudpickle.CloudPickler(file, protocol=5, buffer_callback=aside).dump(dict(values))
    return file.getvalue(), tuple(buffers)
