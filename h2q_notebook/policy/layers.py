"""The ledger: who may hold how much of the kernel's memory, and who does. Pure.

Five layers: *system* (what the machine and its other processes hold), *application* (the kernel
itself: libraries, the user's names), *model* (what loads reserved), *working* (what running cells
and pipelines reserved) and *safety* (left free). A reservation has an owner and is given back when
that owner is gone; nothing is ever negative, and nothing is given back twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal

from h2q_notebook.units import format_bytes

__all__ = ["Layer", "Ledger", "Reservation", "Row", "balance"]

Layer = Literal["model", "working"]


@dataclass(frozen=True, slots=True)
class Reservation:
    """Memory that somebody was promised."""

    owner: str
    layer: Layer
    n_bytes: int


@dataclass(frozen=True, slots=True)
class Row:
    """One layer as it is shown."""

    layer: str
    n_bytes: int
    limit_bytes: int | None
    """None: it has no limit of its own."""
    what: str


@dataclass(frozen=True, slots=True)
class Ledger:
    """All reservations; every change makes a new one."""

    reservations: Mapping[str, Reservation] = field(default_factory=lambda: MappingProxyType({}))

    def reserve(self, owner: str, layer: Layer, n_bytes: int) -> Ledger:
        """Promise memory to an owner; a second promise takes the first one's place.

        Raises:
            ValueError: a negative number of bytes.
        """
        if n_bytes < 0:
            raise ValueError(f"{owner}: {n_bytes} bytes cannot be reserved")
        one = Reservation(owner, layer, n_bytes)
        return replace(self, reservations=MappingProxyType({**self.reservations, owner: one}))

    def release(self, owner: str) -> Ledger:
        """Take a promise back; an owner without one changes nothing."""
        left = {name: one for name, one in self.reservations.items() if name != owner}
        return replace(self, reservations=MappingProxyType(left))

    def keep(self, layer: Layer, owners: Mapping[str, int]) -> Ledger:
        """Let a layer's reservations be exactly these; who is gone has given back."""
        others = {name: one for name, one in self.reservations.items() if one.layer != layer}
        fresh = {name: Reservation(name, layer, max(n, 0)) for name, n in owners.items()}
        return replace(self, reservations=MappingProxyType({**others, **fresh}))

    def held(self, layer: Layer) -> int:
        """What a layer was promised, in bytes."""
        return sum(one.n_bytes for one in self.reservations.values() if one.layer == layer)

    def room(self, layer: Layer, limit_bytes: int | None, free_bytes: int) -> int:
        """What a further reservation in a layer could have, in bytes.

        Args:
            layer: which.
            limit_bytes: what the layer may hold together; None: as much as there is.
            free_bytes: what the kernel as a whole can still be given.
        """
        own = free_bytes if limit_bytes is None else limit_bytes - self.held(layer)
        return max(0, min(own, free_bytes))


def balance(
    ledger: Ledger,
    *,
    used_bytes: int,
    free_bytes: int,
    total_bytes: int,
    safety_bytes: int,
    model_limit_bytes: int | None,
    working_limit_bytes: int | None,
) -> tuple[Row, ...]:
    """The layers as they stand; together they are the whole.

    What is promised and not yet used is counted with the promise, so that the application's share
    is what the kernel uses beyond its promises.

    Args:
        ledger: the reservations.
        used_bytes: what the kernel uses.
        free_bytes: what the limit that binds can still give.
        total_bytes: that limit.
        safety_bytes: left free.
        model_limit_bytes: of the model layer.
        working_limit_bytes: of the working layer.
    """
    model = min(ledger.held("model"), used_bytes)
    working = min(ledger.held("working"), used_bytes - model)
    system = max(0, total_bytes - used_bytes - free_bytes)
    safety = min(safety_bytes, free_bytes)
    owners = [one.owner for one in ledger.reservations.values() if one.layer == "model"]
    promised = ledger.held("working")
    return (
        Row("system", system, None, "other processes, and what cannot be given"),
        Row("application", used_bytes - model - working, None, "libraries and your names"),
        Row("model", model, model_limit_bytes, ", ".join(owners) or "none loaded"),
        Row("working", working, working_limit_bytes, f"promised {format_bytes(promised)}"),
        Row("safety", safety, safety_bytes, "left to the machine"),
        Row("free", free_bytes - safety, None, "can still be given"),
    )
