"""What h2q as a whole costs: loading it, resting, starting a model, and one look at the status.

    python -m benchmarks.system_costs

Real kernels, each figure the median of five. Writes results/system_costs.json.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine, write_result
from tests.support.kernel import Kernel

_ROUNDS = 5
_REST_S = 20
_TIMED = "import time; _t = time.perf_counter(); {code}; _t = time.perf_counter() - _t"


def _timed(kernel: Kernel, code: str) -> float:
    reply = kernel.run(_TIMED.format(code=code), timeout=120)
    if reply.status != "ok":
        raise RuntimeError(reply.shown)
    return float(kernel.value("_t"))


def _magic(name: str, line: str) -> str:
    return f"get_ipython().run_line_magic({name!r}, {line!r})"


def load_ext() -> tuple[float, float]:
    """Seconds, and MiB the kernel and its watcher hold more."""
    with Kernel(load=False) as kernel:
        kernel.run("1")
        before = kernel.used_bytes()
        took_s = _timed(kernel, _magic("load_ext", "h2q"))
        kernel.run("1")
        return took_s, (kernel.used_bytes() - before) / 2**20


def rest() -> float:
    """Share of one processor that kernel and watcher take while nothing runs, above a bare one."""

    def spent(kernel: Kernel) -> float:
        pids = [kernel.pid, *kernel.children()]
        ticks = 0
        for pid in pids:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / 100

    def share(load: bool) -> float:
        with Kernel(load=load) as kernel:
            kernel.run("1")
            time.sleep(1)
            began, before = time.monotonic(), spent(kernel)
            time.sleep(_REST_S)
            return (spent(kernel) - before) / (time.monotonic() - began)

    return share(True) - share(False)


def startup() -> float:
    """Seconds of %h2q_start with the embedded model, torch imported."""
    with Kernel() as kernel:
        kernel.run("import torch", timeout=60)
        return _timed(kernel, _magic("h2q_start", "h2q://tiny-deepseek"))


def status() -> float:
    """Seconds of %h2q_status with 10 000 names, a tenth of them arrays."""
    with Kernel() as kernel:
        kernel.run("import numpy as np")
        kernel.run(
            "for i in range(10_000): globals()[f'n{i}'] = np.ones(1000) if i % 10 == 0 else [i] * 9"
        )
        kernel.run("%h2q_status")
        return _timed(kernel, _magic("h2q_status", ""))


def main() -> None:
    loads = [load_ext() for _ in range(_ROUNDS)]
    result: dict[str, Any] = {
        "load_ext_s": round(statistics.median(one for one, _ in loads), 3),
        "load_ext_mib": round(statistics.median(one for _, one in loads), 1),
        "rest_share_of_a_core": round(rest(), 4),
        "startup_s": round(statistics.median(startup() for _ in range(_ROUNDS)), 2),
        "status_s": round(statistics.median(status() for _ in range(_ROUNDS)), 4),
    }
    print(result)
    write_result("system_costs", {"machine": describe_machine(), **result})


if __name__ == "__main__":
    main()
