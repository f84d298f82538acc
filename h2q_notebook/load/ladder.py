"""Which form of a model to load: the ladder of rungs, and the first of them that fits.

Pure: no I/O, no clock, no torch. Rungs come in the order in which they are preferred. Rungs that
need more than a dtype (mapped, int8, int4, offload) belong here too; ``Rung.kind`` is their place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from h2q_notebook.errors import LoadRefused
from h2q_notebook.units import MIB, format_bytes

__all__ = ["LoadPlan", "Rung", "Verdict", "plan"]


@dataclass(frozen=True, slots=True)
class Rung:
    """One form in which the model could be loaded."""

    name: str
    kind: Literal["full", "mapped", "int8", "int4", "offload"]
    dtype: str
    """``fp32``, ``bf16`` or ``fp16``."""
    resident_bytes: int
    load_peak_bytes: int
    run_peak_bytes: int
    note: str = ""
    """The price of this rung, in words."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A rung, and whether it fits the budget."""

    rung: Rung
    fits: bool
    why: str


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """Every rung with its verdict, and the one that is taken."""

    verdicts: tuple[Verdict, ...]
    chosen: int
    """Index into ``verdicts``."""
    budget_bytes: int
    context_tokens: int
    reason: str

    @property
    def rung(self) -> Rung:
        """The rung that is taken."""
        return self.verdicts[self.chosen].rung


def plan(
    rungs: Sequence[Rung], budget_bytes: int, *, label: str, context_tokens: int = 2048
) -> LoadPlan:
    """Take the first rung whose load peak fits the budget.

    Args:
        rungs: in order of preference, at least one.
        budget_bytes: what the load may add.
        label: the model's name, for the sentences.
        context_tokens: the context that ``Rung.run_peak_bytes`` was computed for.

    Raises:
        LoadRefused: none fits; names the nearest and the budget it needs.
    """
    verdicts = tuple(_judge(rung, budget_bytes) for rung in rungs)
    for index, verdict in enumerate(verdicts):
        if verdict.fits:
            reason = f"{verdict.rung.name} fits: {verdict.why}"
            if index:
                passed = ", ".join(f"{v.rung.name} ({v.why})" for v in verdicts[:index])
                reason += f"; passed over: {passed}"
            return LoadPlan(verdicts, index, budget_bytes, context_tokens, reason)
    nearest = min(rungs, key=lambda rung: rung.load_peak_bytes)
    # Rounded up to whole MiB, so that typing the number back is enough.
    enough_mib = -(-nearest.load_peak_bytes // MIB)
    raise LoadRefused(
        f"{label} does not fit the budget of {format_bytes(budget_bytes)}: the smallest form, "
        f"{nearest.name}, needs {format_bytes(nearest.load_peak_bytes)}; "
        f"give --budget {enough_mib}MiB, free memory, or choose a smaller model"
    )


def _judge(rung: Rung, budget_bytes: int) -> Verdict:
    spare = budget_bytes - rung.load_peak_bytes
    need = format_bytes(rung.load_peak_bytes)
    if spare >= 0:
        return Verdict(rung, True, f"needs {need} of {format_bytes(budget_bytes)}")
    return Verdict(rung, False, f"needs {need}, {format_bytes(-spare)} too much")
