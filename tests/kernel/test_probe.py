"""``--probe``: what a cell would take is learnt on copies, in another process."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.kernel import Kernel

MIB = 1 << 20
SETUP = """
import numpy as np, threading
data = np.ones(8_000_000)          # 61 MiB
same = data
def twice(n):
    return np.ones(n) * factor
factor = 2.0
class Box:
    pass
box = Box(); box.items = [1, 2]
lock = threading.Lock()
"""


@pytest.fixture(scope="module")
def notebook() -> Iterator[Kernel]:
    with Kernel(setup=SETUP) as kernel:
        yield kernel


def probed(kernel: Kernel, cell: str, line: str = "400MiB", timeout: float = 90) -> dict[str, Any]:
    reply = kernel.run(f"%%h2q_budget {line} --probe\n{cell}", timeout=timeout)
    assert reply.status == "ok", reply.shown
    outcome = reply.outcome
    assert outcome is not None
    assert [one.get("kind") for one in reply.h2q] == ["probe"], "the cell itself is not guarded"
    return {**outcome, "shown": reply.shown}


def test_a_probe_is_not_guarded_as_a_cell_though_every_cell_is(notebook: Kernel) -> None:
    notebook.run("%h2q_budget 100MiB")
    try:
        found = probed(notebook, "x = np.ones(30_000_000); del x", "1GiB")
    finally:
        notebook.run("%h2q_budget off")
    assert found["status"] == "ok"
    assert found["peak_bytes"] > 200 * MIB


def test_the_peak_is_that_of_the_real_cell(notebook: Kernel) -> None:
    cell = "big = np.ones(25_000_000)\nbig2 = big + data.mean()\ndel big"
    found = probed(notebook, cell, "1GiB")
    assert found["status"] == "ok"
    assert notebook.value("'big2' in globals()") is False
    real = notebook.run(f"%%h2q_budget 1GiB\n{cell}").outcome
    assert real is not None
    assert found["peak_bytes"] == pytest.approx(real["peak_bytes"], abs=16 * MIB)
    assert found["retained_bytes"] == pytest.approx(real["retained_bytes"], abs=16 * MIB)
    assert "within the budget of 1.00 GiB" in found["shown"]
    notebook.run("del big2")


def test_the_kernels_variables_are_untouched_and_what_is_shared_stays_shared(
    notebook: Kernel,
) -> None:
    found = probed(
        notebook,
        "data[0] = 7\nassert same[0] == 7\nbox.items.append(3)\n"
        "assert twice(3)[0] == 2.0\nfactor = 5\ndata = None",
    )
    assert found["error"] == ""
    assert notebook.value("[data[0], same[0], box.items, factor]") == [1.0, 1.0, [1, 2], 2.0]
    assert [one["name"] for one in found["copied"]] == ["data"]  # once, under its first name


def test_a_cell_over_its_budget_is_told_before_it_runs(notebook: Kernel) -> None:
    cell = "hoard = [np.ones(1_000_000) for _ in range(60)]; del hoard"
    found = probed(notebook, cell, "200MiB")
    assert found["status"] == "ok"
    assert found["peak_bytes"] > 400 * MIB
    assert "over the budget of 200 MiB" in found["shown"]
    reply = notebook.run(f"%%h2q_budget 200MiB\n{cell}")
    assert reply.ename == "MemoryBudgetExceeded"
    assert "it will probably be stopped" in reply.text


def test_a_cell_that_wants_all_there_is_is_ended_and_nothing_is_left(notebook: Kernel) -> None:
    children = notebook.children()
    held = notebook.used_bytes() // MIB
    notebook.run(f"%config H2Q.max_memory_mb = {held + 900}")
    notebook.run("%config H2Q.safety_buffer_mb = 100")
    try:
        found = probed(notebook, "rows = []\nwhile True: rows.append(bytearray(1 << 20))")
        assert found["status"] == "over"
        assert found["peak_bytes"] < 1000 * MIB
        one_call = probed(notebook, "x = b'x' * (4 << 30)")
        assert one_call["status"] == "over"
    finally:
        notebook.run("%config H2Q.max_memory_mb = None")
        notebook.run("%config H2Q.safety_buffer_mb = 512")
    assert set(notebook.children()) <= set(children)


def test_an_error_of_the_cell_and_what_cannot_be_copied_are_told(notebook: Kernel) -> None:
    found = probed(notebook, "with lock:\n    pass")
    assert found["status"] == "error"
    assert found["missing"] == ["lock (lock)"]
    assert "NameError" in found["error"]
    assert "could not be copied" in found["shown"]


def test_magics_await_and_children_work_in_it_as_in_a_cell(notebook: Kernel) -> None:
    found = probed(
        notebook,
        "%timeit -n1 -r1 twice(10)\nimport asyncio\nawait asyncio.sleep(0)\n"
        "import subprocess, sys\n"
        "subprocess.run([sys.executable, '-c', "
        "'import time; x = bytearray(b\"x\") * (150 << 20); time.sleep(0.6)'])",
    )
    assert found["error"] == ""
    assert found["peak_bytes"] > 120 * MIB


def test_a_probe_ends_at_its_timeout_and_on_interrupt(notebook: Kernel) -> None:
    found = probed(notebook, "while True: pass", "100MiB --timeout 1s")
    assert found["status"] == "timeout"
    children = set(notebook.children())
    sent = notebook.send("%%h2q_budget 100MiB --probe\nwhile True: pass")
    deadline_s = time.monotonic() + 20
    while not set(notebook.children()) - children:
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
    time.sleep(1.5)
    notebook.interrupt()
    assert notebook.wait(sent).ename == "KeyboardInterrupt"
    assert set(notebook.children()) <= children


def test_where_there_is_no_room_for_copies_it_says_so(notebook: Kernel) -> None:
    held = notebook.used_bytes() // MIB
    notebook.run(f"%config H2Q.max_memory_mb = {held + 600}")
    try:
        reply = notebook.run("%%h2q_budget 100MiB --probe\ny = data + 1")
    finally:
        notebook.run("%config H2Q.max_memory_mb = None")
    assert reply.status == "error"
    assert "--probe: it needs copies of 61 MiB (data 61 MiB)" in reply.shown
    assert "Traceback" not in reply.shown


def test_it_is_for_one_cell_only(notebook: Kernel) -> None:
    reply = notebook.run("%h2q_budget 1GiB --probe")
    assert "--probe: it is for one cell" in reply.shown
