"""The largest use of a cell, exact where the system can say it.

Covers VmHWM: resetting it before a cell and judging it afterwards.
"""

from __future__ import annotations

import os

from h2q_notebook.readings.process import ProcessMemory
from h2q_notebook.units import MIB

__all__ = ["peak_above", "reset_high_water_mark"]

_EXACT_FILE_GROWTH_BYTES = 2 * MIB


def peak_above(base: ProcessMemory, end: ProcessMemory, sampled: int) -> tuple[int, bool]:
    """The largest use above the baseline, and whether it is exact.

    VmHWM misses nothing but counts file pages too; it is exact for use only if hardly any file
    pages came in. Children and unmapped shared memory are in the samples alone.
    """
    sampled = max(sampled, end.used_bytes - base.used_bytes, 0)
    if not end.peak_rss_bytes or end.file_bytes - base.file_bytes > _EXACT_FILE_GROWTH_BYTES:
        return sampled, False
    marked = end.peak_rss_bytes - base.rss_bytes
    return (marked, True) if marked >= sampled else (sampled, False)


def reset_high_water_mark() -> None:
    """Make VmHWM start anew (0.08 ms; see clear_refs in proc(5)); exact peaks need no sampling."""
    try:
        fd = os.open("/proc/self/clear_refs", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        os.write(fd, b"5")
    except OSError:
        pass
    finally:
        os.close(fd)
