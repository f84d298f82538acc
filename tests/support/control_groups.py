"""A memory control group with a limit of its own, below the one the tests run in.

What it kills is in it: nobody else can be hit. Where groups cannot be made (no right to, or no
control groups at all) the test that asks for one says so and skips.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


class Group:
    """One group."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def take(self, pid: int) -> None:
        """Move a process into it."""
        (self.folder / "cgroup.procs").write_text(str(pid))


def _own_folder() -> tuple[Path, str]:
    """The own group's folder, and the name of the file with its limit."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return Path(f"/sys/fs/cgroup/memory{path}"), "memory.limit_in_bytes"
    return Path("/sys/fs/cgroup") / path.lstrip("/"), "memory.max"


@contextmanager
def limited_group(limit_bytes: int) -> Iterator[Group]:
    """A group with a limit; what is left in it is gone when the test is over, or it stays.

    In version 2 a group that holds processes cannot have limited groups below it, so that there
    this works only where the tests run in the root group or beside it.
    """
    folder = None
    try:
        own, limit_name = _own_folder()
        folder = own / f"h2q-test-{os.getpid()}"
        folder.mkdir()
        (folder / limit_name).write_text(str(limit_bytes))
        with suppress(OSError):  # no swap: the limit would only make it slow
            (folder / "memory.swap.max").write_text("0")
    except OSError as error:
        if folder is not None:
            with suppress(OSError):
                folder.rmdir()
        pytest.skip(f"no control group can be made here: {error}")
    try:
        yield Group(folder)
    finally:
        for _ in range(100):  # it can go once its last process has
            with suppress(OSError):
                folder.rmdir()
                break
            time.sleep(0.1)
