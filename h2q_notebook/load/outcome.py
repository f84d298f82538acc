"""What became of one load, and how far it has come, as plain frozen data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from h2q_notebook.load.facts import ModelFacts
from h2q_notebook.load.ladder import LoadPlan

__all__ = ["LoadOutcome", "Progress", "ProgressCallback"]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a load has come."""

    stage: str
    """``convert`` (a GGUF's first load), ``structure``, ``weights``, ``optimise``, ``validate``,
    ``done`` or ``failed`` (the last one of a load is always one of these two)."""
    done_bytes: int
    total_bytes: int
    rate_bytes_per_s: float
    eta_s: float | None
    used_bytes: int
    """Memory added since the load began."""

    @property
    def share(self) -> float:
        """0.0 to 1.0."""
        return min(self.done_bytes / self.total_bytes, 1.0) if self.total_bytes else 0.0


ProgressCallback = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class LoadOutcome:
    """A finished load. Every ``*_bytes`` is relative to what the kernel held before it."""

    model: Any
    tokenizer: Any | None
    facts: ModelFacts
    plan: LoadPlan
    peak_bytes: int
    """The highest use seen by a check (one at least every 8 MiB)."""
    resident_bytes: int
    duration_s: float
    notes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    """The names that ``load_into`` bound, the model's first."""
