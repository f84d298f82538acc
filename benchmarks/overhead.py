"""What h2q costs while nothing is wrong: loading, an empty cell, watching, a busy cell.

    python -m benchmarks.overhead       prints and writes results/overhead.json

Every comparison is paired and alternates, because a shared machine drifts. Run from the
repository's root on Linux with an otherwise idle machine; about two minutes.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine, write_result
from tests.support.kernel import Kernel

GUARDED = "%%h2q_budget 400MiB --no-gauge"
_BUSY = """import time as _time
def _work(n):
    total = 0
    for i in range(n):
        total += i * i % 7
    return total
_start, _cpu = _time.perf_counter(), _time.thread_time()
_work(8_000_000)
h2q_seconds = [_time.perf_counter() - _start, _time.thread_time() - _cpu]"""
# Imports that any real notebook has already made are not h2q's cost; counted separately.
_LOAD = """import time as _t, os as _o
def _anon():
    text = open('/proc/self/status').read()
    return int(text.split('RssAnon:')[1].split()[0]) * 1024
def _uss():
    text = open('/proc/self/smaps_rollup').read()
    return sum(int(line.split()[1]) * 1024 for line in text.splitlines()
               if line.startswith('Private_'))
_before, _uss_before, _from = _anon(), _uss(), _t.perf_counter()
get_ipython().run_line_magic('load_ext', 'h2q')
_to = _t.perf_counter()
h2q_load = [_to - _from, _anon() - _before, _uss() - _uss_before,
            'torch' in h2q_sys.modules, 'plotly' in h2q_sys.modules]"""


def measure_load(rounds: int) -> dict[str, Any]:
    """``%load_ext h2q`` in fresh kernels: seconds and memory of the kernel process."""
    rows = []
    for _ in range(rounds):
        with Kernel(load=False) as kernel:
            kernel.run(_LOAD, timeout=60)
            rows.append(kernel.value("h2q_load"))
    seconds, anon, uss = ([row[i] for row in rows] for i in range(3))
    return {
        "rounds": rounds,
        "seconds_median": round(statistics.median(seconds), 4),
        "seconds_max": round(max(seconds), 4),
        "rss_anon_mb_median": round(statistics.median(anon) / 1e6, 2),
        "uss_mb_median": round(statistics.median(uss) / 1e6, 2),
        "torch_imported": any(row[3] for row in rows),
        "plotly_imported": any(row[4] for row in rows),
    }


def measure_empty_cell(kernel: Kernel, pairs: int) -> dict[str, Any]:
    """Round trips of a bare and a guarded cell that does nothing, alternating."""
    bare, guarded = [], []
    for _ in range(pairs):
        bare.append(kernel.run("pass").wall_s * 1000)
        guarded.append(kernel.run(f"{GUARDED}\npass").wall_s * 1000)
    extra = [g - b for b, g in zip(bare, guarded, strict=True)]
    return {
        "pairs": pairs,
        "bare_ms_median": round(statistics.median(bare), 2),
        "guarded_ms_median": round(statistics.median(guarded), 2),
        "extra_ms_median": round(statistics.median(extra), 2),
        "extra_ms_quartiles": [round(q, 2) for q in statistics.quantiles(extra, n=4)],
    }


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rss_bytes(pid: int, field: str) -> int:
    return int(Path(f"/proc/{pid}/status").read_text().split(f"{field}:")[1].split()[0]) * 1024


def measure_watcher(kernel: Kernel, seconds: int) -> dict[str, Any]:
    """CPU and memory of the child process while a guarded cell is busy."""
    (sidecar,) = kernel.children()
    code = f"import time\nend = time.time() + {seconds}\nwhile time.time() < end:\n    pass"
    started, before = time.monotonic(), _cpu_seconds(sidecar)
    reply = kernel.run(f"{GUARDED}\n{code}", timeout=seconds + 30)
    used, lasted = _cpu_seconds(sidecar) - before, time.monotonic() - started
    return {
        "status": reply.status,
        "busy_s": round(lasted, 1),
        "cpu_percent_of_a_core": round(100 * used / lasted, 2),
        "rss_mb": round(_rss_bytes(sidecar, "VmRSS") / 1e6, 1),
        "rss_anon_mb": round(_rss_bytes(sidecar, "RssAnon") / 1e6, 1),
    }


def measure_busy_cell(kernel: Kernel, pairs: int) -> dict[str, Any]:
    """A CPU-bound cell, bare and guarded in ABBA order: change of wall and of its own CPU time."""

    def seconds(guarded: bool) -> list[float]:
        kernel.run(f"{GUARDED}\n{_BUSY}" if guarded else _BUSY, timeout=120)
        value: list[float] = kernel.value("h2q_seconds")
        return value

    wall, cpu = [], []
    for number in range(pairs):
        order = [False, True] if number % 2 == 0 else [True, False]
        measured = {guarded: seconds(guarded) for guarded in order}
        wall.append(100 * (measured[True][0] / measured[False][0] - 1))
        cpu.append(100 * (measured[True][1] / measured[False][1] - 1))
    return {
        "pairs": pairs,
        "wall_percent_median": round(statistics.median(wall), 2),
        "wall_percent_quartiles": [round(q, 2) for q in statistics.quantiles(wall, n=4)],
        "cpu_percent_median": round(statistics.median(cpu), 2),
        "cpu_percent_quartiles": [round(q, 2) for q in statistics.quantiles(cpu, n=4)],
    }


def main() -> None:
    figures: dict[str, Any] = {"load_ext": measure_load(rounds=7)}
    with Kernel() as kernel:
        kernel.run(f"{GUARDED}\npass")
        figures["empty_cell"] = measure_empty_cell(kernel, pairs=60)
        figures["watcher"] = measure_watcher(kernel, seconds=10)
        figures["busy_cell"] = measure_busy_cell(kernel, pairs=14)
    figures["machine"] = describe_machine()
    write_result("overhead", figures)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
