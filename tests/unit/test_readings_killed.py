"""Counters of the out-of-memory killer are found in every layout of control groups."""

from __future__ import annotations

from pathlib import Path

from h2q_notebook.readings.killed import MemoryGroup, address_space, group_of, read_kills


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


MACHINE = {
    "proc/meminfo": "MemTotal: 1000 kB\nMemAvailable: 400 kB\n",
    "proc/vmstat": "pgfault 9\noom_kill 7\n",
}


def test_cgroup_v2_counts_in_the_own_group_and_limits_above(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        MACHINE
        | {
            "proc/5/cgroup": "0::/pod/kernel\n",
            "sys/fs/cgroup/pod/memory.max": "4096\n",
            "sys/fs/cgroup/pod/memory.current": "3000\n",
            "sys/fs/cgroup/pod/memory.peak": "4090\n",
            "sys/fs/cgroup/pod/kernel/memory.max": "max\n",
            "sys/fs/cgroup/pod/kernel/memory.events": "low 0\noom 2\noom_kill 3\n",
        },
    )
    group = group_of(5, root)
    assert group is not None
    found = read_kills(group, root)
    assert (found.kills, found.limit_bytes, found.used_bytes, found.peak_bytes) == (
        3, 4096, 3000, 4090,
    )  # fmt: skip
    assert found.source == "cgroup limit"


def test_cgroup_v1_counts_in_oom_control(tmp_path: Path) -> None:
    base = "sys/fs/cgroup/memory/box"
    root = tree(
        tmp_path,
        MACHINE
        | {
            "proc/5/cgroup": "4:memory:/box\n0::/\n",
            f"{base}/memory.limit_in_bytes": "2048\n",
            f"{base}/memory.usage_in_bytes": "1024\n",
            f"{base}/memory.max_usage_in_bytes": "2048\n",
            f"{base}/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        },
    )
    group = group_of(5, root)
    assert group is not None
    found = read_kills(group, root)
    assert (found.kills, found.limit_bytes, found.peak_bytes) == (1, 2048, 2048)


def test_without_a_group_the_machines_own_counter_is_read(tmp_path: Path) -> None:
    root = tree(tmp_path, MACHINE | {"proc/5/cgroup": "0::/\n"})
    group = group_of(5, root)
    assert group == MemoryGroup(None, None)
    found = read_kills(group, root)
    assert (found.kills, found.limit_bytes, found.used_bytes) == (7, 1000 * 1024, 600 * 1024)
    assert found.source == "machine"


def test_where_nothing_is_counted_nothing_is_claimed(tmp_path: Path) -> None:
    assert group_of(5, tmp_path) is None
    assert read_kills(MemoryGroup(None, None), tmp_path).kills is None
    gone = MemoryGroup(tmp_path / "gone", tmp_path / "gone")
    assert read_kills(gone, tmp_path).limit_bytes is None


def test_the_limit_of_the_address_space_is_read_with_its_peak(tmp_path: Path) -> None:
    head = "Limit  Soft Limit  Hard Limit  Units\n"
    root = tree(
        tmp_path,
        {
            "proc/5/limits": head + "Max address space         8192  8192  bytes\n",
            "proc/5/status": "Name:\tpython\nVmPeak:\t       4 kB\n",
            "proc/6/limits": head + "Max address space         unlimited  unlimited  bytes\n",
        },
    )
    found = address_space(5, root)
    assert found is not None
    assert (found.used_bytes, found.limit_bytes) == (4096, 8192)
    assert address_space(6, root) is None
    assert address_space(7, root) is None
