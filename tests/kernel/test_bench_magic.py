"""The bench in a real kernel: real answers, kept whatever happens to the kernel."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.kernel import Kernel, after

pytest.importorskip("torch")
pytest.importorskip("transformers")
TINY = "h2q://tiny-deepseek"
SUMS = f"%h2q_bench {TINY} --suite addition-20 --threads 1"
# Anything but the loopback, where kernel and client talk, is closed.
OFFLINE = """
import sys
def offline(event, args):
    if event == "socket.connect" and args[1][0] not in ("127.0.0.1", "::1") \\
            and not str(args[1]).startswith("/"):
        raise OSError("this machine is offline: " + str(args[1]))
    if event == "socket.getaddrinfo" and args[0] not in ("127.0.0.1", "localhost", None):
        raise OSError("this machine is offline: " + str(args[0]))
sys.addaudithook(offline)
"""


def results_in(kernel: Kernel, folder: Path) -> Kernel:
    kernel.run(f"import os; os.environ['H2Q_DATA_DIR'] = {str(folder)!r}")
    return kernel


def refuses(kernel: Kernel, code: str, says: str) -> None:
    """One sentence, and the right one."""
    reply = kernel.run(code, timeout=60)
    assert reply.status == "error", code
    lines = [line for line in reply.shown.splitlines() if line.strip()]
    assert len(lines) == 1, reply.shown
    assert says in lines[0]


def runs(folder: Path) -> list[Path]:
    return sorted((folder / "bench").glob("2*"))


def cases(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "cases.jsonl").read_text().splitlines()]


def test_twenty_sums_are_asked_judged_kept_and_the_same_again(
    fresh_kernel: Kernel, tmp_path: Path
) -> None:
    kernel = results_in(fresh_kernel, tmp_path)
    kernel.run(OFFLINE)
    for _ in range(2):
        reply = kernel.run(f"run = {SUMS}", timeout=120)
        assert reply.status == "ok", reply.shown
    assert kernel.value("[run.passed >= 19, run.total, run.status]") == [True, 20, "complete"]
    first, second = runs(tmp_path)
    told = [
        [(c["case_id"], c["completion"], c["status"]) for c in cases(r)] for r in (first, second)
    ]
    assert told[0] == told[1]
    manifest = json.loads((first / "manifest.json").read_text())
    assert manifest["model"]["files"]["kind"] == "whole"
    assert manifest["model"]["rung"] == "fp32"
    assert manifest["threads"] == 1
    assert manifest["summary"]["total"] == 20
    assert {"noise", "environment", "load_average_before", "load_average_after"} <= set(manifest)
    assert kernel.run("run").shown.count("✓ passed") == 20
    # The model was loaded for the runs alone.
    assert "no model" in kernel.run("%h2q_models").shown


def test_a_run_shows_itself_as_a_table_with_its_data(fresh_kernel: Kernel, tmp_path: Path) -> None:
    kernel = results_in(fresh_kernel, tmp_path)
    reply = kernel.run(SUMS, timeout=120)
    assert "20 of 20" in reply.shown
    assert [one["kind"] for one in reply.h2q] == ["bench"]
    assert reply.h2q[0]["total"] == 20
    assert kernel.run("%h2q_bench --list").shown.count("addition-20") == 1
    assert "sum/20" in kernel.run("%h2q_bench --show last").shown
    shown = kernel.run("%h2q_bench --export csv").shown
    assert "written to" in shown
    assert len(list(kernel.home.glob("h2q-bench-*.csv"))) == 1


def test_a_model_of_the_notebook_is_benched_where_it_is(
    fresh_kernel: Kernel, tmp_path: Path
) -> None:
    kernel = results_in(fresh_kernel, tmp_path)
    assert "which model? none is loaded" in kernel.run("%h2q_bench").shown
    assert kernel.run(f"%h2q_load {TINY} --as m", timeout=60).status == "ok"
    reply = kernel.run("%h2q_bench --suite addition-20", timeout=60)
    assert reply.status == "ok", reply.shown
    assert "m (fp32)" in reply.shown
    refuses(kernel, "%h2q_bench mm --suite addition-20", "did you mean m?")
    kernel.run("x = 3")
    refuses(kernel, "%h2q_bench x --suite addition-20", "x is a int, no model")
    kernel.run("m_tokenizer.chat_template = None")
    reply = kernel.run("%h2q_bench m --suite addition-20", timeout=60)
    assert "has no chat template, so prompts were given as plain text" in reply.shown


def test_a_killed_kernel_loses_no_finished_case_and_the_run_goes_on(tmp_path: Path) -> None:
    with Kernel() as kernel:
        results_in(kernel, tmp_path)
        kernel.send(f"%h2q_bench {TINY} --suite addition-20 --samples 40 --temperature 1")
        deadline = time.monotonic() + 90
        while not runs(tmp_path) or len((runs(tmp_path)[0] / "cases.jsonl").read_bytes()) < 9000:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(kernel.pid, signal.SIGKILL)
        kernel.lost = True
    (run,) = runs(tmp_path)
    lines = (run / "cases.jsonl").read_bytes().splitlines(keepends=True)
    whole = [json.loads(line) for line in lines if line.endswith(b"\n")]
    assert len(whole) >= 5
    # What is left is a tenth of the run; the rest is the same, and long.
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["status"] == "running"
    manifest["sampling"]["samples"] = 1 + len(whole) // 20
    (run / "manifest.json").write_text(json.dumps(manifest))
    with Kernel() as kernel:
        results_in(kernel, tmp_path)
        assert "incomplete" in kernel.run("%h2q_bench --list").shown
        reply = kernel.run(f"again = %h2q_bench --resume {run.name[-6:]}", timeout=120)
        assert reply.status == "ok", reply.shown
        told = kernel.value("[again.status, again.total, again.planned]")
        assert told[0] == "complete"
        assert told[1] == told[2]
    after_resume = cases(run)
    assert after_resume[: len(whole)] == whole


def test_an_interrupt_keeps_what_is_done_and_says_how_to_go_on(
    fresh_kernel: Kernel, tmp_path: Path
) -> None:
    kernel = results_in(fresh_kernel, tmp_path)
    kernel.run(f"%h2q_load {TINY} --as m", timeout=60)
    timer = after(3.0, kernel.interrupt)
    reply = kernel.run("%h2q_bench m --suite addition-20 --samples 100 --temperature 1", timeout=60)
    timer.join()
    assert reply.status == "error"
    assert "answers, which are kept; %h2q_bench --resume" in reply.shown
    assert "Traceback" not in reply.shown
    (run,) = runs(tmp_path)
    assert json.loads((run / "manifest.json").read_text())["status"] == "incomplete"
    assert len(cases(run)) > 3
    assert kernel.value("1 + 1") == 2
    refuses(kernel, "%h2q_bench --resume last --samples 3", "leave --samples out")
    kernel.run("m = m.float(); m.config.hidden_size = 1")
    refuses(kernel, "%h2q_bench h2q://tiny-deepseek --resume nope", "no run 'nope'")


def test_a_bench_in_a_guarded_cell_leaves_the_cells_peak_alone(
    fresh_kernel: Kernel, tmp_path: Path
) -> None:
    kernel = results_in(fresh_kernel, tmp_path)
    kernel.run(f"%h2q_load {TINY} --as m", timeout=60)
    kernel.run("%h2q_bench m --suite addition-20", timeout=60)  # warm
    cell = (
        "%%h2q_budget 700MB\nimport numpy as np\nbig = np.ones(40_000_000)\ndel big\n"
        "run = get_ipython().run_line_magic('h2q_bench', 'm --suite addition-20')\n"
    )
    reply = kernel.run(cell, timeout=60)
    assert reply.status == "ok", reply.shown
    outcome = reply.outcome
    assert outcome is not None
    assert outcome["peak_bytes"] >= 300 << 20
    assert kernel.value("max(one.peak_bytes for one in run.cases)") < 100 << 20


def test_an_overrun_in_a_bench_ends_the_cell_and_keeps_the_answers(
    fresh_kernel: Kernel, tmp_path: Path
) -> None:
    kernel = results_in(fresh_kernel, tmp_path)
    kernel.run(f"%h2q_load {TINY} --as m", timeout=60)
    kernel.run(
        "kept, plain = [], m.forward\ndef hungry(*a, **k):\n    kept.append(bytearray(4 << 20))\n"
        "    return plain(*a, **k)\nm.forward = hungry"
    )
    reply = kernel.run(
        "%%h2q_budget 600MB\n%h2q_bench m --suite addition-20 --samples 9 --temperature 1",
        timeout=90,
    )
    assert reply.status == "error"
    assert "stopped" in reply.shown
    (run,) = runs(tmp_path)
    assert json.loads((run / "manifest.json").read_text())["status"] == "incomplete"
    assert len(cases(run)) > 1


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("h2q://tiny-deepsek", "did you mean h2q://tiny-deepseek?"),
        (f"{TINY} --suite h2q15", "did you mean h2q-15?"),
        (f"{TINY} --preset r11", "did you mean r1?"),
        (f"{TINY} --samples 3", "give --temperature as well"),
        (f"{TINY} --threads 0", "--threads: 0 is outside"),
        ("--show 20200101T000000Z-abcdef", "no run"),
        ("--compare last", "no run"),
        ("--list --show last", "goes alone"),
        (f"{TINY} --export xls", "invalid choice"),
        ("--no-such", "unrecognized"),
    ],
)
def test_a_wrong_word_is_one_sentence(line: str, says: str, kernel: Kernel, tmp_path: Path) -> None:
    results_in(kernel, tmp_path)
    refuses(kernel, f"%h2q_bench {line}", says)
    assert runs(tmp_path) == []


def test_runs_are_compared_with_a_plot_and_other_suites_are_refused(
    fresh_kernel: Kernel, tmp_path: Path
) -> None:
    kernel = results_in(fresh_kernel, tmp_path)
    kernel.run(f"%h2q_load {TINY} --as m", timeout=60)
    kernel.run("a = %h2q_bench m --suite addition-20", timeout=60)
    kernel.run("b = %h2q_bench m --suite addition-20 --max-new-tokens 20", timeout=60)
    (tmp_path / "one.json").write_text(
        json.dumps({"name": "one", "version": "1", "case": [
            {"id": "x", "category": "c", "prompt": "What is 1 + 1?", "grader": "number",
             "expected": 2}]})
    )  # fmt: skip
    kernel.run(f"c = %h2q_bench m --suite {tmp_path / 'one.json'}", timeout=60)
    ids = kernel.value("[a.run_id, b.run_id, c.run_id]")
    reply = kernel.run(f"%h2q_bench --compare {ids[0]} {ids[1]}", timeout=60)
    assert "is better" in reply.shown
    assert any("application/vnd.plotly.v1+json" in one for one in reply.display)
    refuses(kernel, f"%h2q_bench --compare {ids[0]} {ids[2]}", "is of suite one")


def test_the_bench_works_from_python_without_a_notebook(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        f"import h2q\nrun = h2q.bench({TINY!r}, suite='addition-20', threads=1)\n"
        "print(run.passed, run.total, run.status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "H2Q_DATA_DIR": str(tmp_path)},
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "20 20 complete"
