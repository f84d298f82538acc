"""A hundred overruns in a row in one kernel: no death, no lost reply, the heap comes back."""

from __future__ import annotations

import pytest

from benchmarks.overruns import run_overruns, slope_per_hundred


@pytest.mark.timeout(300)
def test_a_hundred_overruns_leave_the_kernel_as_it_was() -> None:
    result = run_overruns(count=100, budget_mib=150)
    assert result.dead == 0
    assert result.lost_replies == 0
    assert result.not_stopped == 0
    assert result.next_cell_failed == 0
    settled = result.trips[20:]
    # A full heap costs 150 MiB a trip: half a megabyte in a hundred is nothing left behind.
    assert slope_per_hundred([trip.heap_bytes for trip in settled]) <= 512 * 1024
    blocks = slope_per_hundred([trip.blocks for trip in settled]) / 100
    assert blocks - result.bare_blocks_per_trip <= 30
    assert settled[-1].rss_anon_bytes - settled[0].rss_anon_bytes <= 40 << 20
    first, last = result.trips[0], result.trips[-1]
    assert (last.threads, last.children, last.descriptors) == (
        first.threads,
        first.children,
        first.descriptors,
    )
