"""What the bench costs the model it measures: tokens/s bare and benched, in turns.

    python -m benchmarks.bench_overhead

In a real kernel with the live table shown, one prompt is answered by a bare `model.generate` and by
a run of one case (streamer, clocks, memory probes, display, storing), in alternating pairs with the
same number of tokens. Writes results/bench_overhead.json.
"""

from __future__ import annotations

import os
import statistics
from typing import Any

from benchmarks.machine import describe_machine, write_result
from tests.support.kernel import Kernel

_PAIRS = 15
_MODELS = {"h2q://smollm2": 64, "h2q://tiny-deepseek": 30}
_SETUP = """
import os, tempfile, time, torch
os.environ["H2Q_DATA_DIR"] = tempfile.mkdtemp()
from IPython import get_ipython
from pathlib import Path
from h2q_notebook.bench.generation import ModelGenerator, Sampling, use_threads
from h2q_notebook.bench.run import run_cases
from h2q_notebook.bench.store import RunStore
from h2q_notebook.bench.suite import parse_suite
from h2q_notebook.notebook.gauges import front_end
from h2q_notebook.views.bench_live import BenchLive
from transformers import GenerationConfig
suite = parse_suite({"name": "one", "version": "1", "max_new_tokens": N, "case": [
    {"id": "a", "category": "c", "prompt": "What is 17 + 25?", "grader": "number",
     "expected": 42}]}, "one")
sampling = Sampling()
generator = ModelGenerator(model, tokenizer, sampling)
generator._ends, model.generation_config.eos_token_id = set(), None  # exactly N tokens
config = generator._config(N)
ids = tokenizer(generator.render("What is 17 + 25?", None), return_tensors="pt",
                add_special_tokens=False)["input_ids"]
store = RunStore(Path(os.environ["H2Q_DATA_DIR"]))
kind = front_end(get_ipython())
def bare():
    began = time.perf_counter()
    with torch.inference_mode():
        model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)
    return time.perf_counter() - began
def benched():
    writer = store.create({"suite": {}, "sampling": {}, "model": {}})
    live = BenchLive(kind, "one")
    kept = []
    def keep(result):
        writer.add(result)
        kept.append(result)
    began = time.perf_counter()
    run_cases(suite, sampling, generator, keep, tell=live)
    took = time.perf_counter() - began
    live.close()
    assert kept[0].new_tokens == N, kept[0]
    return took - kept[0].grade_s
def pairs(n):
    found = []
    with use_threads(1):
        bare(), benched()
        for at in range(n):
            one = [bare(), benched()] if at % 2 else [benched(), bare()][::-1]
            found.append(one)
    return found
"""


def measure(source: str, n_tokens: int) -> dict[str, Any]:
    """Pairs of one model."""
    os.environ["H2Q_GAUGE"] = "widgets"
    with Kernel() as kernel:
        reply = kernel.run(f"%h2q_load {source}", timeout=300)
        if reply.status == "ok":
            reply = kernel.run(f"N = {n_tokens}\n{_SETUP}", timeout=60)
        if reply.status != "ok":
            raise RuntimeError(reply.shown)
        found = kernel.value(f"[kind, pairs({_PAIRS})]", timeout=600)
    kind, pairs = found
    ratios = [benched / bare for bare, benched in pairs]
    return {
        "display": kind,
        "new_tokens": n_tokens,
        "pairs": len(pairs),
        "bare_tokens_per_s": round(n_tokens / statistics.median(bare for bare, _ in pairs), 1),
        "per_answer_ms": round(
            1000 * statistics.median(benched - bare for bare, benched in pairs), 2
        ),
        "overhead": round(statistics.median(ratios) - 1, 4),
        "overhead_quartiles": [
            round(one - 1, 4) for one in statistics.quantiles(ratios, n=4, method="inclusive")
        ],
    }


def main() -> None:
    rows = {}
    for source, n_tokens in _MODELS.items():
        rows[source] = measure(source, n_tokens)
        print(source, rows[source], flush=True)
    write_result("bench_overhead", {"machine": describe_machine(), "models": rows})


if __name__ == "__main__":
    main()
