"""How an isolated cell ended, judged from what was seen of its worker: pure."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass, field
from typing import Any

from h2q_notebook.cell.outcome import Status
from h2q_notebook.errors import (
    CellStopRequested,
    CellTimeExceeded,
    MemoryBudgetExceeded,
    WorkerLost,
)
from h2q_notebook.policy.strikes import Cause
from h2q_notebook.units import MIB, format_bytes

__all__ = ["UNCHANGED", "Ending", "WorkerFacts", "advice_for", "ending_of", "line_in"]

UNCHANGED = "the kernel has not changed"
_CELL_LINE = re.compile(r'File "<ipython-input-[^"]*", line (\d+) ')
# What Rust and C++ say before they abort because they were given no memory.
_NO_MEMORY = re.compile(r"memory allocation of \d+ bytes failed|bad_alloc|[Oo]ut of memory")


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """What was seen of a worker, from its start to its end."""

    cause: Cause = Cause.NONE
    """Why it was ended by us."""
    interrupted: bool = False
    """It was the user's Ctrl-C that asked for it."""
    begun: bool = True
    ended: dict[str, Any] | None = None
    """What it told at the cell's end; None if it did not come to that."""
    code: int = 0
    """Its exit code; negative for a signal."""
    trace: str = ""
    """Its stack, where it crashed or was asked for it."""
    said: str = ""
    """The last that its C code wrote to standard error."""
    limit: str = ""
    """The limit that bound, in words."""
    refused: str = ""
    """Why it was not begun, or why what it made does not come back though it ended well."""
    no_room: bool = False
    """... because there is no room for it."""


@dataclass(frozen=True, slots=True)
class Ending:
    """What the user is told in the place of a traceback; ``name`` is "" for a cell that ended well.

    ``trace`` is a traceback of the cell's own, if there is one.
    """

    status: Status
    name: str = ""
    text: str = ""
    trace: tuple[str, ...] = field(default=())


def line_in(facts: WorkerFacts) -> int:
    """The line of the cell where it was; 0 if that is not known."""
    if facts.ended is not None:
        return int(facts.ended.get("line", 0))
    found = _CELL_LINE.search(facts.trace)
    return int(found[1]) if found else 0


def ending_of(facts: WorkerFacts) -> Ending:
    """Name the way it ended."""
    line = line_in(facts)
    at = f" (line {line})" if line else ""
    if facts.interrupted or facts.cause is not Cause.NONE:
        return _stopped(facts, at)
    ended = facts.ended
    if ended is None:
        return _lost(facts, at)
    if ended["ename"]:
        status: Status = "refused" if ended["no_memory"] else "error"
        return Ending(status, ended["ename"], ended["evalue"], tuple(ended["trace"]))
    if facts.refused:
        text = f"{facts.refused}; {UNCHANGED}"
        return Ending("refused" if facts.no_room else "error", WorkerLost.__name__, text)
    if facts.code != 0:  # in the middle of giving back
        return _lost(facts, at)
    return Ending("ok")


def _stopped(facts: WorkerFacts, at: str) -> Ending:
    if facts.cause is Cause.MEMORY:
        text = f"the cell was stopped at its {facts.limit}{at}; {UNCHANGED}"
        return Ending("overrun", MemoryBudgetExceeded.__name__, text)
    if facts.cause is Cause.TIMEOUT:
        text = f"the cell was stopped: its --timeout is over{at}; {UNCHANGED}"
        return Ending("timeout", CellTimeExceeded.__name__, text)
    if facts.interrupted:
        ended = facts.ended or {}
        trace = tuple(ended["trace"]) if ended.get("ename") == "KeyboardInterrupt" else ()
        text = f"the cell was interrupted{at}; {UNCHANGED}"
        return Ending("error", "KeyboardInterrupt", text, trace)
    text = f"the cell was stopped on request{at}; {UNCHANGED}"
    return Ending("stopped", CellStopRequested.__name__, text)


def _lost(facts: WorkerFacts, at: str) -> Ending:
    if not facts.begun and facts.refused:
        return Ending("error", WorkerLost.__name__, f"{facts.refused}; {UNCHANGED}")
    if not facts.begun:
        text = f"the worker ended before the cell began ({_how(facts.code)}); {UNCHANGED}"
        return Ending("error", WorkerLost.__name__, text)
    if facts.code == -signal.SIGABRT and _NO_MEMORY.search(facts.said):
        text = (
            f"a library was refused memory beyond the {facts.limit} and ended the worker "
            f"by SIGABRT{at}; {UNCHANGED}"
        )
        return Ending("refused", MemoryBudgetExceeded.__name__, text)
    text = f"the worker {_how(facts.code)}{at}; {UNCHANGED}"
    return Ending("error", WorkerLost.__name__, text)


def _how(code: int) -> str:
    if code >= 0:
        return f"ended itself with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    why = ", most likely by the system, for want of memory" if name == "SIGKILL" else ""
    return f"was ended by {name}{why}"


def advice_for(status: Status, facts: WorkerFacts, peak_bytes: int, budget_bytes: int) -> str:
    """What to try next; "" where there is nothing to say."""
    if status == "timeout":
        return "give a longer --timeout, or work on a smaller piece"
    if facts.no_room:
        return "keep less of it: del what is not needed, or write it to a file and read a part"
    if status in ("overrun", "refused"):
        step = 256 * MIB
        need = -(-max(peak_bytes, budget_bytes) * 3 // 2 // step) * step
        return f"less at once, or more room: %%h2q_budget {format_bytes(need).replace(' ', '')}"
    return ""
