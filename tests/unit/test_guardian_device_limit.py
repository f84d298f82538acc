"""A budget of device memory: kept by the allocator, and what was set before is put back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h2q_notebook.guardian.device_limit import DeviceLimit, is_device_full
from tests.support.fake_gpu import TOTAL_BYTES, Cuda, Mps, OutOfMemoryError, fake_torch

GIB = 1 << 30


def limit_of(torch: Any) -> DeviceLimit:
    return DeviceLimit(lambda: torch)


def test_a_request_over_the_budget_is_refused_and_one_within_it_is_not() -> None:
    cuda = Cuda()
    held = [cuda.empty(GIB)]
    limit = limit_of(fake_torch(cuda))
    limit.arm("2GiB")
    held.append(cuda.empty(2 * GIB - 4096))
    with pytest.raises(OutOfMemoryError) as caught:
        cuda.empty(GIB)
    assert is_device_full(caught.value)
    (used,) = limit.disarm()
    assert (used.name, used.budget_bytes) == ("cuda:0", 2 * GIB)
    assert used.peak_bytes == used.end_bytes == 2 * GIB - 4096
    assert cuda.shares == [1.0]
    assert cuda.empty(4 * GIB).n_bytes == 4 * GIB


@given(
    before=st.floats(0.1, 1.0),
    held=st.integers(0, GIB),
    budget=st.integers(1 << 20, 16 * GIB),
    asked=st.integers(0, 16 * GIB),
)
def test_no_cell_gets_more_than_its_budget_or_than_was_allowed_before(
    before: float, held: int, budget: int, asked: int
) -> None:
    cuda = Cuda()
    kept = [cuda.empty(min(held, int(before * TOTAL_BYTES)))]
    cuda.shares = [before]
    limit = limit_of(fake_torch(cuda))
    limit.arm(f"{budget}B")
    try:
        kept.append(cuda.empty(asked))
    except OutOfMemoryError:
        room = min(budget, int(before * TOTAL_BYTES) - kept[0].n_bytes)
        assert asked > room - 4096  # a share is a float: its rounding is a few bytes
    (used,) = limit.disarm()
    assert used.peak_bytes <= min(budget, TOTAL_BYTES) + 4096
    assert cuda.shares == [before]


def test_what_the_cache_holds_is_no_obstacle() -> None:
    cuda = Cuda()
    del_me = cuda.empty(6 * GIB)
    del del_me
    assert cuda.reserved == [6 * GIB]
    limit = limit_of(fake_torch(cuda))
    limit.arm("1GiB")
    with pytest.raises(OutOfMemoryError):
        cuda.empty(2 * GIB)
    limit.disarm()


def test_cuda_that_is_started_by_the_cell_is_limited_from_then_on() -> None:
    cuda = Cuda(started=False)
    limit = limit_of(fake_torch(cuda))
    limit.arm("1GiB")
    assert not cuda.started
    with pytest.raises(OutOfMemoryError):
        cuda.empty(2 * GIB)
    limit.disarm()
    assert cuda.shares == [1.0]


def test_cuda_that_is_started_after_the_cell_is_free_and_nothing_piles_up() -> None:
    cuda = Cuda(started=False)
    limit = limit_of(fake_torch(cuda))
    for _ in range(50):
        limit.arm("1GiB")
        assert limit.disarm() == ()
    assert len(cuda.queue) == 1
    assert cuda.empty(4 * GIB).n_bytes == 4 * GIB


def test_a_failure_of_ours_does_not_keep_cuda_from_starting() -> None:
    cuda = Cuda(started=False)
    cuda.reset_peak_memory_stats = None  # type: ignore[method-assign,assignment]
    limit = limit_of(fake_torch(cuda))
    limit.arm("1GiB")
    assert cuda.empty(GIB).n_bytes == GIB
    limit.disarm()


def test_a_device_nobody_uses_is_not_started() -> None:
    cuda = Cuda(2)
    limit = limit_of(fake_torch(cuda))
    limit.arm("50%")
    assert cuda.shares == [0.5, 1.0]
    assert [one.name for one in limit.disarm()] == ["cuda:0"]


def test_mps_is_limited_and_given_back() -> None:
    mps = Mps()
    limit = limit_of(fake_torch(mps=mps))
    limit.arm("1GiB")
    assert mps.share == pytest.approx(2 / 8)
    limit.disarm()
    assert mps.share == 1.7


def test_without_torch_the_limit_waits_for_its_import() -> None:
    import sys

    limit = DeviceLimit(lambda: None)
    before = list(sys.meta_path)
    limit.arm("1GiB")
    assert len(sys.meta_path) == len(before) + 1
    assert limit.disarm() == ()
    assert sys.meta_path == before


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), True),
        (RuntimeError("out of memory, says a library"), False),
        (MemoryError(), False),
        (None, False),
    ],
)
def test_only_a_devices_own_refusal_counts(error: BaseException | None, full: bool) -> None:
    assert is_device_full(error) is full
