"""Stages with their undo: what began is undone in reverse, whatever ended it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from h2q_notebook.errors import CellStopped, H2QError, LoadFailed
from h2q_notebook.guardian.reclaim import clear_exception
from h2q_notebook.load.heap import give_back
from h2q_notebook.units import shorten

__all__ = ["Stage", "run_stages"]


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a load. ``undo`` must be safe after ``do`` failed anywhere inside."""

    name: str
    do: Callable[[], None]
    undo: Callable[[], None]


def run_stages(stages: Sequence[Stage], *, label: str, on_stage: Callable[[str], None]) -> None:
    """Run all stages, or undo those that began and raise.

    Args:
        stages: in order.
        label: the model's name, for the sentence.
        on_stage: told each stage's name before it begins.

    Raises:
        LoadFailed: a stage raised an ordinary exception.
        BaseException: an h2q error, a stop or an interrupt is raised on as it is.
    """
    begun: list[Stage] = []
    try:
        for stage in stages:
            begun.append(stage)
            on_stage(stage.name)
            stage.do()
    except BaseException as error:
        for stage in reversed(begun):
            with suppress(Exception):
                stage.undo()
        clear_exception(error, keep_trace=True)
        give_back()
        # An interrupt or a stop is not ours to rename, nor an error that is already a sentence.
        if isinstance(error, (H2QError, CellStopped)) or not isinstance(error, Exception):
            raise
        raise LoadFailed(
            f"{label}: the load failed while at {begun[-1].name} ({type(error).__name__}: "
            f"{shorten(str(error), 200)}); everything it had done was undone"
        ) from error
