"""Who still holds an object: the ways to it from names, outputs, modules and running functions.

Asks the garbage collector who refers to it, step by step outwards, until something that a user can
name is reached. Bounded in steps; keeps no reference when it is done.
"""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator, Mapping
from types import CoroutineType, FrameType, FunctionType, GeneratorType, ModuleType
from typing import Any

__all__ = ["holders"]

_MAX_DEPTH = 6
_MAX_STEPS = 400
_MAX_FOUND = 8


def holders(target: Any, namespace: Mapping[str, Any]) -> tuple[str, ...]:
    """In words, where *target* can be reached from.

    Args:
        target: the object.
        namespace: the user's names.

    Returns:
        For example ``pipe.model``, ``models['a']``, ``Out[3]``, ``train() at line 12``; the
        nearest first, eight at most. Empty where nobody could be found.
    """
    search = _Search(namespace)
    try:
        return search.run(target)
    finally:
        search.forget()


class _Search:
    def __init__(self, namespace: Mapping[str, Any]) -> None:
        self._namespace = namespace
        self._modules = {
            id(vars(module)): name
            for name, module in tuple(sys.modules.items())
            if isinstance(module, ModuleType)
        }
        self._seen: set[int] = set()
        self._found: dict[str, None] = {}
        self._todo: list[tuple[Any, str, int]] = []

    def run(self, target: Any) -> tuple[str, ...]:
        self._in_frames(target)
        self._todo = [(target, "", 0)]
        self._seen.add(id(target))
        steps = 0
        while self._todo and steps < _MAX_STEPS and len(self._found) < _MAX_FOUND:
            steps += 1
            one, way, depth = self._todo.pop(0)
            self._outwards(one, way, depth)
        return tuple(self._found)[:_MAX_FOUND]

    def forget(self) -> None:
        self._todo.clear()
        self._seen.clear()

    def _in_frames(self, target: Any) -> None:
        """Functions that are running in other threads; their locals are not always objects."""
        frames = sys._current_frames()
        # Its own frame in a local variable would be a cycle that keeps the target alive.
        frames.pop(threading.get_ident(), None)
        for frame in frames.values():
            step: FrameType | None = frame
            while step is not None:
                if any(value is target for value in step.f_locals.values()):
                    self._add(f"{step.f_code.co_name}() at line {step.f_lineno}, in a thread")
                step = step.f_back

    def _outwards(self, one: Any, way: str, depth: int) -> None:
        referrers = gc.get_referrers(one)
        for holder in referrers:
            if holder is referrers or id(holder) in self._seen or self._is_own(holder):
                continue
            self._visit(holder, one, way, depth)

    def _is_own(self, holder: Any) -> bool:
        if isinstance(holder, FrameType):
            return str(holder.f_globals.get("__name__", "")).startswith("h2q_notebook")
        return holder is self._todo or any(holder is waiting for waiting in self._todo)

    def _visit(self, holder: Any, one: Any, way: str, depth: int) -> None:
        if holder is self._namespace:
            for name in _keys(holder, one):
                if name != "_oh":  # which is Out
                    self._add(f"{name}{way}")
        elif isinstance(holder, dict) and id(holder) in self._modules:
            for name in _keys(holder, one):
                self._add(f"{self._modules[id(holder)]}.{name}{way}")
        elif isinstance(holder, FrameType):
            self._add(f"{holder.f_code.co_name}() at line {holder.f_lineno}")
        elif isinstance(holder, (GeneratorType, CoroutineType)):
            self._add(f"{holder.__qualname__}, which has not finished")
        elif isinstance(holder, FunctionType):
            self._add(f"the function {holder.__qualname__}")
        elif depth < _MAX_DEPTH:
            # Only what leads further is seen once: several ways may end at one namespace.
            self._seen.add(id(holder))
            self._todo.append((holder, _step(holder, one) + way, depth + 1))

    def _add(self, words: str) -> None:
        self._found.setdefault(words)


def _step(holder: Any, one: Any) -> str:
    """How *one* is written as a part of *holder*; "" where that has no spelling."""
    if isinstance(holder, dict):
        owned = any(getattr(o, "__dict__", None) is holder for o in gc.get_referrers(holder))
        form = ".{}" if owned else "[{!r}]"
        return next((form.format(key) for key in _keys(holder, one)), "")
    if isinstance(holder, (list, tuple)):
        return next((f"[{at}]" for at, value in enumerate(holder) if value is one), "")
    own = getattr(holder, "__dict__", None)
    if isinstance(own, dict) and own is not one:
        return next((f".{key}" for key in _keys(own, one)), "")
    return ""


def _keys(mapping: Any, one: Any) -> Iterator[Any]:
    for key, value in tuple(mapping.items()):
        if value is one:
            yield key
