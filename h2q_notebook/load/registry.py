"""Which models h2q has loaded and still live: weak references only.

Holding a model here would keep it from being freed, so the registry never does: an entry ends
with its model. When a model was last used is stamped by a hook before each forward pass.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from h2q_notebook.load.outcome import LoadOutcome

__all__ = ["LoadedModel", "ModelRegistry"]


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """One living model. Bytes; ages in seconds."""

    name: str
    class_name: str
    rung: str
    task: str
    resident_bytes: int
    mapped_bytes: int
    device_bytes: int
    budget_bytes: int
    loaded_age_s: float
    idle_s: float
    """Since its last forward pass, or since it was loaded."""
    names: tuple[str, ...] = ()
    """What the load bound, the model's name first."""


class _Stamp:
    """A forward pre-hook that notes the time.

    Copies and pickles of a model get an inert one that needs no h2q to be read: a dictionary's
    ``get``, which gives the arguments back as they are.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.at_s = clock()

    def __call__(self, module: Any, args: Any) -> None:
        self.at_s = self._clock()

    def __reduce__(self) -> Any:
        return getattr, ({}, "get")


class _Entry:
    """A model and what stays known of its load; nothing that keeps it alive."""

    def __init__(
        self,
        outcome: LoadOutcome,
        stamp: _Stamp,
        forget: Callable[[Any], None],
    ) -> None:
        self.model = weakref.ref(outcome.model, forget)
        companions = (one for one in (outcome.tokenizer, outcome.processor) if one is not None)
        self.companions = tuple(map(weakref.ref, companions))
        self.stamp = stamp
        self.loaded_s = stamp.at_s
        self.names = outcome.names
        self.figures: dict[str, Any] = {
            "class_name": type(outcome.model).__name__,
            "rung": outcome.plan.rung.name,
            "task": outcome.task,
            "resident_bytes": outcome.resident_bytes,
            "mapped_bytes": outcome.mapped_bytes,
            "device_bytes": outcome.device_bytes,
            "budget_bytes": outcome.plan.budget_bytes,
        }


class ModelRegistry:
    """Names of loaded models, each as long as its model lives.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._entries: dict[str, _Entry] = {}

    def add(self, name: str, outcome: LoadOutcome) -> None:
        """Remember a finished load under *name*; an older entry of that name is replaced."""

        def forget(dead: Any) -> None:
            # The name may belong to a newer model by now.
            if name in self._entries and self._entries[name].model is dead:
                del self._entries[name]

        stamp = _Stamp(self._clock)
        if hasattr(outcome.model, "register_forward_pre_hook"):
            outcome.model.register_forward_pre_hook(stamp)
        self._entries[name] = _Entry(outcome, stamp, forget)

    def get(self, name: str) -> Any | None:
        """The living model of that name."""
        entry = self._entries.get(name)
        return entry.model() if entry else None

    def companions(self, name: str) -> tuple[Any, ...]:
        """Its tokenizer and processor, as far as they live."""
        entry = self._entries.get(name)
        found = (ref() for ref in entry.companions) if entry else ()
        return tuple(one for one in found if one is not None)

    def models(self) -> tuple[LoadedModel, ...]:
        """Every living model, oldest first."""
        now_s = self._clock()
        return tuple(
            LoadedModel(
                name=name,
                names=entry.names,
                loaded_age_s=now_s - entry.loaded_s,
                idle_s=now_s - entry.stamp.at_s,
                **entry.figures,
            )
            for name, entry in tuple(self._entries.items())
            if entry.model() is not None
        )
