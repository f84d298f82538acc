"""Children of a process, and what a process tree holds that the process itself does not show.

Covers descendants, their proportional memory, and shared memory files that are written but not
mapped. Linux only; elsewhere every function answers "nothing".
Standard library only at import: the sidecar imports this module under ``python -I -S``.
"""

from __future__ import annotations

import os

__all__ = ["command_of", "descendants", "private_tree_bytes", "unmapped_shared_bytes"]

_SHARED_PREFIXES = ("/memfd:", "/dev/shm/")


def _children(pid: int, *, main_thread_only: bool) -> list[int]:
    found: list[int] = []
    try:
        tasks = [str(pid)] if main_thread_only else os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for task in tasks:
        try:
            with open(f"/proc/{pid}/task/{task}/children", "rb") as file:
                found += [int(child) for child in file.read().split()]
        except (OSError, ValueError):
            continue  # the thread ended between listing and reading
    return found


def descendants(
    pid: int, *, without: frozenset[int] = frozenset(), main_thread_only: bool = False
) -> list[int]:
    """Process ids of all living descendants (67 us for a few; psutil's walk takes 2.1 ms).

    Args:
        pid: the root; not part of the answer.
        without: process ids to leave out, with everything below them.
        main_thread_only: skip what other threads than the main ones started (cheaper).
    """
    todo, seen = [pid], []
    while todo:
        for child in _children(todo.pop(), main_thread_only=main_thread_only):
            if child not in without:
                seen.append(child)
                todo.append(child)
    return seen


def _proportional(pid: int) -> tuple[bytes, int]:
    """The address range, and Pss_Anon + Pss_Shmem + SwapPss in bytes.

    Pages that n processes share count 1/n in each of them.
    """
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            blob = file.read()
    except OSError:
        return b"", 0
    total = 0
    for key in (b"Pss_Anon:", b"Pss_Shmem:", b"SwapPss:"):
        start = blob.find(key)
        if start >= 0:
            total += int(blob[start + len(key) : blob.index(b"kB", start)]) * 1024
    return blob.split(b" ", 1)[0], total


def private_tree_bytes(pid: int, children: list[int], own_bytes: int) -> int:
    """What *children* hold on top of *own_bytes* of their parent, in bytes.

    Proportional sums over the whole tree, so that copy-on-write pages of a fork are counted once:
    summing resident sizes made a pool of forked workers look like many copies of the parent.
    A child between vfork and exec *is* its parent (one memory, two process ids, each reporting
    all of it): one with the parent's address range and size to the byte is left out.

    Args:
        pid: the parent.
        children: descendants to count.
        own_bytes: the parent's own use, which the sum must not count again.
    """
    if not children:
        return 0
    mine = _proportional(pid)
    held = [_proportional(child) for child in children]
    return max(0, mine[1] + sum(one[1] for one in held if one != mine) - own_bytes)


def unmapped_shared_bytes(pid: int) -> int:
    """Bytes in memfd and /dev/shm files that *pid* has open, whether mapped or not."""
    total, seen = 0, set()
    try:
        entries = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return 0
    for entry in entries:
        path = f"/proc/{pid}/fd/{entry}"
        try:
            if os.readlink(path).startswith(_SHARED_PREFIXES):
                info = os.stat(path)
                if info.st_ino not in seen:
                    seen.add(info.st_ino)
                    total += info.st_blocks * 512
        except OSError:
            continue  # closed meanwhile
    return total


def command_of(pid: int) -> str:
    """The command line of *pid*, blanks between the words; empty if it is gone."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read(4096).replace(b"\0", b" ").decode("utf-8", "replace").strip()
    except OSError:
        return ""
