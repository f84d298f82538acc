"""What IPython itself keeps alive of a failed cell, found and dropped.

Covers tracebacks and results that the shell, ``sys`` and the display hook hold (measured: one of
them, ``InteractiveTB.tb``, kept 306 MB after everything else was gone), and where in the cell an
exception was raised.
"""

from __future__ import annotations

import asyncio
import linecache
import sys
from types import CodeType, FrameType, TracebackType
from typing import Any

from h2q_notebook.cell.outcome import SourceLine

__all__ = ["cell_frames", "cell_line", "cell_task", "drop_traceback_refs", "local_names"]

_LAST = ("last_type", "last_value", "last_traceback", "last_exc")
_MAX_FRAMES = 2000


def drop_traceback_refs(shell: Any, result: Any) -> None:
    """Make the shell forget the traceback and the result of the cell."""
    if result is not None:
        result.result = None
    for name in _LAST:
        if hasattr(sys, name):
            delattr(sys, name)
    for name in ("InteractiveTB", "SyntaxTB"):
        formatter = getattr(shell, name, None)
        if formatter is not None and getattr(formatter, "tb", None) is not None:
            formatter.tb = None


def cell_frames(
    trace: TracebackType | None, runner: CodeType, global_names: dict[str, Any]
) -> tuple[list[FrameType], FrameType | None, int]:
    """Walk a traceback.

    Returns:
        The frames below the runner, outermost first; the innermost frame whose code is the
        user's (same namespace, not a library); the line it was at, 0 if
        the bytecode belongs to none.
    """
    frames: list[FrameType] = []
    innermost, line = None, 0
    while trace is not None and len(frames) < _MAX_FRAMES:
        frame = trace.tb_frame
        if frame.f_code is not runner:
            frames.append(frame)
            if frame.f_globals is global_names:
                # Some bytecodes (the clean-up of nested except blocks) belong to no line.
                number: int | None = trace.tb_lineno
                innermost, line = frame, number or 0
        trace = trace.tb_next
    return frames, innermost, line


def cell_line(frame: FrameType | None, line: int, source: tuple[str, ...]) -> SourceLine | None:
    """The source line as the user sees it.

    Lines that were cut off before the code ran are added again: the budget line where another
    cell magic follows it, and that magic's own line where it compiled its body apart (``%%time``).

    Args:
        frame: the innermost frame of the user's code.
        line: its line in the code that ran.
        source: the lines of the cell as it was typed.
    """
    if frame is None or not line:
        return None
    budget_first = source[0].startswith("%%h2q_budget")
    magic_next = source[1:2] and source[1].startswith("%%")
    name = frame.f_code.co_filename
    if budget_first and magic_next:
        line += 1 + int(name.startswith("<"))
    if name.startswith("<"):
        text = source[line - 1] if 0 < line <= len(source) else ""
    else:
        text = linecache.getline(name, line - int(bool(budget_first and magic_next)))
    return SourceLine(number=line, text=text.strip()[:120])


def local_names(frames: list[FrameType], global_names: dict[str, Any]) -> dict[str, object]:
    """Local variables of the user's functions that were running, as ``function.name``."""
    found: dict[str, object] = {}
    for frame in frames[-20:]:
        if frame.f_globals is global_names and frame.f_locals is not global_names:
            for name, value in frame.f_locals.items():
                found[f"{frame.f_code.co_name}.{name}"] = value
    return found


def cell_task(
    shell: Any, raw_cell: str, transformed_cell: str | None
) -> tuple[asyncio.Task[Any] | None, asyncio.AbstractEventLoop | None]:
    """The task of a cell with top-level await, and its loop.

    For any other cell ``current_task()`` is ipykernel's own dispatcher, which must never be
    cancelled; so ask the shell first.
    """
    try:
        if shell.should_run_async(raw_cell, transformed_cell=transformed_cell):
            return asyncio.current_task(), asyncio.get_running_loop()
    except (RuntimeError, TypeError, AttributeError):
        pass
    return None, None
