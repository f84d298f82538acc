"""Follows the settings file: a change is taken whole, or not at all and the reason is told.

A file that is just being written is left alone until it has rested, nobody has it open for writing
(where the system can say that), and its last line has an end. So a half-written file never becomes
the running settings, wherever its writer is.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from h2q_notebook.config.sources import parse_toml, read_file
from h2q_notebook.errors import BadArgument

__all__ = ["Change", "ConfigFile"]

_REST_S = 0.5
_Signature = tuple[int, int, int] | None


@dataclass(frozen=True, slots=True)
class Change:
    """What became of a change of the file."""

    values: dict[str, Any] | None
    """The new settings of the file; None: it was refused and the old ones stay."""
    why: str


class ConfigFile:
    """Looks at a settings file now and then.

    Args:
        path: the file; it may be absent, appear and vanish.
        being_written: whether somebody has it open for writing.
    """

    def __init__(self, path: Path, being_written: Callable[[Path], bool] | None = None) -> None:
        self.path = path
        self._being_written = being_written or has_writer
        self._taken: _Signature = None
        self._seen: _Signature = None
        self._seen_s = 0.0

    def first(self) -> dict[str, Any]:
        """The settings at the beginning; {} where there is no file.

        Raises:
            BadArgument: the file is wrong; the sentence names it and its fields.
        """
        self._taken = self._seen = self._signature()
        text = read_file(self.path)
        return {} if text is None else parse_toml(text, str(self.path))

    def poll(self, now_s: float) -> Change | None:
        """Look once.

        Args:
            now_s: seconds, monotonic.

        Returns:
            A change that was just taken or refused; None if there is nothing new.
        """
        signature = self._signature()
        if signature != self._seen:
            self._seen, self._seen_s = signature, now_s
            return None
        if signature == self._taken or now_s - self._seen_s < _REST_S:
            return None
        if signature is not None and self._being_written(self.path):
            self._seen_s = now_s
            return None
        self._taken = signature
        return self._read(signature)

    def _read(self, signature: _Signature) -> Change | None:
        try:
            text = read_file(self.path)
            if self._signature() != signature:
                self._taken = None  # changed under our eyes: look again later
                return None
            if text is None:
                return Change({}, f"{self.path} has gone; its settings are the defaults again")
            if text and not text.endswith("\n"):
                raise BadArgument(
                    f"{self.path}: its last line has no end, as in a half-written file"
                )
            return Change(parse_toml(text, str(self.path)), f"settings were read from {self.path}")
        except BadArgument as error:
            return Change(None, f"the settings stay as they were: {error}")

    def _signature(self) -> _Signature:
        try:
            about = os.stat(self.path)
        except OSError:
            return None
        return about.st_mtime_ns, about.st_size, about.st_ino


def has_writer(path: Path) -> bool:
    """Whether any process has a file open for writing; False where the system does not say.

    A read lease (fcntl(2), F_SETLEASE) is granted only on a file that nobody is writing.
    """
    try:
        import fcntl

        set_lease, unlocked, read_lock = fcntl.F_SETLEASE, fcntl.F_UNLCK, fcntl.F_RDLCK
    except (ImportError, AttributeError):
        return False
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.fcntl(fd, set_lease, read_lock)
    except BlockingIOError:
        return True
    except OSError:
        return False  # leases are not for this file system, or this user
    else:
        fcntl.fcntl(fd, set_lease, unlocked)
        return False
    finally:
        os.close(fd)
