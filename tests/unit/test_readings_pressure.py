"""Stalls and swap are read as the system writes them; what it does not say is not nought."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from h2q_notebook.readings.pressure import (
    Pressure,
    PressureMeter,
    SwapRate,
    read_pressure,
    swap_rate,
)
from h2q_notebook.views.pressure import alarm, words

PAGE = os.sysconf("SC_PAGE_SIZE")


def test_stalls_and_swapped_pages_are_read(tmp_path: Path) -> None:
    (tmp_path / "proc/pressure").mkdir(parents=True)
    (tmp_path / "proc/pressure/memory").write_text(
        "some avg10=12.50 avg60=3.00 avg300=1.00 total=1\n"
        "full avg10=2.00 avg60=0.00 avg300=0.00 total=1\n"
    )
    (tmp_path / "proc/vmstat").write_text("nr_free_pages 5\npswpin 3\npswpout 7\n")
    assert read_pressure(tmp_path) == Pressure(0.125, 0.02, 3 * PAGE, 7 * PAGE)


@pytest.mark.parametrize("text", ["", "some\n", "some avg10=x\n"])
def test_what_is_not_said_is_unknown(text: str, tmp_path: Path) -> None:
    (tmp_path / "proc/pressure").mkdir(parents=True)
    (tmp_path / "proc/pressure/memory").write_text(text)
    found = read_pressure(tmp_path)
    assert found.full_share is None
    assert found.swapped_in_bytes is None


def test_a_rate_is_between_two_readings() -> None:
    before, after = Pressure(None, None, 100, 50), Pressure(None, None, 300, 50)
    assert swap_rate(before, after, 2.0) == SwapRate(100.0, 0.0)
    assert swap_rate(before, after, 0.0) is None
    assert swap_rate(Pressure(None, None, None, None), after, 1.0) is None


def test_this_machine_can_be_read() -> None:
    found = read_pressure()
    assert found.some_share is None or 0 <= found.some_share <= 1


def test_the_meter_reads_at_most_once_a_second_and_knows_the_rate() -> None:
    now_s, swapped = [0.0], [0]

    def read() -> Pressure:
        swapped[0] += 10 << 20
        return Pressure(0.0, 0.0, swapped[0], 2 * swapped[0])

    meter = PressureMeter(read, lambda: now_s[0])
    assert meter.look()[1] is None
    now_s[0] = 0.9
    assert meter.look()[1] is None
    now_s[0] = 2.0
    for _ in range(3):
        found, rate = meter.look()
        assert rate is not None
        assert (rate.in_bytes_per_s, rate.out_bytes_per_s) == (5 << 20, 10 << 20)
        assert found.swapped_in_bytes == 20 << 20


def test_words_say_what_is_known_and_a_gauge_speaks_up_only_when_it_is_short() -> None:
    assert words(None, None, None, None) == ""
    assert words(0.5, 0.25, 0.0, 2 << 20) == (
        "some task waited 50% of the last 10 s, all 25%; swap: 0 MiB/s in, 2.0 MiB/s out"
    )
    assert alarm(0.0, 0.0, 1000.0) == ""
    assert alarm(None, None, None) == ""
    assert alarm(0.0, 0.0, 12 << 20) == "swapping 12 MiB/s"
    assert alarm(0.3, 0.0, 0.0) == "machine stalled 30%"
