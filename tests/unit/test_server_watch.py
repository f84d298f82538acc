"""The server's look at its kernels: what a dying, restarted or faraway kernel must not spoil."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from h2q_notebook.readings.figures import Figures, figures_path, note_path, write_figures
from h2q_notebook.readings.process import ProcessMemory
from h2q_notebook.server import watch as watching
from h2q_notebook.server.watch import KernelWatch
from h2q_notebook.units import MIB


class FakeProvisioner:
    def __init__(self, pid: int | None) -> None:
        self.pid = pid
        self.code: int | None = None
        self.has_process = True

    async def poll(self) -> int | None:
        return self.code


class FakeManager:
    """One kernel of process id 7 whose use is ``used``."""

    def __init__(self, folder: Path, pid: int | None = 7) -> None:
        self.kernel: Any = SimpleNamespace(
            provisioner=FakeProvisioner(pid),
            connection_file=str(folder / "kernel-k.json"),
            shutting_down=False,
        )
        self.ids = ["k"]

    def list_kernel_ids(self) -> list[str]:
        return self.ids

    def get_kernel(self, kernel_id: str) -> Any:
        return self.kernel

    def add_restart_callback(self, kernel_id: str, call: Callable[[], None]) -> None:
        self.before_restart = call


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The kernel's use, in bytes; change the one element."""
    value = [50 * MIB]
    memory = lambda pid: ProcessMemory(value[0], 0, 0, 0, 0, 0)  # noqa: E731
    monkeypatch.setattr(watching, "read_process", memory)
    monkeypatch.setattr(watching, "group_of", lambda pid: None)
    monkeypatch.setattr(watching, "address_space", lambda pid: None)
    return value


def look(watch: KernelWatch) -> None:
    asyncio.run(watch.look())


def test_a_look_at_a_process_that_is_ending_does_not_replace_the_last_good_one(
    tmp_path: Path, used: list[int]
) -> None:
    manager, said = FakeManager(tmp_path), list[str]()
    watch = KernelWatch(manager, said.append, clock=lambda: 5.0)
    look(watch)
    used[0] = 0
    look(watch)
    manager.kernel.provisioner.code = -6
    look(watch)
    (death,) = watch.deaths()
    assert "it held 50 MiB at the last look" in death.verdict.text
    assert said == [f"h2q: kernel k: {death.verdict.text}"]
    assert watch.death_counts()["crash"] == 1


def test_a_death_that_the_server_finds_first_is_not_lost(tmp_path: Path, used: list[int]) -> None:
    manager = FakeManager(tmp_path)
    watch = KernelWatch(manager, lambda text: None)
    look(watch)
    manager.kernel.provisioner.process = SimpleNamespace(poll=lambda: -11)
    manager.before_restart()
    manager.before_restart()
    manager.kernel.provisioner = FakeProvisioner(8)
    look(watch)
    (death,) = watch.deaths()
    assert "SIGSEGV" in death.verdict.text


def test_a_death_is_told_once_and_leaves_a_note_only_for_a_kernel_that_can_read_it(
    tmp_path: Path, used: list[int]
) -> None:
    manager = FakeManager(tmp_path)
    watch = KernelWatch(manager, lambda text: None)
    file = manager.kernel.connection_file
    look(watch)
    manager.kernel.provisioner.code = -9
    look(watch)
    look(watch)
    assert len(watch.deaths()) == 1
    assert not note_path(file).exists()

    manager.kernel.provisioner = FakeProvisioner(8)
    write_figures(figures_path(file), Figures(1, 2, "calm", pid=8))
    look(watch)
    manager.kernel.provisioner.code = -9
    look(watch)
    assert note_path(file).exists()
    assert not figures_path(file).exists()


def test_a_kernel_that_is_being_shut_down_has_not_died(tmp_path: Path, used: list[int]) -> None:
    manager = FakeManager(tmp_path)
    watch = KernelWatch(manager, lambda text: None)
    look(watch)
    manager.kernel.shutting_down, manager.kernel.provisioner.code = True, -9
    look(watch)
    manager.ids = []
    look(watch)
    assert watch.deaths() == ()


def test_a_kernel_that_runs_elsewhere_is_listed_without_figures(
    tmp_path: Path, used: list[int]
) -> None:
    watch = KernelWatch(FakeManager(tmp_path, pid=None), lambda text: None)
    look(watch)
    (one,) = watch.kernels()
    assert (one.pid, one.used_bytes, one.told) == (None, None, None)


def test_figures_of_the_kernel_before_are_not_taken_for_this_ones(
    tmp_path: Path, used: list[int]
) -> None:
    manager = FakeManager(tmp_path)
    write_figures(figures_path(manager.kernel.connection_file), Figures(1, 2, "over", pid=6))
    (one,) = KernelWatch(manager, lambda text: None).kernels()
    assert one.told is None
