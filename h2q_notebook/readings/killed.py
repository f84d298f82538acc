"""Did the system kill something for memory? Counters of a process's memory group, and its peak.

Covers cgroup v1 and v2, and the machine's own counter where the process is in no group. What it
reads stays readable after the process is gone: that is when it is asked.

Sources: Documentation/admin-guide/cgroup-v2.rst (memory.events: ``oom_kill`` counts processes of
the group killed by any kind of out-of-memory killer; memory.peak since 5.19), cgroup-v1/memory.rst
(memory.oom_control, memory.max_usage_in_bytes), proc_vmstat(5).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from h2q_notebook.readings.limits import UNLIMITED_BYTES, memory_groups, read_number

__all__ = ["AddressSpace", "KillRecord", "MemoryGroup", "address_space", "group_of", "read_kills"]


@dataclass(frozen=True, slots=True)
class MemoryGroup:
    """Where the counters of one process are."""

    own: Path | None
    """Its own folder; None: it is in no group, and the machine's counter is all there is."""
    limited: Path | None
    """The folder, own or above, with the lowest limit."""


@dataclass(frozen=True, slots=True)
class KillRecord:
    """The counters at one moment."""

    kills: int | None
    """Processes killed for memory since the group, or the machine, was started; None: unknown."""
    limit_bytes: int | None
    used_bytes: int | None
    """What the limited group, or the machine, uses."""
    peak_bytes: int | None
    """The most the limited group has used; None: not kept."""
    source: str
    """Whose limit it is: ``cgroup limit`` or ``machine``."""


@dataclass(frozen=True, slots=True)
class AddressSpace:
    """RLIMIT_AS of a process and what it takes of it, in bytes."""

    used_bytes: int
    limit_bytes: int


def group_of(pid: int, root: Path = Path("/")) -> MemoryGroup | None:
    """The groups of a living process; None where there is no /proc or no such process."""
    try:
        text = (root / f"proc/{pid}/cgroup").read_text()
    except OSError:
        return None
    groups = memory_groups(str(root), text)
    if not groups:
        return MemoryGroup(None, None)
    limits = [
        (limit, folder)
        for folder, limit_name, _ in groups
        if (limit := read_number(folder / limit_name)) is not None and limit < UNLIMITED_BYTES
    ]
    return MemoryGroup(groups[0][0], min(limits)[1] if limits else None)


def read_kills(group: MemoryGroup, root: Path = Path("/")) -> KillRecord:
    """The counters now."""
    kills = None if group.own is None else _kills(group.own)
    if kills is None:
        kills = _field(root / "proc/vmstat", "oom_kill")
    if group.limited is None:
        total, free = (
            _field(root / "proc/meminfo", name, 1024) for name in ("MemTotal:", "MemAvailable:")
        )
        used = None if total is None or free is None else total - free
        return KillRecord(kills, total, used, None, "machine")
    limit, used, peak = (
        next((n for name in names if (n := read_number(group.limited / name)) is not None), None)
        for names in (
            ("memory.max", "memory.limit_in_bytes"),
            ("memory.current", "memory.usage_in_bytes"),
            ("memory.peak", "memory.max_usage_in_bytes"),
        )
    )
    return KillRecord(kills, limit, used, peak, "cgroup limit")


def address_space(pid: int, root: Path = Path("/")) -> AddressSpace | None:
    """None where the process has no RLIMIT_AS, or is gone."""
    try:
        lines = (root / f"proc/{pid}/limits").read_text().splitlines()
        soft = next(line for line in lines if line.startswith("Max address space")).split()[3]
        return AddressSpace(_field(root / f"proc/{pid}/status", "VmPeak:", 1024) or 0, int(soft))
    except (OSError, ValueError, StopIteration, IndexError):
        return None  # "unlimited" is no number


def _kills(folder: Path) -> int | None:
    for name in ("memory.events", "memory.oom_control"):
        found = _field(folder / name, "oom_kill")
        if found is not None:
            return found
    return None


def _field(path: Path, key: str, unit: int = 1) -> int | None:
    """The number after *key* at the start of a line."""
    try:
        for line in path.read_text().splitlines():
            words = line.split()
            if len(words) > 1 and words[0] == key:
                return int(words[1]) * unit
    except (OSError, ValueError):
        pass
    return None
