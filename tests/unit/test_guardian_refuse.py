from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

np = pytest.importorskip("numpy")

from h2q_notebook.guardian import numpy_hook  # noqa: E402
from h2q_notebook.guardian.numpy_hook import NumpyHook  # noqa: E402
from h2q_notebook.guardian.refuse import Refusal, Refuser  # noqa: E402
from h2q_notebook.units import MIB  # noqa: E402

pytestmark = pytest.mark.skipif(
    bool(numpy_hook._why_no_stub()), reason="no numpy hook on this platform"
)


def _handler() -> str:
    try:
        from numpy._core.multiarray import get_handler_name
    except ImportError:
        from numpy.core.multiarray import get_handler_name  # type: ignore[no-redef]
    return str(get_handler_name())


@pytest.fixture
def refuser() -> Iterator[Refuser]:
    """10 MiB are left of the budget; requests of 1 MiB and more are looked at."""
    refuser = Refuser(lambda: 90 * MIB, threshold_bytes=1 * MIB)
    refuser.arm(100 * MIB)
    yield refuser
    refuser.close()


def test_a_request_that_does_not_fit_is_a_memory_error_and_is_noted(refuser: Refuser) -> None:
    with pytest.raises(MemoryError, match="Unable to allocate"):
        np.ones(20 * MIB, dtype=np.uint8)
    assert refuser.disarm() == (Refusal("numpy", 20 * MIB, 10 * MIB),)
    assert refuser.disarm() == ()
    assert np.ones(20 * MIB, dtype=np.uint8).sum() == 20 * MIB


def test_a_request_that_fits_is_granted(refuser: Refuser) -> None:
    assert np.ones(9 * MIB, dtype=np.uint8).sum() == 9 * MIB
    assert refuser.disarm() == ()


def test_lazy_zeros_are_never_refused(refuser: Refuser) -> None:
    assert np.zeros(500 * MIB, dtype=np.uint8)[-1] == 0
    assert refuser.disarm() == ()


def test_growing_an_array_in_place_is_never_refused(refuser: Refuser) -> None:
    array = np.ones(100, dtype=np.uint8)
    array.resize(20 * MIB, refcheck=False)
    assert array.size == 20 * MIB
    assert refuser.disarm() == ()


def test_a_raised_limit_counts_at_once_and_from_another_thread(refuser: Refuser) -> None:
    thread = threading.Thread(target=refuser.set_limit, args=(200 * MIB,))
    thread.start()
    thread.join()
    assert np.ones(20 * MIB, dtype=np.uint8).size == 20 * MIB


def test_torch_refusals_are_noted_under_the_name_of_the_function(refuser: Refuser) -> None:
    torch = pytest.importorskip("torch")
    refuser.arm(100 * MIB)
    with pytest.raises(MemoryError, match=r"torch.ones asked for 20 MiB, but only 10 MiB"):
        torch.ones(20 * MIB, dtype=torch.uint8)
    assert refuser.disarm() == (Refusal("torch.ones", 20 * MIB, 10 * MIB),)


def test_an_endless_retry_keeps_a_bounded_list(refuser: Refuser) -> None:
    for _ in range(300):
        with pytest.raises(MemoryError):
            np.ones(20 * MIB, dtype=np.uint8)
    assert len(refuser.disarm()) == 100


def test_arrays_made_under_the_hook_outlive_it() -> None:
    refuser = Refuser(lambda: 0, threshold_bytes=1 * MIB)
    refuser.arm(100 * MIB)
    arrays = [np.ones(size, dtype=np.uint8) for size in (10, 10_000, 5 * MIB)]
    refuser.close()
    del refuser
    arrays[1].resize(20_000, refcheck=False)
    assert arrays[1][:10_000].sum() == 10_000
    del arrays
    assert np.ones(5 * MIB, dtype=np.uint8).size == 5 * MIB


