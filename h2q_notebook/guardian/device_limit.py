"""A budget of device memory for one cell, kept by torch's own allocator.

Covers setting the limit, putting back what was set before, and what the cell used of it. torch
refuses a request over the limit with its own OutOfMemoryError, before anything has grown; there is
nothing to watch and nobody to stop. Out of reach: memory that does not come from torch's allocator
(the CUDA context, other libraries), other processes, and a further device that the cell is the
first to use.

The limit is a share of the device's total memory, and torch compares it with what it has reserved,
its cache included. So the cache is emptied first: else a cell could not use what it may.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from h2q_notebook.guardian.on_import import ImportWatch
from h2q_notebook.readings.devices import cuda_of, mps_of
from h2q_notebook.units import parse_bytes

__all__ = ["DeviceLimit", "DeviceUse", "is_device_full"]

_MPS_DEFAULT = 1.7
"""torch's own high watermark (PYTORCH_MPS_HIGH_WATERMARK_RATIO); it has no call that tells it."""


@dataclass(frozen=True, slots=True)
class DeviceUse:
    """What one cell did with one device, in bytes above what was held when it began."""

    name: str
    budget_bytes: int
    peak_bytes: int
    end_bytes: int


@dataclass(slots=True)
class _Device:
    name: str
    budget_bytes: int
    base_bytes: int
    used: Callable[[], int]
    peak: Callable[[], int]
    restore: Callable[[], None]


def is_device_full(error: BaseException | None) -> bool:
    """Whether *error* is a device's allocator saying that it may give no more."""
    if not isinstance(error, RuntimeError):
        return False
    mine = type(error).__name__ == "OutOfMemoryError" and type(error).__module__ == "torch"
    return mine or "MPS backend out of memory" in str(error)


class DeviceLimit:
    """The limit of one cell at a time.

    Args:
        find_torch: torch if it is imported, else None.
    """

    def __init__(
        self, find_torch: Callable[[], Any | None] = lambda: sys.modules.get("torch")
    ) -> None:
        self._find_torch = find_torch
        self._imports = ImportWatch()
        self._size: str | None = None
        self._waits = False
        self._devices: list[_Device] = []

    def arm(self, size: str) -> None:
        """Limit every device of torch's to *size* more than it holds now.

        Where torch, or its CUDA side, is not in use yet, the limit is set at the moment it is: the
        cell may well be the one that imports it.

        Args:
            size: as typed; a percentage is of each device's total.
        """
        self._size = size
        torch = self._find_torch()
        if torch is None:
            self._imports.when_imported("torch", lambda: self._begin(self._find_torch()))
        else:
            self._begin(torch)

    def disarm(self) -> tuple[DeviceUse, ...]:
        """Put back what was set before; what was used, one for each device that was limited."""
        self._size = None
        self._imports.forget()
        devices, self._devices = self._devices, []
        told = _uses(devices)
        for one in devices:
            with suppress(Exception):  # a device in error still has the others to be put back
                one.restore()
        return told

    def live(self) -> tuple[DeviceUse, ...]:
        """What the running cell uses now; any thread."""
        return _uses(list(self._devices))

    def _begin(self, torch: Any) -> None:
        mps = mps_of(torch)
        if mps is not None:
            self._devices.append(self._limit_mps(mps))
            return
        cuda = getattr(torch, "cuda", None)
        if cuda is None:
            return
        if cuda_of(torch) is not None:
            self._limit_cuda(cuda)
        elif not self._waits and hasattr(cuda, "_lazy_call"):
            # torch's own queue for "once CUDA is started". Nothing can be taken out of it again:
            # one call of ours stands in it, and does nothing where no cell is guarded by then.
            self._waits = True
            cuda._lazy_call(lambda: self._cuda_started(cuda))

    def _cuda_started(self, cuda: Any) -> None:
        with suppress(Exception):  # one that got out would keep CUDA from starting
            if self._size is not None:
                self._limit_cuda(cuda)

    def _limit_cuda(self, cuda: Any) -> None:
        cuda.empty_cache()
        for index in range(cuda.device_count()):
            if not cuda.memory_reserved(index) and index != cuda.current_device():
                continue  # setting a limit would start a context there: hundreds of MB for nothing
            total = int(cuda.get_device_properties(index).total_memory)
            base, reserved = int(cuda.memory_allocated(index)), int(cuda.memory_reserved(index))
            budget = parse_bytes(self._size or "100%", of_bytes=total, field="--gpu")
            before = _fraction_of(cuda, index)
            share = min((reserved + budget) / total, before)
            cuda.reset_peak_memory_stats(index)
            cuda.set_per_process_memory_fraction(share, index)
            self._devices.append(
                _Device(
                    name=f"cuda:{index}",
                    budget_bytes=min(budget, int(before * total) - reserved),
                    base_bytes=base,
                    used=lambda index=index: int(cuda.memory_allocated(index)),  # type: ignore[misc]
                    peak=lambda index=index: int(cuda.max_memory_allocated(index)),  # type: ignore[misc]
                    restore=lambda index=index, before=before: (  # type: ignore[misc]
                        cuda.set_per_process_memory_fraction(before, index)
                    ),
                )
            )

    def _limit_mps(self, mps: Any) -> _Device:
        mps.empty_cache()
        total, base = int(mps.recommended_max_memory()), int(mps.current_allocated_memory())
        held = int(mps.driver_allocated_memory())
        budget = parse_bytes(self._size or "100%", of_bytes=total, field="--gpu")
        mps.set_per_process_memory_fraction(min((held + budget) / total, _MPS_DEFAULT))

        def used() -> int:
            return int(mps.current_allocated_memory())

        def restore() -> None:
            mps.set_per_process_memory_fraction(_MPS_DEFAULT)

        return _Device("mps", budget, base, used, used, restore)  # it keeps no peak of its own


def _uses(devices: list[_Device]) -> tuple[DeviceUse, ...]:
    """What each of them holds now; one in error is left out."""
    told = []
    for one in devices:
        with suppress(Exception):
            used, peak = one.used() - one.base_bytes, one.peak() - one.base_bytes
            told.append(DeviceUse(one.name, one.budget_bytes, max(peak, used, 0), used))
    return tuple(told)


def _fraction_of(cuda: Any, index: int) -> float:
    """What is set now; 1.0 where this torch has no call that tells it."""
    tell = getattr(cuda, "get_per_process_memory_fraction", None)
    return 1.0 if tell is None else float(tell(index))
