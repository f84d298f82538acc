"""Steps that are done in order and undone in reverse; each timed and weighed.

Covers the order alone. What a step does is passed in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from h2q_notebook.guardian.reclaim import clear_exception, release_memory
from h2q_notebook.units import shorten

__all__ = ["LayerReport", "StartupReport", "Step", "run_steps", "undo_steps"]


@dataclass(frozen=True, slots=True)
class Step:
    """One layer."""

    name: str
    do: Callable[[], str]
    """Returns what is to be told; raises where the layer cannot be had."""
    undo: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class LayerReport:
    """What became of one layer."""

    name: str
    state: str
    """``ready``, ``failed``, ``undone`` or ``not reached``."""
    said: str = ""
    took_s: float = 0.0
    added_bytes: int = 0


@dataclass(frozen=True, slots=True)
class StartupReport:
    """All layers."""

    layers: tuple[LayerReport, ...]
    ok: bool
    error: BaseException | None = field(default=None, compare=False)
    """What a failed layer raised."""

    @property
    def reason(self) -> str:
        """Why it failed, in a sentence; "" where it did not."""
        failed = [one for one in self.layers if one.state == "failed"]
        return f"{failed[0].name}: {failed[0].said}" if failed else ""


def run_steps(
    steps: Sequence[Step],
    read_used: Callable[[], int],
    clock: Callable[[], float] = time.monotonic,
) -> StartupReport:
    """Do all steps, or none.

    Args:
        steps: in order.
        read_used: reads the use of this process, in bytes.
        clock: seconds, monotonic.
    """
    done: list[LayerReport] = []
    for at, step in enumerate(steps):
        began_s, before = clock(), read_used()
        error: BaseException | None = None
        try:
            said = step.do()
        except BaseException as caught:
            error = caught
            said = shorten(str(caught) or type(caught).__name__, 300)
        state = "ready" if error is None else "failed"
        one = LayerReport(step.name, state, said, clock() - began_s, read_used() - before)
        done.append(one)
        if error is not None:
            clear_exception(error, keep_trace=True)
            # A failed step may have got half-way.
            undo_steps(steps[: at + 1])
            release_memory()
            undone = [replace(layer, state="undone") for layer in done[:-1]]
            rest = [LayerReport(later.name, "not reached") for later in steps[at + 1 :]]
            return StartupReport((*undone, one, *rest), ok=False, error=error)
    return StartupReport(tuple(done), ok=True)


def undo_steps(steps: Sequence[Step]) -> None:
    """Undo in reverse; one that fails does not keep the others from it."""
    for step in reversed(steps):
        with suppress(Exception):
            step.undo()
