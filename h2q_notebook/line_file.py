"""A bounded file of JSON lines that several kernels may write to, and that nothing may depend on.

Covers appending, reading and shortening. A file that cannot be written or read counts as empty;
damaged lines are passed over.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from h2q_notebook.whole_file import write_whole

__all__ = ["LineFile"]

_LINE_BYTES = 400
"""No line of ours is longer; the file is shortened by its size, without being read each time."""


class LineFile:
    """One file.

    Args:
        path: its folder is made when it is first written.
        keep: about how many lines; at twice as many the older ones go.
    """

    def __init__(self, path: Path, keep: int = 500) -> None:
        self.path = path
        self._keep = keep

    def append(self, value: Mapping[str, Any]) -> None:
        """Add one line; silently nothing where that is not possible."""
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # A single write of one line with O_APPEND: lines of two kernels never mix.
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            fd = os.open(self.path, flags, 0o600)
            try:
                os.write(fd, json.dumps(value).encode() + b"\n")
            finally:
                os.close(fd)
            if self.path.stat().st_size >= 2 * self._keep * _LINE_BYTES:
                lines = [json.dumps(one).encode() + b"\n" for one in self.read()[-self._keep :]]
                write_whole(self.path, b"".join(lines))

    def read(self) -> list[dict[str, Any]]:
        """Every sound line, oldest first."""
        try:
            lines = self.path.read_bytes().splitlines()
        except OSError:
            return []
        found = []
        for line in lines:
            with suppress(ValueError, RecursionError):
                one = json.loads(line)
                if isinstance(one, dict):
                    found.append(one)
        return found
