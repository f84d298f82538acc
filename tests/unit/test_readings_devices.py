"""Devices are read where they are in use, and asking never starts one."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest

from h2q_notebook.readings.devices import DeviceReader
from tests.support.fake_gpu import TOTAL_BYTES, Cuda, Mps, fake_torch

GIB = 1 << 30


class Nvml:
    """What the driver says: 3 GiB taken, 2 of them by this process."""

    closed = False

    def nvmlInit(self) -> None:
        return None

    def nvmlShutdown(self) -> None:
        self.closed = True

    def nvmlDeviceGetCount(self) -> int:
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:
        assert uuid == "GPU-u0"
        return 0

    def nvmlDeviceGetName(self, handle: int) -> bytes:
        return b"Fake H1"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return SimpleNamespace(total=TOTAL_BYTES, free=TOTAL_BYTES - 3 * GIB)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[Any]:
        return [
            SimpleNamespace(pid=os.getpid(), usedGpuMemory=2 * GIB),
            SimpleNamespace(pid=1, usedGpuMemory=GIB),
        ]


class NoNvml:
    def nvmlInit(self) -> None:
        raise OSError("no driver")


def test_a_device_in_use_is_read_from_torchs_allocator() -> None:
    cuda = Cuda()
    kept = cuda.empty(GIB)
    (one,) = DeviceReader(NoNvml()).read(fake_torch(cuda))
    assert (one.name, one.model) == ("cuda:0", "Fake H1")
    assert (one.used_bytes, one.reserved_bytes, one.total_bytes) == (GIB, GIB, TOTAL_BYTES)
    assert one.free_bytes == TOTAL_BYTES - GIB
    assert one.process_bytes is None
    del kept


def test_the_driver_adds_what_others_hold() -> None:
    (one,) = DeviceReader(Nvml()).read(fake_torch(Cuda()))
    assert (one.process_bytes, one.free_bytes) == (2 * GIB, TOTAL_BYTES - 3 * GIB)


def test_a_second_device_is_not_started_by_asking_for_its_free_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda = Cuda(2)
    asked: list[int] = []
    monkeypatch.setattr(cuda, "mem_get_info", lambda i: asked.append(i) or (1, TOTAL_BYTES))
    devices = DeviceReader(NoNvml()).read(fake_torch(cuda))
    assert [one.free_bytes for one in devices] == [1, None]
    assert asked == [0]


def test_cuda_that_is_not_in_use_is_left_alone_and_the_driver_answers() -> None:
    cuda = Cuda(started=False)
    (one,) = DeviceReader(Nvml()).read(fake_torch(cuda))
    assert (one.name, one.total_bytes) == ("gpu:0", TOTAL_BYTES)
    assert not cuda.started
    assert DeviceReader(NoNvml()).read(fake_torch(cuda)) == ()


def test_mps_is_read() -> None:
    (one,) = DeviceReader(NoNvml()).read(fake_torch(mps=Mps()))
    assert (one.name, one.used_bytes, one.free_bytes) == ("mps", GIB, TOTAL_BYTES - GIB)


def test_a_device_that_fails_costs_the_reading_and_nothing_more() -> None:
    torch = fake_torch(Cuda())
    del torch.cuda.allocated
    assert DeviceReader(NoNvml()).read(torch) == ()


def test_closing_lets_the_driver_go() -> None:
    nvml = Nvml()
    reader = DeviceReader(nvml)
    reader.close()
    reader.close()
    assert nvml.closed
