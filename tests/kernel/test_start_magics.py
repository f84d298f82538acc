"""Starting, stopping and restarting in a real kernel."""

from __future__ import annotations

import pytest

from tests.support.kernel import Kernel

pytest.importorskip("transformers")
TINY = "h2q://tiny-deepseek"


def test_a_start_answers_a_restart_keeps_names_and_a_stop_leaves_nothing(
    fresh_kernel: Kernel,
) -> None:
    kernel = fresh_kernel
    kernel.run("mine, model = 5, 'an old thing'")
    reply = kernel.run(f"%h2q_start {TINY}", timeout=90)
    assert reply.status == "ok", reply.shown
    for layer in ("preflight", "guardian", "model", "pipeline", "validation"):
        assert layer in reply.shown
    assert kernel.value("pipeline('What is 17 + 25?')", timeout=60) == "Answer: 42"
    assert kernel.run("%h2q_restart", timeout=90).status == "ok"
    assert kernel.value("[pipeline('What is 1 + 1?'), mine]", timeout=60) == ["Answer: 2", 5]
    assert kernel.children() != []
    assert kernel.run("%h2q_stop", timeout=60).status == "ok"
    assert kernel.children() == []
    names = "[n in globals() for n in ('model', 'tokenizer', 'pipeline')]"
    assert kernel.value(names) == [False] * 3
    threads = "[t.name for t in __import__('threading').enumerate() if 'h2q' in t.name]"
    assert kernel.value(threads) == []
    # A cell that asks for a budget is guarded all the same.
    cell = "%%h2q_budget 100MB\nx = [bytearray(b'x') * (1 << 20) for _ in range(1000)]"
    assert "over its budget" in kernel.run(cell, timeout=60).shown


def test_a_failed_start_leaves_names_and_guard_as_they_were(fresh_kernel: Kernel) -> None:
    kernel = fresh_kernel
    kernel.run("model, tokenizer = 'old', 'old too'")
    watcher = kernel.children()
    reply = kernel.run("%h2q_start /no/such/model", timeout=60)
    assert reply.status == "error"
    assert "Traceback" not in reply.shown
    assert "/no/such/model does not exist" in reply.shown
    assert "not reached" not in reply.shown
    assert kernel.value("[model, tokenizer]") == ["old", "old too"]
    assert kernel.children() == watcher
    assert kernel.run("%h2q_stop").shown.count("nothing is running") == 1
    assert "takes no argument" in kernel.run("%h2q_restart now").shown
