"""Which limit of the machine binds this process, and how much it can still spare.

Covers MemAvailable, cgroup v1 and v2 (walked from this process's own group upward: a container's
limit may sit on any level) and RLIMIT_AS / RLIMIT_DATA. Never the host's RAM alone: inside a
24 GB container on a 503 GB node that figure is what gets kernels killed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

__all__ = ["UNLIMITED_BYTES", "Headroom", "capped", "memory_groups", "read_headroom", "read_number"]

UNLIMITED_BYTES = 1 << 60  # cgroup v1 writes "no limit" as about 2**63 rounded to pages


@dataclass(frozen=True, slots=True)
class Headroom:
    """What can still be allocated before something kills or refuses."""

    free_bytes: int
    total_bytes: int
    source: str
    """The limit that binds, in words: ``machine``, ``cgroup limit``, ``RLIMIT_AS`` ..."""


def capped(room: Headroom, used_bytes: int, max_bytes: int | None) -> Headroom:
    """The tighter of what the machine can give and a ceiling of the user's.

    Args:
        room: what the machine can give.
        used_bytes: what the kernel uses.
        max_bytes: the ceiling; None: none.
    """
    if max_bytes is None or max_bytes - used_bytes >= room.free_bytes:
        return room
    return Headroom(max(0, max_bytes - used_bytes), max_bytes, "max_memory_mb")


def read_headroom(root: Path = Path("/")) -> Headroom:
    """Find the limit with the least room left.

    Args:
        root: where ``proc`` and ``sys`` are; tests pass a made-up tree.

    Returns:
        The tightest limit that applies to this process.
    """
    rooms = [_machine(root), *_cgroups(root), *_rlimits(root)]
    return min(rooms, key=lambda room: room.free_bytes)


def _machine(root: Path) -> Headroom:
    try:
        fields = {
            line.split(":")[0]: int(line.split()[1]) * 1024
            for line in (root / "proc/meminfo").read_text().splitlines()
            if line.endswith("kB")
        }
        return Headroom(fields["MemAvailable"], fields["MemTotal"], "machine")
    except (OSError, KeyError, ValueError, IndexError):
        import psutil

        memory = psutil.virtual_memory()
        return Headroom(int(memory.available), int(memory.total), "machine")


def read_number(path: Path) -> int | None:
    """The number a file holds; None where it is absent, or says ``max``."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _inactive_file_bytes(folder: Path) -> int:
    """Page cache the group can drop at once; it is charged to the group but is not use."""
    try:
        text = (folder / "memory.stat").read_text()
    except OSError:
        return 0
    fields = dict(line.split() for line in text.splitlines() if len(line.split()) == 2)
    return int(fields.get("total_inactive_file", fields.get("inactive_file", 0)))


def _cgroups(root: Path) -> list[Headroom]:
    try:
        text = (root / "proc/self/cgroup").read_text()
    except OSError:
        return []
    rooms: list[Headroom] = []
    for folder, limit_name, used_name in memory_groups(str(root), text):
        limit = read_number(folder / limit_name)
        if limit is None or limit >= UNLIMITED_BYTES:
            continue
        used = read_number(folder / used_name)
        if used is not None:
            free = limit - used + _inactive_file_bytes(folder)
            rooms.append(Headroom(max(0, free), limit, "cgroup limit"))
    return rooms


@lru_cache(maxsize=8)
def memory_groups(root: str, text: str) -> tuple[tuple[Path, str, str], ...]:
    """The folders that may limit this process, own group first, and the names of their files.

    Kept for as long as /proc/self/cgroup reads the same: looking for the files of every level
    took 0.7-2.2 ms of each guarded cell.
    """
    found: list[tuple[Path, str, str]] = []
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, names = Path(root, "sys/fs/cgroup"), ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            base = Path(root, "sys/fs/cgroup/memory")
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        folder = base / path.lstrip("/")
        while True:
            if (folder / names[0]).exists():
                found.append((folder, *names))
            if folder == base or base not in folder.parents:
                break
            folder = folder.parent
    return tuple(found)


def _rlimits(root: Path) -> list[Headroom]:
    if os.name == "nt":
        return []
    import resource

    try:
        pages = (root / "proc/self/statm").read_text().split()
        page_bytes = os.sysconf("SC_PAGE_SIZE")
        held = {"RLIMIT_AS": int(pages[0]) * page_bytes, "RLIMIT_DATA": int(pages[5]) * page_bytes}
    except (OSError, ValueError, IndexError):
        return []
    rooms = []
    for name, used in held.items():
        soft, _ = resource.getrlimit(getattr(resource, name))
        if soft != resource.RLIM_INFINITY:
            rooms.append(Headroom(max(0, soft - used), soft, name))
    return rooms
