"""``--gpu`` in a real kernel, with a stand-in for torch: the story is that of any overrun."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.kernel import Kernel

SETUP = """
import sys
from tests.support import fake_gpu
cuda = fake_gpu.Cuda()
torch = sys.modules["torch"] = fake_gpu.fake_torch(cuda)
held = cuda.empty(1 << 30)
kept = [1, 2, 3]
"""


@pytest.fixture(scope="module")
def gpu() -> Iterator[Kernel]:
    with Kernel(setup=SETUP) as kernel:
        yield kernel


def test_a_full_device_is_told_rolled_back_and_its_cache_emptied(gpu: Kernel) -> None:
    emptied = gpu.value("cuda.emptied")
    reply = gpu.run(
        "%%h2q_budget 500MiB --gpu 2GiB\n"
        "kept = None\nfirst = cuda.empty(1500 << 20)\nsecond = cuda.empty(1 << 30)"
    )
    assert reply.status == "error"
    assert reply.ename == "OutOfMemoryError"
    outcome = reply.outcome
    assert outcome is not None
    assert outcome["status"] == "refused"
    assert outcome["device_full"] is True
    assert outcome["line"]["number"] == 4
    assert "beyond the budget of 2.00 GiB on cuda:0 was refused" in reply.shown
    assert "cuda:0 peak 1.46 GiB of 2.00 GiB" in reply.shown
    assert "Traceback" not in reply.shown
    assert gpu.value("[kept, 'first' in globals(), cuda.allocated, cuda.shares]") == [
        [1, 2, 3], False, [1 << 30], [1.0],
    ]  # fmt: skip
    assert gpu.value("cuda.reserved") == [1 << 30]
    assert gpu.value("cuda.emptied") > emptied + 1
    assert gpu.alive()


def test_a_cell_within_its_device_budget_keeps_what_it_made_and_says_so(gpu: Kernel) -> None:
    reply = gpu.run("%%h2q_budget 500MiB --gpu 2GiB\nx = cuda.empty(512 << 20)")
    assert reply.status == "ok"
    assert "cuda:0 peak 512 MiB of 2.00 GiB, kept 512 MiB" in reply.shown
    assert gpu.value("[x.n_bytes, cuda.shares]") == [512 << 20, [1.0]]
    gpu.run("del x")


def test_an_error_of_the_users_own_is_shown_as_ever(gpu: Kernel) -> None:
    reply = gpu.run("%%h2q_budget 500MiB --gpu 2GiB\ny = 1\nraise RuntimeError('mine')")
    assert reply.ename == "RuntimeError"
    assert "mine" in reply.traceback
    assert gpu.value("y") == 1


def test_a_cell_that_handles_a_full_device_goes_on(gpu: Kernel) -> None:
    reply = gpu.run(
        "%%h2q_budget 500MiB --gpu 1GiB\n"
        "try:\n    cuda.empty(2 << 30)\nexcept torch.OutOfMemoryError:\n    z = 'smaller'"
    )
    assert reply.status == "ok"
    assert gpu.value("z") == "smaller"


def test_the_status_names_each_device(gpu: Kernel) -> None:
    shown = gpu.run("%h2q_status").shown
    assert "cuda:0  Fake H1" in shown
    assert "1.00 GiB in tensors" in shown


def test_where_there_is_no_device_the_cell_runs_and_is_told(fresh_kernel: Kernel) -> None:
    reply = fresh_kernel.run("%%h2q_budget 500MiB --gpu 1GiB\nz = 1")
    assert reply.status == "ok"
    assert "no device of torch's was in use" in reply.shown


@pytest.mark.parametrize("size", ["much", "0", "120%"])
def test_a_wrong_size_is_one_sentence_and_the_cell_does_not_run(gpu: Kernel, size: str) -> None:
    reply = gpu.run(f"%%h2q_budget 500MiB --gpu {size}\nnever = 1")
    assert reply.status == "error"
    assert "--gpu" in reply.shown
    assert gpu.value("'never' in globals()") is False
