"""How soon the embedded model is there, and adds, on a machine without network.

    python -m benchmarks.tiny_load

in fresh processes: once torch is imported, the time until ``h2q.load`` has returned and a sum has
been written; and the same once transformers' modelling code is imported too. Writes
results/tiny_load.json.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from typing import Any

from benchmarks.machine import describe_machine, write_result

_CHILD = """
import json, sys, time
import torch
if sys.argv[1] == "transformers":
    import transformers.modeling_utils
    import transformers.models.deepseek_v3.modeling_deepseek_v3
began = time.perf_counter()
import h2q
kept = h2q.load("h2q://tiny-deepseek", budget="500MiB")
loaded = time.perf_counter()
asked = kept.tokenizer.apply_chat_template(
    [{"role": "user", "content": "What is 58 + 67?"}],
    add_generation_prompt=True, return_tensors="pt", return_dict=True,
)
said = kept.tokenizer.decode(kept.model.generate(**asked)[0])
print(json.dumps([loaded - began, time.perf_counter() - began, "Answer: 125" in said]))
"""


def measure(imported: str, rounds: int = 5) -> dict[str, Any]:
    """Medians of fresh processes."""
    rows = []
    for _ in range(rounds + 1):
        command = ["unshare", "-rn", sys.executable, "-c", _CHILD, imported]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    rows = rows[1:]  # the first one reads the libraries from disk
    return {
        "imported": imported,
        "loaded_s": [round(row[0], 2) for row in rows],
        "loaded_median_s": round(statistics.median(row[0] for row in rows), 2),
        "answered_median_s": round(statistics.median(row[1] for row in rows), 2),
        "right": sum(row[2] for row in rows),
    }


def main() -> None:
    rows = [measure(imported) for imported in ("torch", "transformers")]
    for row in rows:
        print(row)
    write_result("tiny_load", {"machine": describe_machine(), "rows": rows})


if __name__ == "__main__":
    main()
