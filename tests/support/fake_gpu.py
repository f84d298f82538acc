"""A stand-in for torch with one or more GPUs, whose allocator keeps to its limit as torch's does.

Put it into ``sys.modules["torch"]``. The arithmetic is that of torch's caching allocator as far as
h2q depends on it: a limit is a share of the device's total and is compared with what is reserved;
freed blocks stay reserved until ``empty_cache``. Imported in kernels by tests: no h2q, no pytest.
"""

from __future__ import annotations

import types
import weakref
from typing import Any

TOTAL_BYTES = 8 << 30


class OutOfMemoryError(RuntimeError):
    """Named and placed like torch's own."""


OutOfMemoryError.__module__ = "torch"


class Tensor:
    """So many bytes on one device."""

    def __init__(self, n_bytes: int, index: int) -> None:
        self.n_bytes, self.index = n_bytes, index


class Cuda:
    """What h2q asks of torch.cuda."""

    def __init__(self, n_devices: int = 1, *, started: bool = True) -> None:
        self.started = started
        self.queue: list[Any] = []
        self.allocated = [0] * n_devices
        self.reserved = [0] * n_devices
        self.peaks = [0] * n_devices
        self.shares = [1.0] * n_devices
        self.emptied = 0

    def start(self) -> None:
        """What the first CUDA call does."""
        for call in self.queue:
            call()
        self.queue.clear()
        self.started = True

    def _lazy_call(self, call: Any) -> None:
        if self.started:
            call()
        else:
            self.queue.append(call)

    def is_initialized(self) -> bool:
        return self.started

    def is_available(self) -> bool:
        return True

    def device_count(self) -> int:
        return len(self.allocated)

    def current_device(self) -> int:
        return 0

    def get_device_properties(self, index: int) -> Any:
        return types.SimpleNamespace(total_memory=TOTAL_BYTES, name="Fake H1", uuid=f"u{index}")

    def memory_allocated(self, index: int) -> int:
        return self.allocated[index]

    def memory_reserved(self, index: int) -> int:
        return self.reserved[index]

    def max_memory_allocated(self, index: int) -> int:
        return self.peaks[index]

    def reset_peak_memory_stats(self, index: int) -> None:
        self.peaks[index] = self.allocated[index]

    def mem_get_info(self, index: int) -> tuple[int, int]:
        return TOTAL_BYTES - self.reserved[index], TOTAL_BYTES

    def get_per_process_memory_fraction(self, index: int) -> float:
        return self.shares[index]

    def set_per_process_memory_fraction(self, share: float, index: int) -> None:
        if not isinstance(share, float) or not 0 <= share <= 1:
            raise ValueError(share)
        self.shares[index] = share

    def empty_cache(self) -> None:
        self.emptied += 1
        self.reserved = list(self.allocated)

    def empty(self, n_bytes: int, index: int = 0) -> Tensor:
        """Allocate."""
        if not self.started:
            self.start()
        cached = self.reserved[index] - self.allocated[index]
        more = max(0, n_bytes - cached)
        if self.reserved[index] + more > self.shares[index] * TOTAL_BYTES:
            allowed = self.shares[index] * TOTAL_BYTES / (1 << 30)
            raise OutOfMemoryError(
                f"CUDA out of memory. Tried to allocate {n_bytes / (1 << 30):.2f} GiB. GPU {index} "
                f"has a total capacity of 8.00 GiB. {allowed:.2f} GiB allowed; more text follows."
            )
        self.reserved[index] += more
        self.allocated[index] += n_bytes
        self.peaks[index] = max(self.peaks[index], self.allocated[index])
        tensor = Tensor(n_bytes, index)
        weakref.finalize(tensor, self._free, n_bytes, index).atexit = False
        return tensor

    def _free(self, n_bytes: int, index: int) -> None:
        self.allocated[index] -= n_bytes


class Mps:
    """What h2q asks of torch.mps."""

    def __init__(self) -> None:
        self.share = 1.7
        self.held = 1 << 30

    def recommended_max_memory(self) -> int:
        return TOTAL_BYTES

    def driver_allocated_memory(self) -> int:
        return self.held

    def current_allocated_memory(self) -> int:
        return self.held

    def empty_cache(self) -> None:
        return None

    def set_per_process_memory_fraction(self, share: float) -> None:
        self.share = share


def fake_torch(cuda: Cuda | None = None, mps: Mps | None = None) -> Any:
    """A module named torch."""
    torch: Any = types.ModuleType("torch")
    torch.OutOfMemoryError = OutOfMemoryError
    torch.cuda = cuda or Cuda(0, started=False)
    backend = types.SimpleNamespace(is_available=lambda: mps is not None)
    torch.mps, torch.backends = mps, types.SimpleNamespace(mps=backend)
    return torch
