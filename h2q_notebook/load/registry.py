"""Which models h2q has loaded and still live: weak references only.

Holding a model here would keep it from being freed, so the registry never does: an entry ends
with its model.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

from h2q_notebook.load.ladder import LoadPlan

__all__ = ["LoadedModel", "ModelRegistry"]


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """One living model."""

    name: str
    class_name: str
    resident_bytes: int
    plan: LoadPlan


class ModelRegistry:
    """Names of loaded models, each as long as its model lives."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[weakref.ref[Any], LoadedModel]] = {}

    def add(self, name: str, model: Any, *, resident_bytes: int, plan: LoadPlan) -> None:
        """Remember *model* under *name*; an older entry of that name is replaced."""

        def forget(dead: weakref.ref[Any]) -> None:
            # The name may belong to a newer model by now.
            if name in self._entries and self._entries[name][0] is dead:
                del self._entries[name]

        entry = LoadedModel(name, type(model).__name__, resident_bytes, plan)
        self._entries[name] = (weakref.ref(model, forget), entry)

    def get(self, name: str) -> Any | None:
        """The living model of that name."""
        entry = self._entries.get(name)
        return entry[0]() if entry else None

    def models(self) -> tuple[LoadedModel, ...]:
        """Every living model, oldest first."""
        return tuple(facts for ref, facts in tuple(self._entries.values()) if ref() is not None)
