"""Overruns in a row in one real kernel: deaths, lost replies, what stays in the heap.

    python -m benchmarks.overruns [COUNT]      prints and writes results/overruns.json

Run from the repository's root on Linux.
"""

from __future__ import annotations

import json
import statistics
import sys
from dataclasses import asdict, dataclass, field
from itertools import cycle
from typing import Any

from benchmarks.machine import describe_machine, write_result
from tests.support.kernel import Kernel

# Four ways of growing, so that one allocator's habit does not decide the figure.
GROWTHS = [
    "held = []\nfor n in range(1300):\n    held.append(b'x' * 1_000_000)",
    "held = {}\nfor n in range(200_000):\n    held[n] = [float(n)] * 1000",
    "import numpy as np\nheld = []\nfor n in range(160):\n    held.append(np.ones(1_000_000))",
    "import numpy as np\nheld = np.ones(150_000_000)",
]
_FACTS = """
import gc as _gc, os as _os, sys as _sys, threading as _threading, json as _json
def h2q_facts():
    import psutil
    _gc.collect()
    heap = psutil.heap_info() if hasattr(psutil, 'heap_info') else None
    status = open('/proc/self/status').read()
    return [
        0 if heap is None else heap.heap_used + heap.mmap_used,
        _sys.getallocatedblocks(),
        int(status.split('RssAnon:')[1].split()[0]) * 1024,
        _threading.active_count(),
        len(_os.listdir('/proc/self/fd')),
    ]
"""
_FORGET = "from h2q_notebook.notebook import session as _s; _s.current().history.clear()"


@dataclass(frozen=True, slots=True)
class Trip:
    """The kernel after one overrun."""

    heap_bytes: int
    blocks: int
    rss_anon_bytes: int
    threads: int
    descriptors: int
    children: int
    peak_bytes: int
    """As the outcome says, relative to the start of the cell."""
    stop_latency_s: float | None


@dataclass(slots=True)
class Overruns:
    """All trips of one run."""

    count: int
    budget_mib: int
    dead: int = 0
    lost_replies: int = 0
    not_stopped: int = 0
    next_cell_failed: int = 0
    trips: list[Trip] = field(default_factory=list)
    bare_blocks_per_trip: float = 0.0
    """What IPython and these questions themselves leave with an ordinary cell instead."""


def run_overruns(count: int, budget_mib: int) -> Overruns:
    """Overrun *count* times; stops early only if the kernel is dead or silent."""
    result = Overruns(count, budget_mib)
    with Kernel(setup=_FACTS + "import numpy, psutil") as kernel:
        result.bare_blocks_per_trip = _bare_blocks_per_trip(kernel, count=40)
        for growth, _ in zip(cycle(GROWTHS), range(count), strict=False):
            reply = kernel.run(f"%%h2q_budget {budget_mib}MiB --no-gauge\n{growth}")
            result.dead += reply.status == "dead"
            result.lost_replies += reply.status == "lost"
            if not kernel.alive():
                break
            ended = reply.outcome is not None and reply.outcome["status"] in ("overrun", "refused")
            result.not_stopped += not (ended and reply.status == "error")
            following = kernel.run(
                "scratch = h2q_sentinel['kept'] == [1, 2, 3] and 'held' not in globals()"
            )
            # The history is kept on purpose (and bounded): it is not what a leak test looks for.
            kernel.run(_FORGET, silent=True)
            facts: list[Any] = kernel.value("[scratch, *h2q_facts()]")
            result.next_cell_failed += following.status != "ok" or facts[0] is not True
            outcome = reply.outcome or {"peak_bytes": 0, "stop_latency_s": None}
            result.trips.append(
                Trip(
                    *facts[1:],
                    children=len(kernel.children()),
                    peak_bytes=outcome["peak_bytes"],
                    stop_latency_s=outcome["stop_latency_s"],
                )
            )
    return result


def _bare_blocks_per_trip(kernel: Kernel, count: int) -> float:
    blocks = []
    for _ in range(count):
        kernel.run("held = 1")
        kernel.run("scratch = True")
        blocks.append(kernel.value("[scratch, *h2q_facts()]")[2])
    kernel.run("del held")
    return slope_per_hundred(blocks) / 100


def slope_per_hundred(values: list[int]) -> float:
    """Theil-Sen slope of *values*, per 100 steps: one outlier moves nothing."""
    slopes = [
        (later - earlier) / (j - i)
        for i, earlier in enumerate(values)
        for j, later in enumerate(values[i + 1 :], start=i + 1)
    ]
    return 100 * statistics.median(slopes)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    result = run_overruns(count, budget_mib=150)
    settled = result.trips[20:]
    over = [trip.peak_bytes / (result.budget_mib << 20) - 1 for trip in result.trips]
    stops = [t.stop_latency_s for t in result.trips if t.stop_latency_s is not None]
    figures = {
        **{key: value for key, value in asdict(result).items() if key.find("trip") < 0},
        "heap_slope_kib_per_100": round(slope_per_hundred([t.heap_bytes for t in settled]) / 1024),
        "blocks_slope_per_trip": slope_per_hundred([t.blocks for t in settled]) / 100,
        "bare_blocks_slope_per_trip": result.bare_blocks_per_trip,
        "rss_anon_change_mib": (settled[-1].rss_anon_bytes - settled[0].rss_anon_bytes) / 2**20,
        "overshoot_percent_p50": round(100 * statistics.median(over), 1),
        "overshoot_percent_max": round(100 * max(over), 1),
        "stop_latency_ms_p50": round(1000 * statistics.median(stops), 1) if stops else None,
        "stop_latency_ms_max": round(1000 * max(stops), 1) if stops else None,
        "machine": describe_machine(),
    }
    write_result("overruns", figures)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