def test_numpy_gets_its_own_handler_back(refuser: Refuser) -> None:
    assert _handler() == "h2q_budget"
    refuser.disarm()
    assert _handler() == "default_allocator"


def test_a_task_that_outlives_the_cell_is_not_refused() -> None:
    refuser = Refuser(lambda: 90 * MIB, threshold_bytes=1 * MIB)

    async def later(gate: asyncio.Event) -> int:
        with pytest.raises(MemoryError):  # a task sees the handler of the cell that began it
            np.ones(20 * MIB, dtype=np.uint8)
        await gate.wait()
        return int(np.ones(20 * MIB, dtype=np.uint8).size)

    async def cell() -> int:
        gate = asyncio.Event()
        refuser.arm(100 * MIB)
        task = asyncio.create_task(later(gate))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(refuser.disarm()) == 1
        gate.set()
        return await task

    assert asyncio.run(cell()) == 20 * MIB


def test_other_threads_are_not_refused(refuser: Refuser) -> None:
    sizes: list[int] = []
    thread = threading.Thread(target=lambda: sizes.append(np.ones(20 * MIB, dtype="u1").size))
    thread.start()
    thread.join()
    assert sizes == [20 * MIB]


def test_a_forked_child_is_not_refused(refuser: Refuser) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            np.ones(20 * MIB, dtype=np.uint8)
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert refuser.disarm() == ()


def test_a_reader_that_fails_grants(refuser: Refuser) -> None:
    def fails() -> int:
        raise OSError

    broken = Refuser(fails, threshold_bytes=1 * MIB)
    refuser.close()
    broken.arm(1)
    try:
        assert np.ones(20 * MIB, dtype=np.uint8).size == 20 * MIB
    finally:
        broken.close()


def test_an_exception_inside_the_callback_grants_and_crashes_nothing() -> None:
    # ctypes hands back whatever was on the stack when a callback raises; the stub must not use it.
    code = """
import sys, numpy as np
from h2q_notebook.guardian.numpy_hook import NumpyHook
dropped = []
sys.unraisablehook = lambda info: dropped.append(info.exc_type)
def stopped(size):
    raise KeyboardInterrupt
hook = NumpyHook(stopped, 1 << 20)
assert hook.arm(), hook.reason
for _ in range(200):
    assert np.ones(1 << 21, dtype="u1").sum() == 1 << 21
assert set(dropped) == {KeyboardInterrupt}
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_another_allocation_handler_is_left_alone() -> None:
    mine, other = (NumpyHook(lambda _size: True, 1 * MIB) for _ in range(2))
    assert other.arm()
    try:
        assert not mine.arm()
        mine.disarm()
        assert _handler() == "h2q_budget"
    finally:
        other.disarm()


def test_an_unknown_numpy_leaves_the_tier_off_with_a_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(numpy_hook, "_ABI_VERSIONS", ())
    refuser = Refuser(lambda: 0, torch_functions=False)
    refuser.arm(1)
    tiers = {name: (on, why) for name, on, why in refuser.tiers()}
    refuser.close()
    assert tiers["numpy malloc"][0] is False
    assert "ABI" in tiers["numpy malloc"][1]
    assert tiers["torch functions"] == (False, "switched off")


def test_libraries_imported_by_the_cell_are_hooked_and_let_go() -> None:
    code = """
import sys
from h2q_notebook.guardian.refuse import Refuser
finders = list(sys.meta_path)
refuser = Refuser(lambda: 90 << 20, threshold_bytes=1 << 20)
refuser.arm(100 << 20)
assert "numpy" not in sys.modules
assert [on for _, on, _ in refuser.tiers()] == [False, False, False]
import numpy as np
try:
    np.ones(20 << 20, dtype="u1")
except MemoryError:
    pass
else:
    raise SystemExit("granted")
assert [on for _, on, _ in refuser.tiers()] == [False, True, False]
assert len(refuser.disarm()) == 1
assert sys.meta_path == finders
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
