"""What a process holds: anonymous, shared and swapped memory count, file pages do not."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest

from h2q_notebook.readings import process
from h2q_notebook.readings.process import ProcessMemory, ProcessReader, read_process

MIB = 1 << 20

needs_proc = pytest.mark.skipif(not process.PROC_AVAILABLE, reason="this system has no /proc")


@needs_proc
def test_memory_that_is_written_counts_at_once() -> None:
    reader = ProcessReader()
    before = reader.used_bytes()
    held = bytearray(b"x") * (64 * MIB)
    grown = reader.used_bytes() - before
    reader.close()
    assert len(held) == 64 * MIB
    assert 60 * MIB <= grown <= 80 * MIB


@needs_proc
def test_a_mapped_file_that_is_read_is_shown_apart_and_is_not_use(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"w" * (64 * MIB))
    reader = ProcessReader()
    before = reader.read()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        total = sum(mapped[i] for i in range(0, len(mapped), mmap.PAGESIZE))
        after = reader.read()
    reader.close()
    assert total > 0
    assert after.used_bytes - before.used_bytes < 16 * MIB
    assert after.rss_bytes - before.rss_bytes > 40 * MIB


@needs_proc
def test_another_process_can_be_read_until_it_is_gone() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", "print('up', flush=True); input()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    with child:
        assert child.stdout is not None
        child.stdout.readline()
        assert read_process(child.pid).used_bytes > MIB
        child.communicate(b"\n")
    with pytest.raises(ProcessLookupError if os.name == "nt" else OSError):
        read_process(child.pid)


def test_use_is_anonymous_and_shared_and_swapped_memory() -> None:
    memory = ProcessMemory(
        anon_bytes=1, shmem_bytes=2, file_bytes=400, swap_bytes=8, data_bytes=0, peak_rss_bytes=0
    )
    assert memory.used_bytes == 11
    assert memory.rss_bytes == 403


@needs_proc
def test_a_closed_reader_gives_its_descriptors_back() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        ProcessReader().close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_without_proc_psutil_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "PROC_AVAILABLE", False)
    assert read_process().used_bytes > MIB
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    with pytest.raises(ProcessLookupError):
        read_process(child.pid)
