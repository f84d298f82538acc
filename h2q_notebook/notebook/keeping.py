"""What the kernel's guard does in a notebook: tell, clean, and end threads that go on growing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from h2q_notebook.guardian.born import end_born
from h2q_notebook.guardian.guardian import SPARED_THREADS
from h2q_notebook.guardian.reclaim import release_memory

__all__ = ["NotebookEffects"]


class NotebookEffects:
    """See ``guardian.kernel.Effects``.

    Args:
        names: the user's namespace.
        say: tells the user.
    """

    def __init__(self, names: dict[str, Any], say: Callable[[str], None]) -> None:
        self._names = names
        self._say = say

    def say(self, text: str) -> None:
        """Tell the user."""
        self._say(text)

    def clean(self) -> None:
        """Collect cycles, empty pools and caches, give free pages back."""
        release_memory()

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
