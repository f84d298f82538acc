"""Is the machine short of memory? Stalls (PSI) and pages going to and from swap.

Covers reading. On systems without pressure stall information or /proc it says nothing, which is not
"none".

Sources: Documentation/accounting/psi.rst and proc(5) (pswpin, pswpout are pages).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Pressure", "PressureMeter", "SwapRate", "read_pressure", "swap_rate"]

_WINDOW_S = 1.0
"""Rates over less are noise."""


@dataclass(frozen=True, slots=True)
class Pressure:
    """One reading."""

    some_share: float | None
    """Share of the last 10 s in which some task waited for memory, 0.0 to 1.0; None: unknown."""
    full_share: float | None
    """Share in which all of them did."""
    swapped_in_bytes: int | None
    """Since the machine was started."""
    swapped_out_bytes: int | None


@dataclass(frozen=True, slots=True)
class SwapRate:
    """Between two readings."""

    in_bytes_per_s: float
    out_bytes_per_s: float


def read_pressure(root: Path = Path("/")) -> Pressure:
    """Read once (about 0.1 ms).

    Args:
        root: where ``proc`` is; tests pass a made-up tree.
    """
    some, full = _stalls(root / "proc/pressure/memory")
    swapped_in, swapped_out = _swapped(root / "proc/vmstat")
    return Pressure(some, full, swapped_in, swapped_out)


def _stalls(path: Path) -> tuple[float | None, float | None]:
    """``some avg10=1.50 avg60=...``: percent."""
    try:
        lines = path.read_text().splitlines()
        found = {
            line.split()[0]: float(line.split()[1].removeprefix("avg10=")) / 100 for line in lines
        }
    except (OSError, ValueError, IndexError):
        return None, None
    return found.get("some"), found.get("full")


def _swapped(path: Path) -> tuple[int | None, int | None]:
    try:
        fields = dict(line.split() for line in path.read_text().splitlines())
        page_bytes = os.sysconf("SC_PAGE_SIZE")
        return int(fields["pswpin"]) * page_bytes, int(fields["pswpout"]) * page_bytes
    except (OSError, ValueError, KeyError):
        return None, None


def swap_rate(before: Pressure, after: Pressure, took_s: float) -> SwapRate | None:
    """How fast pages went to and from swap; None where that is not known."""
    if took_s <= 0 or before.swapped_in_bytes is None or after.swapped_in_bytes is None:
        return None
    assert before.swapped_out_bytes is not None
    assert after.swapped_out_bytes is not None
    return SwapRate(
        max(after.swapped_in_bytes - before.swapped_in_bytes, 0) / took_s,
        max(after.swapped_out_bytes - before.swapped_out_bytes, 0) / took_s,
    )


class PressureMeter:
    """Reads now and again, and so knows rates. Any thread may ask.

    Args:
        read: reads once.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        read: Callable[[], Pressure] = read_pressure,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._clock = clock
        self._lock = threading.Lock()
        self._at_s = clock()
        self._last = read()
        self._rate: SwapRate | None = None

    def look(self) -> tuple[Pressure, SwapRate | None]:
        """The last reading, at most a second old, and the rate up to it (None: not known yet)."""
        with self._lock:
            now_s = self._clock()
            if now_s - self._at_s >= _WINDOW_S:
                fresh = self._read()
                self._rate = swap_rate(self._last, fresh, now_s - self._at_s)
                self._last, self._at_s = fresh, now_s
            return self._last, self._rate
