"""What a guarded kernel says of itself in numbers, and the file in which its server finds them.

Covers the figures, their file, and the note that a server leaves for the kernel that comes after a
dead one. Numbers and words of a closed set only: no name, path or source of the user's.

The files lie in a folder of their own beside Jupyter's connection files, which only their owner may
read: ``jupyter console --existing`` looks for ``*part-of-a-name*`` and would take one for a
connection file.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from h2q_notebook.whole_file import write_whole

__all__ = [
    "DeathNote",
    "Figures",
    "figures_path",
    "note_path",
    "read_figures",
    "sweep",
    "take_note",
    "write_figures",
    "write_note",
]

_MAX_BYTES = 1 << 16
_NOTE_KEPT_S = 3600.0
"""An older note is about a kernel that nobody remembers."""


@dataclass(frozen=True, slots=True)
class Figures:
    """One kernel at one moment. Bytes and counts."""

    used_bytes: int
    limit_bytes: int
    state: str
    """``calm``, ``warned`` or ``over``."""
    n_models: int = 0
    model_bytes: int = 0
    cells: Mapping[str, int] = field(default_factory=dict)
    """How many guarded cells ended in which way."""
    events: Mapping[str, int] = field(default_factory=dict)
    """How many events there were of which kind."""
    budget_bytes: int = 0
    """What the running cell may add; 0: none is guarded."""
    last_event: str = ""
    """Its kind."""
    last_event_at_s: float = 0.0
    """Seconds since the epoch."""
    pid: int = 0


@dataclass(frozen=True, slots=True)
class DeathNote:
    """How the kernel before this one ended."""

    at_s: float
    """Seconds since the epoch."""
    cause: str
    text: str


def figures_path(connection_file: str | Path) -> Path:
    """Where the kernel of this connection file tells of itself."""
    path = Path(connection_file)
    return path.parent / "h2q" / path.name


def note_path(connection_file: str | Path) -> Path:
    """Where its server leaves a note for the kernel after it."""
    return figures_path(connection_file).with_suffix(".died.json")


def write_figures(path: Path, told: Figures) -> None:
    """Write them whole, for their owner alone.

    Raises:
        OSError: the folder cannot be made or written.
    """
    _write(path, asdict(told))


def read_figures(path: Path) -> Figures | None:
    """What stands in *path*; None where there is nothing sound."""
    found = _read(path)
    if found is None or set(found) - {one.name for one in fields(Figures)}:
        return None
    try:
        told = Figures(**found)
    except TypeError:
        return None
    counts = (told.cells, told.events)
    numbers = [
        told.used_bytes, told.limit_bytes, told.n_models, told.model_bytes, told.budget_bytes,
        told.last_event_at_s, told.pid,
    ]  # fmt: skip
    if not all(isinstance(one, dict) for one in counts):
        return None
    numbers += [n for one in counts for n in one.values()]
    words = (told.state, told.last_event)
    if not all(isinstance(n, (int, float)) and n >= 0 for n in numbers):
        return None
    return told if all(isinstance(word, str) for word in words) else None


def write_note(path: Path, note: DeathNote) -> None:
    """Leave it; silently nothing where that is not possible."""
    with suppress(OSError):
        _write(path, asdict(note))


def take_note(path: Path, now_s: float | None = None) -> DeathNote | None:
    """Read the note and take it away; None where there is none, or an old one."""
    found = _read(path)
    with suppress(OSError):
        path.unlink()
    try:
        note = DeathNote(**(found or {}))
        fresh = (time.time() if now_s is None else now_s) - note.at_s < _NOTE_KEPT_S
    except TypeError:
        return None
    return note if fresh and isinstance(note.text, str) else None


def sweep(folder: Path) -> None:
    """Take away what kernels left that are gone and had no server to clean up after them."""
    with suppress(OSError):
        for path in folder.glob("*.json"):
            told = read_figures(path)
            if told is not None and told.pid and not _lives(told.pid):
                path.unlink()


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # somebody else's
    return True


def _write(path: Path, value: Mapping[str, object]) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_whole(path, json.dumps(value).encode())


def _read(path: Path) -> dict[str, Any] | None:
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(_MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
