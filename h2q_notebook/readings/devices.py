"""What this process and others hold on CUDA and MPS devices.

Covers reading. torch is asked only where the user has imported it, and its CUDA side only once it
is in use: asking starts a context, which takes some 300-500 MB of the device by itself. NVML (the
package nvidia-ml-py, if it is there) adds what other processes hold, and needs no context.

Sources: torch.cuda.memory_allocated / memory_reserved / mem_get_info, torch.mps, NVML's
nvmlDeviceGetMemoryInfo and nvmlDeviceGetComputeRunningProcesses.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any

__all__ = ["DeviceMemory", "DeviceReader", "cuda_of", "mps_of"]


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """One device at one moment, in bytes."""

    name: str
    """As torch spells it: ``cuda:0``, ``mps``; ``gpu:0`` by NVML's own count where torch is not
    loaded (CUDA_VISIBLE_DEVICES may number them otherwise)."""
    used_bytes: int
    """In tensors of this process."""
    reserved_bytes: int
    """Held by torch for this process, its cache included."""
    total_bytes: int
    free_bytes: int | None
    """What no process holds; None: not known without starting a context."""
    process_bytes: int | None = None
    """What the driver counts for this process, contexts and libraries included; None: it does not
    tell (no NVML, or a container that hides process ids)."""
    model: str = ""


def cuda_of(torch: Any) -> Any | None:
    """torch.cuda where it is in use, else None."""
    cuda = getattr(torch, "cuda", None)
    return cuda if cuda is not None and cuda.is_initialized() else None


def mps_of(torch: Any) -> Any | None:
    """torch.mps where there is such a device, else None."""
    backend = getattr(getattr(torch, "backends", None), "mps", None)
    return torch.mps if backend is not None and backend.is_available() else None


class DeviceReader:
    """Reads every device, now and again; close it when done.

    Args:
        nvml: a module like pynvml; None imports it if it is there.
    """

    def __init__(self, nvml: Any | None = None) -> None:
        self._nvml: Any | None = None
        with suppress(Exception):  # no package, no driver, no right to ask it
            library = import_module("pynvml") if nvml is None else nvml
            library.nvmlInit()
            self._nvml = library

    def read(self, torch: Any | None = None) -> tuple[DeviceMemory, ...]:
        """Every device that is in use, or that NVML knows (about 0.1 ms a device).

        Args:
            torch: the module; None takes the one that is imported already, if any.
        """
        torch = sys.modules.get("torch") if torch is None else torch
        with suppress(Exception):  # a half-imported torch, a device that fell off the bus
            cuda, mps = cuda_of(torch), mps_of(torch)
            if cuda is not None:
                return tuple(self._cuda(cuda, index) for index in range(cuda.device_count()))
            if mps is not None:
                return (_mps(mps),)
            return self._driver()
        return ()

    def close(self) -> None:
        """Let the driver go."""
        nvml, self._nvml = self._nvml, None
        if nvml is not None:
            with suppress(Exception):
                nvml.nvmlShutdown()

    def _cuda(self, cuda: Any, index: int) -> DeviceMemory:
        properties = cuda.get_device_properties(index)
        reserved = int(cuda.memory_reserved(index))
        free, process = self._of_driver(getattr(properties, "uuid", None))
        if free is None and (reserved or index == cuda.current_device()):
            free = int(cuda.mem_get_info(index)[0])  # it has a context already
        return DeviceMemory(
            name=f"cuda:{index}",
            used_bytes=int(cuda.memory_allocated(index)),
            reserved_bytes=reserved,
            total_bytes=int(properties.total_memory),
            free_bytes=free,
            process_bytes=process,
            model=str(properties.name),
        )

    def _of_driver(self, uuid: Any) -> tuple[int | None, int | None]:
        """Free bytes, and those of this process. By uuid: torch's numbers are not NVML's."""
        if self._nvml is None or uuid is None:
            return None, None
        with suppress(Exception):
            handle = self._nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
            return int(self._nvml.nvmlDeviceGetMemoryInfo(handle).free), self._mine(handle)
        return None, None

    def _mine(self, handle: Any) -> int | None:
        assert self._nvml is not None
        mine = [
            one.usedGpuMemory
            for one in self._nvml.nvmlDeviceGetComputeRunningProcesses(handle)
            if one.pid == os.getpid() and one.usedGpuMemory is not None
        ]
        return int(sum(mine)) if mine else None

    def _driver(self) -> tuple[DeviceMemory, ...]:
        if self._nvml is None:
            return ()
        found = []
        for index in range(self._nvml.nvmlDeviceGetCount()):
            handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
            memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
            model = self._nvml.nvmlDeviceGetName(handle)
            found.append(
                DeviceMemory(
                    name=f"gpu:{index}",
                    used_bytes=0,
                    reserved_bytes=0,
                    total_bytes=int(memory.total),
                    free_bytes=int(memory.free),
                    process_bytes=self._mine(handle),
                    model=model.decode() if isinstance(model, bytes) else str(model),
                )
            )
        return tuple(found)


def _mps(mps: Any) -> DeviceMemory:
    """Apple's devices share the machine's memory; what is recommended is what can be had."""
    total, held = int(mps.recommended_max_memory()), int(mps.driver_allocated_memory())
    used = int(mps.current_allocated_memory())
    return DeviceMemory("mps", used, held, total, max(total - held, 0), held)
