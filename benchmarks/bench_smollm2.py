"""The suite h2q-15 on a real language model, twice, in a real kernel.

    python -m benchmarks.bench_smollm2

runs `%h2q_bench h2q://smollm2` two times, each in a fresh kernel, prints the table and writes
results/bench_smollm2.json: what passed, whether the second run said the same, and the speeds.
"""

from __future__ import annotations

import tempfile
from typing import Any

from benchmarks.machine import describe_machine, write_result
from tests.support.kernel import Kernel

_RUN = "%h2q_bench h2q://smollm2 --threads 1 --budget 2GiB"
_TELL = (
    "import hashlib, json\n"
    "def tell(run):\n"
    "    texts = [one.completion for one in run.cases]\n"
    "    return {'passed': run.passed, 'total': run.total, 'strict_passed': run.strict_passed,\n"
    "            'by_category': {name: [run.tally(name).passed, run.tally(name).total]\n"
    "                            for name in run.categories},\n"
    "            'wilson_95': [round(one, 3) for one in run.tally().interval],\n"
    "            'passed_cases': [one.case_id for one in run.cases if one.passed],\n"
    "            'cut': sum(one.finish == 'length' for one in run.cases),\n"
    "            'new_tokens': sum(one.new_tokens for one in run.cases),\n"
    "            'tokens_per_s': round(run.tokens_per_s, 1), 'peak_bytes': run.peak_bytes,\n"
    "            'seconds': round(sum(one.end_to_end_s + one.grade_s for one in run.cases), 1),\n"
    "            'noise': run.manifest['noise'], 'suite_hash': run.manifest['suite']['hash'],\n"
    "            'dtype': run.manifest['model']['dtype'],\n"
    "            'texts_sha256': hashlib.sha256(json.dumps(texts).encode()).hexdigest()}"
)


def once(folder: str) -> dict[str, Any]:
    """One run in a kernel of its own."""
    with Kernel() as kernel:
        kernel.run(f"import os; os.environ['H2Q_DATA_DIR'] = {folder!r}")
        reply = kernel.run(f"run = {_RUN}", timeout=1800)
        if reply.status != "ok":
            raise RuntimeError(reply.shown)
        print(kernel.run("run").shown, flush=True)
        kernel.run(_TELL)
        return dict(kernel.value("tell(run)"))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        runs = [once(folder) for _ in range(2)]
    same = runs[0]["texts_sha256"] == runs[1]["texts_sha256"]
    result = {"machine": describe_machine(), "command": _RUN, "runs": runs, "same_texts": same}
    write_result("bench_smollm2", result)
    print("the second run said", "the same" if same else "something else")


if __name__ == "__main__":
    main()
