"""A load stopped anywhere leaves no trace: names, memory, files, threads, environment, malloc."""

from __future__ import annotations

import ctypes
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from h2q_notebook.errors import CellStopRequested, LoadFailed, MemoryBudgetExceeded
from h2q_notebook.load.binding import load_into
from h2q_notebook.load.ladder import StepName
from h2q_notebook.load.loader import MemorySafeModelLoader
from h2q_notebook.readings.process import read_process
from h2q_notebook.units import GIB, MIB
from tests.support import tiny_models as tiny

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = pytest.mark.timeout(600)

KINDS = (MemoryBudgetExceeded, CellStopRequested, KeyboardInterrupt, OSError)
# Thirty points in all: the share of the questions a whole load asks after which it is stopped.
POINTS: dict[StepName, int] = {"full": 10, "mapped": 8, "int8": 6, "int4": 6}


class Counts:
    """A watch that counts its questions, and raises at one of them."""

    def __init__(self, at: int = 0, error: BaseException | None = None) -> None:
        self.asked = 0
        self._at, self._error = at, error

    def _ask(self) -> None:
        self.asked += 1
        if self.asked == self._at and self._error is not None:
            raise self._error

    def reserve(self, n_bytes: int, what: str) -> None:
        self._ask()

    def check(self) -> None:
        self._ask()


class Info2(ctypes.Structure):
    """glibc's mallinfo2, as far as it is needed."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks",
                     "uordblks", "fordblks", "keepcost")
    ]  # fmt: skip


def large_blocks_are_mapped() -> bool:
    """Whether malloc gives 3 MiB a mapping of their own: so it is only within a load."""
    libc: Any = ctypes.CDLL("libc.so.6")
    libc.mallinfo2.restype = Info2
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    before = libc.mallinfo2().hblks
    # So many that no hole in the heap takes them all; nobody touches them.
    blocks = [libc.malloc(3 * MIB) for _ in range(40)]
    mapped = libc.mallinfo2().hblks > before
    for block in blocks:
        libc.free(block)
    return bool(mapped)


def state(cache: Path) -> tuple[Any, ...]:
    return (
        tiny.open_files(),
        threading.active_count(),
        dict(os.environ),
        sorted(str(path) for path in cache.rglob("*") if path.is_file()),
        large_blocks_are_mapped(),
    )


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # In fp32, so that every rung has something to cast, and the mapped one to convert.
    return tiny.save_dense(tmp_path_factory.mktemp("model") / "m", 64, "float32")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("H2Q_CACHE_DIR", str(tmp_path))
    return tmp_path


def load(names: dict[str, Any], where: Path, step: StepName, watch: Counts) -> None:
    loader = MemorySafeModelLoader(watch_factory=lambda limit, read: watch)
    load_into(names, where, budget_bytes=GIB, loader=loader, ladder=(step,), dtype="bf16")


def forget_conversions(cache: Path) -> None:
    for folder in (cache / "mapped").glob("m-*"):
        shutil.rmtree(folder)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("step", POINTS)
def test_a_load_stopped_at_any_point_leaves_everything_as_it_was(
    step: StepName, kind: type[BaseException], where: Path, cache: Path
) -> None:
    whole = Counts()
    load({}, where, step, whole)
    forget_conversions(cache)  # so that the conversion is stopped, too
    points = POINTS[step]
    assert whole.asked > points
    for point in range(points):
        at = 1 + point * (whole.asked - 1) // (points - 1)
        old = object()
        names: dict[str, Any] = {"model": old, "tokenizer": old}
        before, used_bytes = state(cache), read_process().used_bytes
        expected = LoadFailed if issubclass(kind, Exception) else kind
        with pytest.raises(expected) as kept:
            load(names, where, step, Counts(at, kind("stopped")))
        left_bytes = read_process().used_bytes - used_bytes
        forget_conversions(cache)  # one that was whole may stay
        assert names == {"model": old, "tokenizer": old}
        assert left_bytes < 10 * MIB, f"point {at} of {whole.asked}"
        assert state(cache) == before, f"point {at} of {whole.asked}"
        del kept


def test_within_a_load_large_blocks_are_mapped_and_afterwards_not(where: Path, cache: Path) -> None:
    seen: list[bool] = []

    class Looks(Counts):
        def check(self) -> None:
            seen.append(large_blocks_are_mapped())

    load({}, where, "full", Looks())
    assert True in seen
    assert not large_blocks_are_mapped()
