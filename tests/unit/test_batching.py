"""A batch that does not fit is halved, and what it held is given back first."""

from __future__ import annotations

import pytest

from h2q_notebook.errors import BadArgument, MemoryBudgetExceeded
from h2q_notebook.guardian.batching import fit_batch_size, is_allocation_failure
from h2q_notebook.readings.process import read_process
from h2q_notebook.units import MIB


def test_sizes_are_halved_until_one_fits() -> None:
    def run(size: int) -> str:
        if size > 20:
            raise MemoryError
        return "x" * size

    fitted = fit_batch_size(run, 100)
    assert (fitted.batch_size, fitted.tried, len(fitted.result)) == (12, (100, 50, 25, 12), 12)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 8 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:128] DefaultCPUAllocator: can't allocate"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"),
    ],
)
def test_every_librarys_way_to_say_it_is_understood(error: Exception) -> None:
    assert is_allocation_failure(error)

    def run(size: int) -> int:
        if size > 1:
            raise error
        return size

    assert fit_batch_size(run, 2).batch_size == 1


def test_torchs_own_failure_is_understood() -> None:
    torch = pytest.importorskip("torch")

    def run(size: int) -> int:
        return int(torch.empty(size << 40, dtype=torch.uint8).numel()) if size > 1 else 1

    assert fit_batch_size(run, 4).tried == (4, 2, 1)


def test_what_a_failed_try_held_is_given_back_before_the_next() -> None:
    held: list[int] = []
    base = read_process().used_bytes

    def run(size: int) -> int:
        held.append(read_process().used_bytes - base)
        block = bytearray(b"x") * (size * 20 * MIB)
        if size > 1:
            raise MemoryError
        return len(block)

    fit_batch_size(run, 8)
    assert max(held) < 30 * MIB


@pytest.mark.parametrize("error", [ValueError("no"), RuntimeError("shapes differ")])
def test_other_errors_go_on_up_at_once(error: Exception) -> None:
    tried: list[int] = []

    def run(size: int) -> None:
        tried.append(size)
        raise error

    with pytest.raises(type(error)):
        fit_batch_size(run, 8)
    assert tried == [8]


def test_the_stop_of_a_guarded_cell_is_no_failure_to_be_tried_again() -> None:
    def run(size: int) -> None:
        raise MemoryBudgetExceeded("over")

    with pytest.raises(MemoryBudgetExceeded):
        fit_batch_size(run, 8)


def test_where_nothing_fits_all_that_was_tried_is_told() -> None:
    def run(size: int) -> None:
        raise MemoryError("no room")

    with pytest.raises(MemoryError, match="tried 10, 5, 4; the last one said: no room"):
        fit_batch_size(run, 10, smallest=4)
    with pytest.raises(BadArgument):
        fit_batch_size(run, 1, smallest=2)
