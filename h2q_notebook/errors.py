"""Every exception of h2q, in one tree.

    H2QError (Exception)                  a user's mistake or a plain failure; one clear sentence
    ├── BadArgument (ValueError)          a size, option or name that cannot be used
    ├── MissingExtra (ImportError)        an optional dependency is absent; names the command
    ├── ModelRefused                      a model directory is malformed, hostile or unsupported
    ├── LoadRefused (MemoryError)         the model does not fit the budget; names what would
    ├── LoadFailed                        a load broke half-way and was undone
    ├── BenchInterrupted                  a bench was interrupted; its answers are kept
    ├── WorkerLost                        an isolated cell's worker ended and gave nothing back
    └── GuardUnavailable (OSError)        this platform or sandbox offers no way to guard
    CellStopped (BaseException)           raised inside a guarded cell to end it
    ├── MemoryBudgetExceeded              the cell used more memory than its budget
    ├── CellTimeExceeded                  the cell ran longer than ``--timeout``
    └── CellStopRequested                 somebody pressed Stop

``CellStopped`` derives from ``BaseException`` on purpose: a cell full of ``except Exception`` must
not be able to swallow its own stop (and transformers records and skips any ``Exception`` raised
inside a weight conversion, so an ordinary one would not even end a load).

This module imports nothing of h2q.
"""

from __future__ import annotations

__all__ = [
    "BadArgument",
    "BenchInterrupted",
    "CellStopRequested",
    "CellStopped",
    "CellTimeExceeded",
    "GuardUnavailable",
    "H2QError",
    "LoadFailed",
    "LoadRefused",
    "MemoryBudgetExceeded",
    "MissingExtra",
    "ModelRefused",
    "WorkerLost",
]


class H2QError(Exception):
    """Base of every ordinary h2q error; its text is one sentence a user can act on."""


class BadArgument(H2QError, ValueError):
    """A size, option, name or setting that cannot be used; nothing was changed."""


class MissingExtra(H2QError, ImportError):
    """An optional dependency is absent.

    Args:
        needs: the module that could not be imported.
        extra: the extra of ``h2q-notebook`` that carries it.
    """

    def __init__(self, needs: str, extra: str) -> None:
        super().__init__(
            f"{needs} is not installed; install it with: pip install 'h2q-notebook[{extra}]'"
        )
        self.extra = extra


class ModelRefused(H2QError):
    """A model directory was refused before any weight was read."""


class LoadRefused(H2QError, MemoryError):
    """The model does not fit the budget; nothing was loaded."""


class LoadFailed(H2QError):
    """A load failed after it had begun; everything it had done was undone."""


class BenchInterrupted(H2QError):
    """A bench was interrupted; what it had is kept and can be gone on with."""


class WorkerLost(H2QError):
    """The worker of an isolated cell ended, or what it made cannot come back; nothing changed."""


class GuardUnavailable(H2QError, OSError):
    """This platform offers no way to do what was asked."""


class CellStopped(BaseException):
    """Ends a guarded cell; not an ``Exception``, so that ``except Exception`` cannot keep it."""


class MemoryBudgetExceeded(CellStopped):
    """The cell (or load) used more memory than its budget allows."""


class CellTimeExceeded(CellStopped):
    """The cell ran longer than its ``--timeout``."""


class CellStopRequested(CellStopped):
    """The Stop button (or ``h2q.stop()``) asked the cell to end."""
