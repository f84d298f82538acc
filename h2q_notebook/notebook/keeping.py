"""What the kernel's guard does in a notebook: tell, clean, and end threads that go on growing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from h2q_notebook.guardian.born import end_born
from h2q_notebook.guardian.guardian import SPARED_THREADS
from h2q_notebook.guardian.reclaim import release_memory
from h2q_notebook.guardian.reclaimers import RECLAIMERS, clean
from h2q_notebook.load.registry import LoadedModel
from h2q_notebook.units import format_bytes, format_seconds

__all__ = ["NotebookEffects"]

_IDLE_S = 60.0
"""A model that ran within the last minute is what the user works with."""


class NotebookEffects:
    """See ``guardian.kernel.Effects``.

    Args:
        names: the user's namespace.
        say: tells the user.
        read_used: the kernel's use, in bytes.
        models: those that h2q loaded and that live.
    """

    def __init__(
        self,
        names: dict[str, Any],
        say: Callable[[str], None],
        read_used: Callable[[], int],
        models: Callable[[], Sequence[LoadedModel]],
    ) -> None:
        self._names = names
        self._say = say
        self._read_used = read_used
        self._models = models

    def say(self, text: str) -> None:
        """Tell the user."""
        self._say(text)

    def clean(self) -> str:
        """Collect cycles, empty pools and caches, call reclaimers, give free pages back."""
        return clean(self._read_used)

    def offer(self) -> str:
        """The models that have been idle longest, and how to give them up."""
        idle = sorted(
            (one for one in self._models() if one.idle_s >= _IDLE_S), key=lambda one: -one.idle_s
        )
        if not idle:
            return ""
        named = ", ".join(
            f"{one.name} ({format_bytes(one.resident_bytes)}, unused for "
            f"{format_seconds(one.idle_s)})"
            for one in idle[:3]
        )
        return f"idle: {named}; %h2q_unload {idle[0].name} would give its memory back"

    def calm(self) -> None:
        """Reclaimers that had no effect get a new chance."""
        RECLAIMERS.calm()

    def stop(self) -> str:
        """End the user's background threads; a running cell is its own watcher's to stop."""
        threads = [
            thread
            for thread in threading.enumerate()
            if thread is not threading.main_thread() and not thread.name.startswith(SPARED_THREADS)
        ]
        _, ended, left = end_born((), threads, self._names)
        release_memory()
        if not ended and not left:
            return ""
        one = "a background thread of yours was" if ended == 1 else f"{ended} of your threads were"
        still = f"; {left} blocked and still running" if left else ""
        return f"{one} ended{still}"
