"""Reading files that nobody vouches for: inside their directory, regular, bounded, sound JSON.

One sentence on failure; a key given twice is a failure.
"""

from __future__ import annotations

import json
import os
import stat
from typing import Any

from h2q_notebook.errors import ModelRefused
from h2q_notebook.units import MIB, format_bytes, shorten

__all__ = ["inside", "parse_object", "read_object", "regular_size"]


def inside(where: str, name: str) -> str:
    """The file's path; a link may lead inside the directory or to a hub cache's blobs only.

    Args:
        where: the directory.
        name: of the file; with a folder before it only if that was checked itself.

    Raises:
        ModelRefused: it leads elsewhere.
    """
    path = os.path.join(where, name)
    real, home = os.path.realpath(path), os.path.realpath(where)
    allowed = [os.path.join(home, os.path.dirname(name)).rstrip(os.sep)]
    # <cache>/models--org--name/snapshots/<revision>/file -> ../../blobs/<hash>
    if os.path.basename(os.path.dirname(home)) == "snapshots":
        allowed.append(os.path.join(os.path.dirname(os.path.dirname(home)), "blobs"))
    if not any(os.path.dirname(real) == folder for folder in allowed):
        raise ModelRefused(
            f"{shorten(name)}: is a link to a place outside the directory; put the real file there"
        )
    return path


def regular_size(path: str, label: str) -> int:
    """Size of a regular file, in bytes.

    Raises:
        ModelRefused: absent, unreadable, or a directory, pipe or device (it could block).
    """
    try:
        info = os.stat(path)
    except OSError as error:
        raise ModelRefused(
            f"{label}: cannot be read ({error.strerror}); fetch the model again"
        ) from None
    if not stat.S_ISREG(info.st_mode):
        raise ModelRefused(f"{label}: is not a regular file; put the real file in its place")
    return info.st_size


def read_object(path: str, label: str, *, max_bytes: int = 4 * MIB) -> dict[str, Any]:
    """Read a JSON object from a file of at most *max_bytes*.

    Raises:
        ModelRefused: not a regular file, too large, or not a clean JSON object.
    """
    size = regular_size(path, label)
    if size > max_bytes:
        raise ModelRefused(
            f"{label}: has {format_bytes(size)}, more than the {format_bytes(max_bytes)} such a "
            "file may have; fetch the model again"
        )
    try:
        with open(path, "rb") as file:
            blob = file.read(max_bytes + 1)
    except OSError as error:
        raise ModelRefused(f"{label}: cannot be read ({error.strerror})") from None
    return parse_object(blob, label)


def parse_object(blob: bytes, label: str) -> dict[str, Any]:
    """Parse a JSON object; a key given twice is an attack or a defect, never a choice.

    Raises:
        ModelRefused: not UTF-8, not JSON, nested beyond reason, not an object, or a key twice.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in result if keys.count(key) > 1)
            raise ModelRefused(f"{label}: the key {shorten(twice)!r} is given twice; one must go")
        return result

    try:
        value = json.loads(blob.decode("utf-8"), object_pairs_hook=unique)
    except UnicodeDecodeError:
        raise ModelRefused(f"{label}: is not UTF-8 text; fetch the model again") from None
    except RecursionError:
        raise ModelRefused(f"{label}: is nested too deeply to be genuine") from None
    except ValueError as error:
        raise ModelRefused(
            f"{label}: is not valid JSON ({shorten(str(error))}); fetch the model again"
        ) from None
    if not isinstance(value, dict):
        raise ModelRefused(f"{label}: must hold a JSON object, and holds a {type(value).__name__}")
    return value
