"""The compiled gate in a real kernel: what would outgrow the budget in one call never grows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from h2q_notebook.guardian.gate import compiled
from tests.support.gate_cells import BUDGET_MIB, GREEDY, INNOCENT, SETUP
from tests.support.kernel import Kernel

pytestmark = [
    pytest.mark.skipif(compiled() is None, reason="the gate is not built here"),
    pytest.mark.timeout(300),
]
MIB = 1 << 20


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    with Kernel(setup=SETUP) as one:
        yield one


@pytest.mark.parametrize("name", GREEDY)
def test_a_large_request_stays_within_the_budget_and_is_undone(kernel: Kernel, name: str) -> None:
    kernel.run("import h2q; before = 'kept'")
    reply = kernel.run(
        f"%%h2q_budget {BUDGET_MIB}MiB\nbefore = 'changed'\n{GREEDY[name]}", timeout=90, sample=True
    )
    assert kernel.alive()
    assert reply.peak_bytes <= (BUDGET_MIB + 16) * MIB
    outcome = reply.outcome
    assert outcome is not None
    if name == "np.ones in a thread":
        return  # the thread's own MemoryError; the cell goes on
    assert outcome["status"] in ("refused", "overrun")
    assert kernel.value("[before, 'x' in globals()]") == ["kept", False]
    if outcome["status"] == "refused":
        assert "it was refused before it grew" in reply.shown


@pytest.mark.parametrize("name", INNOCENT)
def test_an_innocent_cell_is_not_refused(kernel: Kernel, name: str) -> None:
    reply = kernel.run(f"%%h2q_budget {BUDGET_MIB}MiB\n{INNOCENT[name]}", timeout=120)
    assert reply.status == "ok", reply.shown
    outcome = reply.outcome
    assert outcome is not None
    assert outcome["status"] == "ok"
    kernel.run("for _n in 'axydmobf': globals().pop(_n, None)\nimport gc; _ = gc.collect()")


def test_what_is_granted_and_not_touched_counts_at_once_and_lapses(kernel: Kernel) -> None:
    """Of torch.ones and the like; torch.empty itself is never refused."""
    cell = "a = torch.empty(70_000_000)\nb = torch.ones(70_000_000)"
    assert kernel.run(f"%%h2q_budget 400MiB\n{cell}").ename == "RuntimeError"
    patient = (
        "import time\na = torch.empty(70_000_000)\ntime.sleep(2.5)\nb = torch.ones(70_000_000)"
    )
    assert kernel.run(f"%%h2q_budget 400MiB\n{patient}").status == "ok"


def test_a_loop_that_asks_for_ever_is_stopped(kernel: Kernel) -> None:
    reply = kernel.run(
        "%%h2q_budget 400MiB\nwhile True:\n    try:\n        x = b'x' * (1 << 30)\n"
        "    except MemoryError:\n        pass",
        timeout=60,
    )
    assert reply.ename == "MemoryBudgetExceeded"
    assert "goes on asking for more than fits (budget 400 MiB)" in reply.traceback
    assert kernel.alive()


def test_the_status_says_what_is_behind_the_gate_and_it_can_be_switched_off(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "large requests of Python, numpy and torch" in kernel.run("%h2q_status").shown
    monkeypatch.setenv("H2Q_GATE", "off")
    with Kernel() as other:
        assert "switched off: setting gate" in other.run("%h2q_status").shown
        large = "x = ''.join(['y' * 1000] * 600_000)"
        assert other.run(f"%%h2q_budget 400MiB\n{large}").ename == "MemoryBudgetExceeded"
        reply = other.run(f"%%h2q_budget 400MiB --gate on\n{large}")
        assert reply.ename == "MemoryError"
        assert "Python asked for 572 MiB" in reply.shown
    reply = kernel.run(f"%%h2q_budget 400MiB --gate off\n{large}")
    assert reply.ename == "MemoryBudgetExceeded", "it grew, and was stopped when it had"


POLARS = "import polars as pl\nd = pl.DataFrame({'k': range(8000)})\nx = d.join(d, how='cross')"


@pytest.mark.parametrize("gate", ["on", "wide"])
def test_polars_is_never_refused_never_killed_and_isolation_is_named(
    fresh_kernel: Kernel, gate: str
) -> None:
    kernel = fresh_kernel  # the address space of the other one is nearly used up
    reply = kernel.run(f"%%h2q_budget 400MiB --gate {gate}\n{POLARS}", timeout=90)
    assert kernel.alive()
    assert reply.ename == "MemoryBudgetExceeded"
    assert "--isolate runs the cell in a process of its own" in reply.shown
    outcome = reply.outcome
    assert outcome is not None
    assert outcome["status"] == "overrun"
    assert kernel.value("'x' in globals()") is False
    if gate == "wide":
        assert "polars asked for" in reply.shown
        assert "it was granted" in reply.shown


WIDE = {
    "pyarrow concat": (
        "import pyarrow as pa",
        "t = pa.table({'k': range(4_000_000)})\nx = pa.concat_tables([t] * 30).combine_chunks()",
    ),
    "pyarrow cast": (
        "import pyarrow as pa, pyarrow.compute as pc\nlarge = pa.array(range(10_000_000))",
        "x = [pc.add(large, n) for n in range(12)]",
    ),
    "pyarrow, imported by the cell": (
        "",
        "import pyarrow as pa, pyarrow.compute as pc\na = pa.nulls(100, pa.int64())\n"
        "x = pc.take(pa.array(range(1000)), pa.array([5] * 90_000_000, pa.int32()))",
    ),
}


@pytest.mark.parametrize("name", WIDE)
def test_the_wide_gate_refuses_pyarrow_too(fresh_kernel: Kernel, name: str) -> None:
    kernel = fresh_kernel
    before, cell = WIDE[name]
    kernel.run(before, timeout=60)
    kernel.run("import pyarrow\nbackend = pyarrow.default_memory_pool().backend_name")
    reply = kernel.run(f"%%h2q_budget 400MiB --gate wide\n{cell}", timeout=90, sample=True)
    assert kernel.alive()
    assert reply.peak_bytes <= (BUDGET_MIB + 16) * MIB
    outcome = reply.outcome
    assert outcome is not None
    assert outcome["status"] == "refused", reply.shown
    assert kernel.value("'x' in globals()") is False
    assert kernel.value("pyarrow.default_memory_pool().backend_name == backend")
