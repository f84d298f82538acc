"""A load by h2q beside transformers' own: memory at its peak, and time until the first answer.

    python -m benchmarks.loading [--work DIR] [--rounds 5] [KIND ...]

prints and writes results/loading.json. Every load is in a fresh process with torch and transformers
imported; the two take turns, because a shared machine drifts. Time ends after the first forward
pass, so that weights which are only mapped count when they are read. Memory is read from outside
every 2 ms, in runs of its own. All is measured with the files in the page cache.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine, write_result
from benchmarks.models import build

CASES: dict[str, tuple[str, str]] = {
    "dense (Qwen2, tied, 4 shards)": ("dense", "bf16"),
    "fp32 checkpoint as bf16": ("dense_fp32", "bf16"),
    "DeepSeek-V2": ("v2", "bf16"),
    "DeepSeek-V3": ("v3", "bf16"),
    "DeepSeek-V3.2": ("v32", "bf16"),
}
_CHILD = """
import json, sys, time
how, where, dtype = sys.argv[1:4]
import torch, transformers, transformers.modeling_utils
from transformers import AutoModelForCausalLM
from h2q_notebook.load.loader import MemorySafeModelLoader
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
kinds = {"bf16": torch.bfloat16, "fp32": torch.float32}
ids = torch.arange(16).unsqueeze(0)
print("ready", flush=True)
sys.stdin.readline()
began = time.perf_counter()
if how == "transformers":
    model = AutoModelForCausalLM.from_pretrained(where, dtype=kinds[dtype])
else:
    step = "mapped" if how == "h2q mapped" else "full"
    outcome = MemorySafeModelLoader().load(where, budget_bytes=8 << 30, dtype=dtype, ladder=(step,))
    model = outcome.model
loaded = time.perf_counter()
print("loaded", flush=True)
sys.stdin.readline()
again = time.perf_counter()
with torch.no_grad():
    model(input_ids=ids, use_cache=False)
ended = time.perf_counter()
own = sum(p.nbytes for p in {id(p): p for p in model.parameters()}.values())
print(json.dumps({"load_s": loaded - began, "first_s": loaded - began + ended - again, "own": own}))
sys.stdout.flush()
sys.stdin.readline()
"""
_WAYS = ("transformers", "h2q", "h2q mapped")


class Child:
    """One load in a process of its own."""

    def __init__(self, *arguments: str, script: str = _CHILD, limit_bytes: int = 0) -> None:
        limit = ["prlimit", f"--as={limit_bytes}"] if limit_bytes else []
        self._process = subprocess.Popen(
            [*limit, sys.executable, "-c", script, *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip

    def read(self) -> str:
        """Its next line."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the load ended with {self._process.wait()}")
        return line

    def go_on(self) -> None:
        """Let it take its next step."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def memory(self) -> tuple[int, int]:
        """Anonymous bytes, and all bytes."""
        text = Path(f"/proc/{self._process.pid}/status").read_text()
        fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        anon, file = (int(fields[name].split()[0]) << 10 for name in ("RssAnon", "RssFile"))
        return anon, anon + file

    def close(self) -> None:
        """Let it end."""
        self.go_on()
        self._process.wait(30)


def timed(how: str, where: Path, dtype: str) -> dict[str, Any]:
    child = Child(how, str(where), dtype)
    for _ in ("ready", "loaded"):
        child.read()
        child.go_on()
    result: dict[str, Any] = json.loads(child.read())
    child.close()
    return result


def weighed(how: str, where: Path, dtype: str) -> dict[str, int]:
    """Bytes beyond the imports: at the peak of the load, after it, after the first forward."""
    import threading

    child = Child(how, str(where), dtype)
    child.read()
    base = child.memory()
    peaks = [0, 0]
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            for at, now in enumerate(child.memory()):
                peaks[at] = max(peaks[at], now - base[at])
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    child.go_on()
    child.read()
    over.set()
    watcher.join()
    after = child.memory()
    child.go_on()
    own = json.loads(child.read())["own"]
    forward = child.memory()
    child.close()
    return {
        "own_bytes": own,
        "peak_anon_bytes": peaks[0],
        "peak_bytes": peaks[1],
        "resident_anon_bytes": after[0] - base[0],
        "after_forward_bytes": forward[1] - base[1],
    }


def measure(kind: str, dtype: str, where: Path, rounds: int) -> dict[str, Any]:
    folder = build(kind, where)
    for way in _WAYS:
        timed(way, folder, dtype)  # the page cache, and h2q's converted form
    seconds: dict[str, list[float]] = {way: [] for way in _WAYS}
    for _ in range(rounds):
        for way in _WAYS:
            seconds[way].append(timed(way, folder, dtype)["first_s"])
    result: dict[str, Any] = {"kind": kind, "dtype": dtype}
    for way in _WAYS:
        memory = weighed(way, folder, dtype)
        ratios = [
            mine / theirs for mine, theirs in zip(seconds[way], seconds[_WAYS[0]], strict=True)
        ]
        result[way] = memory | {
            "peak_over_resident": round(
                memory["peak_anon_bytes"] / max(memory["resident_anon_bytes"], 1), 3
            ),
            "peak_over_model": round(memory["peak_bytes"] / memory["own_bytes"], 3),
            "first_answer_s": [round(one, 2) for one in seconds[way]],
            "first_answer_median_s": round(statistics.median(seconds[way]), 2),
            "time_of_transformers": round(statistics.median(ratios), 2),
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("kinds", nargs="*")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        where = given.work or Path(scratch)
        results = {}
        for label, (kind, dtype) in CASES.items():
            if given.kinds and kind not in given.kinds:
                continue
            results[label] = measure(kind, dtype, where, given.rounds)
            for way in _WAYS:
                one = results[label][way]
                print(
                    f"{label:32} {way:13} peak/resident {one['peak_over_resident']:6} "
                    f"peak/model {one['peak_over_model']:6} first answer "
                    f"{one['first_answer_median_s']:5} s = {one['time_of_transformers']}x",
                    flush=True,
                )
    if not given.kinds:
        write_result("loading", {"machine": describe_machine(), "cases": results})


if __name__ == "__main__":
    main()
