"""Plain values on their way between processes: type-exact, and inert when they arrive.

Covers encoding to JSON, decoding with every node checked, and the comparison. What arrives is
built from ``None``, ``bool``, ``int``, ``float``, ``complex``, ``str``, ``bytes``, ``list``,
``tuple``, ``set``, ``frozenset`` and ``dict`` alone: an object whose ``__eq__`` always says yes
stays behind. Standard library only, as the fenced child uses it too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

__all__ = ["WireError", "decode", "encode", "same"]

_MAX_DEPTH = 40
_MAX_NODES = 200_000
_MAX_TEXT = 1_000_000
_MAX_INT_BITS = 1_000_000
_REL_TOLERANCE = 1e-9
"""Of floats: the last digits of a sum depend on its order."""
_SEQUENCES = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
_SCALARS: dict[type, tuple[str, Callable[[Any], list[Any]]]] = {
    type(None): ("none", lambda value: []),
    bool: ("bool", lambda value: [value]),
    int: ("int", lambda value: [hex(value)]),  # no limit of digits, and linear time
    float: ("float", lambda value: [value.hex()]),
    complex: ("complex", lambda value: [value.real.hex(), value.imag.hex()]),
    str: ("str", lambda value: [value]),
    bytes: ("bytes", lambda value: [value.hex()]),
}


class WireError(ValueError):
    """A value that is not plain, too large, or a message that is not well formed."""


class _Count:
    """How many nodes one message has so far."""

    def __init__(self) -> None:
        self.nodes = 0

    def add(self, depth: int) -> None:
        self.nodes += 1
        if depth > _MAX_DEPTH:
            raise WireError(f"is nested deeper than {_MAX_DEPTH}")
        if self.nodes > _MAX_NODES:
            raise WireError(f"has more than {_MAX_NODES:,} parts")


def encode(value: Any) -> list[Any]:
    """A JSON-ready form of a plain value.

    Raises:
        WireError: a type that is not plain (a subclass is none), or too large a value.
    """
    return _encode(value, 0, _Count())


def _encode(value: Any, depth: int, count: _Count) -> list[Any]:
    count.add(depth)
    kind = type(value)
    if kind.__name__ in _SEQUENCES and kind is _SEQUENCES[kind.__name__]:
        return [kind.__name__, [_encode(one, depth + 1, count) for one in value]]
    if kind is dict:
        pairs = [
            [_encode(key, depth + 1, count), _encode(one, depth + 1, count)]
            for key, one in value.items()
        ]
        return ["dict", pairs]
    if kind in (str, bytes) and len(value) > _MAX_TEXT:
        raise WireError(f"is longer than {_MAX_TEXT:,} characters")
    if kind is int and value.bit_length() > _MAX_INT_BITS:
        raise WireError(f"is an integer of more than {_MAX_INT_BITS:,} bits")
    if kind not in _SCALARS:
        raise WireError(f"is a {kind.__name__}, which is no plain value")
    return [_SCALARS[kind][0], *_SCALARS[kind][1](value)]


def decode(message: Any) -> Any:
    """The value that ``encode`` was given.

    Raises:
        WireError: *message* could not have come from ``encode``.
    """
    try:
        return _decode(message, 0, _Count())
    except WireError:
        raise
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise WireError(f"is not well formed ({type(error).__name__})") from None


def _decode(message: Any, depth: int, count: _Count) -> Any:
    count.add(depth)
    if type(message) is not list or not message or type(message[0]) is not str:
        raise WireError("is not well formed")
    kind, *parts = message
    if kind == "none" and not parts:
        return None
    if kind in ("list", "tuple", "set", "frozenset", "dict"):
        (items,) = parts
        if type(items) is not list:
            raise WireError("is not well formed")
        if kind == "dict":
            return {_decode(k, depth + 1, count): _decode(v, depth + 1, count) for k, v in items}
        return _SEQUENCES[kind](_decode(one, depth + 1, count) for one in items)
    return _decode_scalar(kind, parts)


def _decode_scalar(kind: str, parts: list[Any]) -> Any:
    wanted = (bool,) if kind == "bool" else (str, str) if kind == "complex" else (str,)
    if tuple(type(part) for part in parts) != wanted:
        raise WireError("is not well formed")
    if kind == "bool" or (kind == "str" and len(parts[0]) <= _MAX_TEXT):
        return parts[0]
    if kind == "int" and len(parts[0]) <= _MAX_INT_BITS // 4 + 4:
        return int(parts[0], 16)
    if kind == "float":
        return float.fromhex(parts[0])
    if kind == "complex":
        return complex(float.fromhex(parts[0]), float.fromhex(parts[1]))
    if kind == "bytes":
        return bytes.fromhex(parts[0])
    raise WireError("is not well formed")


def same(expected: Any, got: Any) -> bool:
    """Equal in value and in type, all the way down.

    ``True`` is not ``1``, ``2`` is not ``2.0``, a tuple is no list. Floats may differ by a relative
    1e-9; NaN is NaN. The order of a dict does not count.
    """
    if type(expected) is not type(got):
        return False
    if isinstance(expected, float):
        return _same_float(expected, got)
    if isinstance(expected, (list, tuple)):
        return len(expected) == len(got) and all(map(same, expected, got))
    if isinstance(expected, dict):
        return _same_keys(expected, got) and all(same(v, got[k]) for k, v in expected.items())
    if isinstance(expected, (set, frozenset)):
        return _same_keys(expected, got)
    return bool(expected == got)


def _same_float(expected: float, got: float) -> bool:
    if math.isnan(expected) or math.isnan(got):
        return math.isnan(expected) and math.isnan(got)
    return math.isclose(expected, got, rel_tol=_REL_TOLERANCE, abs_tol=1e-12)


def _same_keys(expected: Any, got: Any) -> bool:
    """Each key has its twin, of the same type: 1 and True are one key to a dict."""
    theirs = {key: key for key in got}
    return len(expected) == len(got) and all(
        key in theirs and same(key, theirs[key]) for key in expected
    )
