"""What became of one load, and how far it has come, as plain frozen data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from h2q_notebook.load.estimate import Estimate
from h2q_notebook.load.facts import ModelFacts
from h2q_notebook.load.ladder import LoadPlan, Verdict

__all__ = ["LadderEstimate", "LoadOutcome", "Progress", "ProgressCallback"]


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
    mapped_bytes: int = 0
    """Weights that stay in their file; they are not in ``resident_bytes``."""
    device_bytes: int = 0
    processor: Any | None = None
    task: str = "causal-lm"


@dataclass(frozen=True, slots=True)
class LadderEstimate:
    """What every form of a model would take, without loading it."""

    label: str
    facts: ModelFacts
    figures: tuple[Estimate, ...]
    """One for each dtype on the ladder; the first is the first rung's."""
    verdicts: tuple[Verdict, ...]
    chosen: int | None
    """Index into ``verdicts`` of the rung a load would take; None: it would be refused."""
    reason: str
    budget_bytes: int
    context_tokens: int
    batch: int
    curve: tuple[tuple[int, int], ...] = ()
    """Context tokens and run peak in bytes, of the chosen rung (else of the smallest)."""
    notes: tuple[str, ...] = ()
