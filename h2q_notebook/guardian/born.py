"""Ends what a stopped cell had started: child processes and threads.

Covers the ending only; what was born in a cell is found by the watcher and the guardian.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence
from typing import Any

from h2q_notebook.guardian.stop import interrupt_thread, runs_code_of

__all__ = ["end_born"]

_JOIN_S = 1.0  # the memory of a thread comes back only once it has ended


def end_born(
    children: Sequence[int], threads: Sequence[threading.Thread], global_names: dict[str, Any]
) -> tuple[int, int, int]:
    """Stop what the cell started: children are killed, threads get SystemExit raised in them.

    Only a thread that is inside the user's code is touched. Libraries start service threads
    at first use (pyzmq frees its zero-copy sends in one), and ending such a thread left the
    kernel without an answer for ever.

    Args:
        children: process ids born in the cell.
        threads: threads born in the cell.
        global_names: the user's namespace.

    Returns:
        Children killed, threads ended, threads still running (blocked in C).
    """
    killed = 0
    for pid in children:
        try:
            os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))
            killed += 1
        except OSError:
            continue
    mine = [
        thread
        for thread in threads
        if thread.ident is not None and runs_code_of(thread.ident, global_names)
    ]
    for thread in mine:
        # threading's excepthook is silent for exactly SystemExit; any other stop, subclasses
        # too, would print a traceback for each thread.
        interrupt_thread(thread.ident or 0, SystemExit)
    deadline_s = time.monotonic() + _JOIN_S
    for thread in mine:
        thread.join(max(0.0, deadline_s - time.monotonic()))
    left = sum(thread.is_alive() for thread in mine)
    return killed, len(mine) - left, left
