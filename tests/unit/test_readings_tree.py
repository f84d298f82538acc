"""Children are found, forked pages are counted once, unmapped shared memory is seen."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from h2q_notebook.readings.process import PROC_AVAILABLE, read_process
from h2q_notebook.readings.tree import (
    command_of,
    descendants,
    private_tree_bytes,
    unmapped_shared_bytes,
)

MIB = 1 << 20
pytestmark = pytest.mark.skipif(not PROC_AVAILABLE, reason="this system has no /proc")

CHILD = """
import subprocess, sys
depth = int(sys.argv[1])
held = bytearray(b'x') * (int(sys.argv[2]) << 20)
inner = None
if depth:
    inner = subprocess.Popen([sys.executable, '-c', open(sys.argv[3]).read(), str(depth - 1),
                              sys.argv[2], sys.argv[3]], stdout=subprocess.PIPE,
                             stdin=subprocess.PIPE)
    inner.stdout.readline()
print('up', flush=True)
sys.stdin.readline()
if inner is not None:
    inner.communicate(b'\\n')
"""


@pytest.fixture
def family(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A child that holds 32 MiB and has a child that holds as much."""
    script = tmp_path_factory.mktemp("family") / "child.py"
    script.write_text(CHILD)
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, "1", "32", str(script)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    with child:
        assert child.stdout is not None
        child.stdout.readline()
        yield child.pid
        child.communicate(b"\n")


def test_grandchildren_are_found_and_can_be_left_out(family: int) -> None:
    found = descendants(os.getpid())
    assert family in found
    assert len(descendants(family)) == 1
    rest = descendants(os.getpid(), without=frozenset({family}))
    assert set(rest).isdisjoint({family, *descendants(family)})


def test_what_children_hold_is_counted(family: int) -> None:
    own = read_process().used_bytes
    extra = private_tree_bytes(os.getpid(), [family, *descendants(family)], own)
    assert extra > 60 * MIB
    assert private_tree_bytes(os.getpid(), [], own) == 0


def test_pages_shared_by_a_fork_are_counted_once() -> None:
    code = """
import os, sys
from h2q_notebook.readings.process import read_process
from h2q_notebook.readings.tree import private_tree_bytes
held = bytearray(b'x') * (128 << 20)
wake, ready = os.pipe(), os.pipe()
child = os.fork()
if not child:
    os.write(ready[1], b'1'); os.read(wake[0], 1); os._exit(0)
os.read(ready[0], 1)
print(private_tree_bytes(os.getpid(), [child], read_process().used_bytes) >> 20)
os.write(wake[1], b'1'); os.waitpid(child, 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert int(done.stdout) < 16


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="this system has no memfd")
def test_a_memfd_that_is_written_and_not_mapped_is_seen() -> None:
    before = unmapped_shared_bytes(os.getpid())
    fd = os.memfd_create("test")
    try:
        os.write(fd, b"x" * (8 * MIB))
        assert unmapped_shared_bytes(os.getpid()) - before >= 8 * MIB
        twin = os.dup(fd)  # the same file twice is not twice the memory
        try:
            assert unmapped_shared_bytes(os.getpid()) - before < 12 * MIB
        finally:
            os.close(twin)
    finally:
        os.close(fd)
    assert unmapped_shared_bytes(os.getpid()) == before


def test_what_is_gone_holds_nothing() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert descendants(child.pid) == []
    assert unmapped_shared_bytes(child.pid) == 0
    assert command_of(child.pid) == ""
    assert sys.executable.rsplit("/", 1)[-1][:6] in command_of(os.getpid())
