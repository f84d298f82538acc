"""Tells Jupyter's server about this kernel, and the user what the server found out.

Covers the file of figures beside the connection file, and the note about a dead predecessor. In
terminal IPython there is no connection file, and nobody to tell.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from h2q_notebook.readings.figures import (
    DeathNote,
    Figures,
    figures_path,
    note_path,
    sweep,
    take_note,
    write_figures,
)

__all__ = ["ServerFile", "connection_file", "kernel_id_of"]

_INTERVAL_S = 1.0


def connection_file() -> Path | None:
    """This kernel's, where it is one."""
    module = sys.modules.get("ipykernel.kernelapp")
    if module is None or not module.IPKernelApp.initialized():
        return None
    name = getattr(module.IPKernelApp.instance(), "abs_connection_file", "")
    return Path(name) if name else None


def kernel_id_of(file: Path | None) -> str:
    """Jupyter's id of the kernel; its process id where it has none."""
    return str(os.getpid()) if file is None else file.stem.removeprefix("kernel-")


class ServerFile:
    """The file of one kernel.

    Args:
        figures: reads what is told.
        file: the connection file; None: nothing is written.
    """

    def __init__(self, figures: Callable[[], Figures], file: Path | None) -> None:
        self._figures = figures
        self._connection = file
        self._path = None if file is None else figures_path(file)
        self._next_s = 0.0
        self._written: Figures | None = None

    def start(self) -> DeathNote | None:
        """Clean up after kernels that are gone; returns how the one before this one ended."""
        if self._path is None or self._connection is None:
            return None
        sweep(self._path.parent)
        return take_note(note_path(self._connection))

    def poll(self, now_s: float) -> None:
        """Write if more changed than the use, which the server reads itself; now_s is monotonic."""
        if self._path is None or now_s < self._next_s:
            return
        self._next_s = now_s + _INTERVAL_S
        told = self._figures()
        if self._written is not None and _same(told, self._written):
            return
        with suppress(OSError):  # a full disk costs the server's view, nothing of the user's
            write_figures(self._path, told)
            self._written = told

    def close(self) -> None:
        """Take the file away."""
        if self._path is not None:
            with suppress(OSError):
                self._path.unlink()


def _same(told: Figures, before: Figures) -> bool:
    """Whether there is nothing new; a ceiling follows the machine's free memory, and wavers."""
    if abs(told.limit_bytes - before.limit_bytes) > 0.01 * before.limit_bytes:
        return False
    return dataclasses.replace(told, used_bytes=0, limit_bytes=0) == dataclasses.replace(
        before, used_bytes=0, limit_bytes=0
    )
