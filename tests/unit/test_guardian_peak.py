"""There is one high-water mark for the process; whoever resets it takes it from nobody."""

from __future__ import annotations

from h2q_notebook.guardian import peak as room
from h2q_notebook.guardian.peak import PeakMark, peak_above
from h2q_notebook.readings.process import ProcessMemory, read_process
from h2q_notebook.units import MIB


def memory(anon: int, file: int = 0, peak: int = 0) -> ProcessMemory:
    return ProcessMemory(anon * MIB, 0, file * MIB, 0, 0, peak * MIB)


def grow(n_mib: int) -> None:
    block = bytearray(n_mib * MIB)
    block[::4096] = b"x" * len(block[::4096])
    del block


def test_an_inner_mark_leaves_the_outer_ones_peak_alone() -> None:
    outer, base = PeakMark(), read_process()
    grow(80)
    inner = PeakMark()  # a case within a guarded cell resets the system's mark
    grow(20)
    end = read_process()
    inner_peak, outer_peak = inner.close(end.peak_rss_bytes), outer.close(end.peak_rss_bytes)
    assert inner_peak - base.rss_bytes < 60 * MIB
    # The kernel counts pages per processor and adds them up a little late.
    assert outer_peak - base.rss_bytes >= 78 * MIB


def test_a_mark_that_is_dropped_is_forgotten() -> None:
    mark = PeakMark()
    assert mark in room._open
    del mark
    assert not list(room._open)


def test_a_peak_is_exact_only_where_no_file_pages_came_in() -> None:
    assert peak_above(memory(10), memory(12, peak=40), 0) == (30 * MIB, True)
    assert peak_above(memory(10), memory(12, file=5, peak=40), 7 * MIB) == (7 * MIB, False)
    assert peak_above(memory(10), memory(12), 0) == (2 * MIB, False)
