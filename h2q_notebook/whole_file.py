"""Write a file whole or not at all.

Covers one writer's side: a reader sees the old file or the new one, never half of either, and an
unfinished one is taken away again.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path

__all__ = ["write_whole"]


def write_whole(path: Path, blob: bytes, *, mode: int = 0o600, durable: bool = False) -> None:
    """Replace *path* by a file that holds *blob*.

    Args:
        path: the file; its folder must exist.
        blob: all of its content.
        mode: who may do what with it, before the umask; its owner alone unless said otherwise.
        durable: wait until it is on the disk, so that a power cut leaves the old or the new one.

    Raises:
        OSError: it could not be written; *path* is what it was.
    """
    # Hidden and with an ending of its own, so that nobody who lists the folder takes it for one.
    fresh = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(blob)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(fresh, path)
    except OSError:
        with suppress(OSError):
            os.unlink(fresh)
        raise
