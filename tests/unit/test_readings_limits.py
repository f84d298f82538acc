"""The tightest limit wins, wherever in the tree of groups it stands. Made-up /proc and /sys."""

from __future__ import annotations

from pathlib import Path

import pytest

from h2q_notebook.readings.limits import read_headroom

GIB = 1 << 30
MEMINFO = "MemTotal: {total} kB\nMemFree: 1 kB\nMemAvailable: {free} kB\nHugePages_Total: 0\n"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine of 64 GiB with 32 GiB free, and no groups."""
    write(
        tmp_path / "proc/meminfo",
        MEMINFO.format(total=64 * GIB // 1024, free=32 * GIB // 1024),
    )
    return tmp_path


def group_v2(root: Path, path: str, limit: str, used: int, inactive: int = 0) -> None:
    folder = root / "sys/fs/cgroup" / path.lstrip("/")
    write(folder / "memory.max", f"{limit}\n")
    write(folder / "memory.current", f"{used}\n")
    write(folder / "memory.stat", f"anon 5\ninactive_file {inactive}\n")


def group_v1(root: Path, path: str, limit: int, used: int, inactive: int = 0) -> None:
    folder = root / "sys/fs/cgroup/memory" / path.lstrip("/")
    write(folder / "memory.limit_in_bytes", f"{limit}\n")
    write(folder / "memory.usage_in_bytes", f"{used}\n")
    write(folder / "memory.stat", f"inactive_file 1\ntotal_inactive_file {inactive}\n")


def test_without_groups_the_machine_binds(root: Path) -> None:
    room = read_headroom(root)
    assert (room.free_bytes, room.total_bytes, room.source) == (32 * GIB, 64 * GIB, "machine")


def test_a_container_limit_binds_before_the_node(root: Path) -> None:
    write(root / "proc/self/cgroup", "0::/\n")
    group_v2(root, "/", str(24 * GIB), 20 * GIB)
    room = read_headroom(root)
    assert (room.free_bytes, room.total_bytes, room.source) == (4 * GIB, 24 * GIB, "cgroup limit")


@pytest.mark.parametrize("tight", ["/", "/a", "/a/b", "/a/b/c"])
def test_a_limit_is_found_on_every_level_above_the_process(root: Path, tight: str) -> None:
    write(root / "proc/self/cgroup", "0::/a/b/c\n")
    for level in ("/", "/a", "/a/b", "/a/b/c"):
        group_v2(root, level, str(3 * GIB) if level == tight else "max", GIB)
    assert read_headroom(root).free_bytes == 2 * GIB


def test_page_cache_the_group_can_drop_is_not_use(root: Path) -> None:
    write(root / "proc/self/cgroup", "0::/a\n")
    group_v2(root, "/a", str(10 * GIB), 9 * GIB, inactive=6 * GIB)
    assert read_headroom(root).free_bytes == 7 * GIB


def test_groups_of_version_one_are_read_too(root: Path) -> None:
    write(root / "proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/docker/abc\n")
    group_v1(root, "/docker/abc", 8 * GIB, 7 * GIB, inactive=2 * GIB)
    room = read_headroom(root)
    assert (room.free_bytes, room.source) == (3 * GIB, "cgroup limit")


def test_unlimited_in_version_one_is_no_limit(root: Path) -> None:
    write(root / "proc/self/cgroup", "4:memory:/\n")
    group_v1(root, "/", 0x7FFFFFFFFFFFF000, 7 * GIB)
    assert read_headroom(root).source == "machine"


def test_a_group_over_its_limit_has_no_room_rather_than_a_negative_one(root: Path) -> None:
    write(root / "proc/self/cgroup", "0::/\n")
    group_v2(root, "/", str(GIB), 2 * GIB)
    assert read_headroom(root).free_bytes == 0


def test_a_group_that_is_not_mounted_here_is_no_limit(root: Path) -> None:
    write(root / "proc/self/cgroup", "0::/../outside\n4:memory:/gone\n")
    assert read_headroom(root).source == "machine"


def test_a_resource_limit_of_the_process_binds_too(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resource = pytest.importorskip("resource")
    import os

    page = os.sysconf("SC_PAGE_SIZE")
    write(root / "proc/self/statm", f"{GIB // page} 1 1 1 0 {GIB // 2 // page} 0\n")
    limits = {resource.RLIMIT_AS: 3 * GIB, resource.RLIMIT_DATA: resource.RLIM_INFINITY}
    monkeypatch.setattr(resource, "getrlimit", lambda which: (limits[which], -1))
    room = read_headroom(root)
    assert (room.free_bytes, room.total_bytes, room.source) == (2 * GIB, 3 * GIB, "RLIMIT_AS")


def test_this_machine_answers_something_believable() -> None:
    room = read_headroom()
    assert 0 <= room.free_bytes <= room.total_bytes
    assert room.source
