"""What a start looks at first: memory, swap, disk, versions, devices; without importing them."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from h2q_notebook.errors import LoadRefused, MissingExtra
from h2q_notebook.places import cache_root
from h2q_notebook.readings.devices import DeviceMemory
from h2q_notebook.readings.limits import Headroom
from h2q_notebook.units import MIB, format_bytes

__all__ = ["Preflight", "look"]

_LEAST_BYTES = 128 * MIB
"""With less free even an import of torch ends in the system's killer."""


@dataclass(frozen=True, slots=True)
class Preflight:
    """The machine before a start. Bytes."""

    free_bytes: int
    limit: str
    """Which limit binds."""
    swap_total_bytes: int
    swap_used_bytes: int
    disk_free_bytes: int
    """Where converted and offloaded weights go."""
    versions: tuple[tuple[str, str], ...]
    devices: str

    def words(self) -> str:
        """In a line."""
        used, total = format_bytes(self.swap_used_bytes), format_bytes(self.swap_total_bytes)
        swap = f"{used} of {total} swap used" if self.swap_total_bytes else "no swap"
        versions = ", ".join(f"{name} {version}" for name, version in self.versions)
        return (
            f"{format_bytes(self.free_bytes)} free ({self.limit}), {swap}, "
            f"{format_bytes(self.disk_free_bytes)} of disk; {versions}; {self.devices}"
        )


def look(
    room: Headroom,
    *,
    model: bool,
    devices: Iterable[DeviceMemory] = (),
    version_of: Callable[[str], str] = metadata.version,
) -> Preflight:
    """Look, and refuse where a start cannot go well.

    Args:
        room: what the machine can give.
        model: a model shall be loaded.
        devices: the GPUs that are known.
        version_of: the version of an installed package.

    Raises:
        LoadRefused: hardly any memory is free.
        MissingExtra: a model is wanted, and torch or transformers is absent.
    """
    import psutil

    if room.free_bytes < _LEAST_BYTES:
        raise LoadRefused(
            f"only {format_bytes(room.free_bytes)} are free ({room.source}); free memory first"
        )
    versions = [("python", platform.python_version())]
    for package in ("torch", "transformers", "safetensors"):
        try:
            versions.append((package, version_of(package)))
        except metadata.PackageNotFoundError:
            if model:
                raise MissingExtra(package, "models") from None
    swap = psutil.swap_memory()
    return Preflight(
        free_bytes=room.free_bytes,
        limit=room.source,
        swap_total_bytes=int(swap.total),
        swap_used_bytes=int(swap.used),
        disk_free_bytes=_disk_free(cache_root()),
        versions=tuple(versions),
        devices=_devices(devices),
    )


def _disk_free(folder: Path) -> int:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _devices(found: Iterable[DeviceMemory]) -> str:
    known = [
        f"{one.name} {one.model}, {format_bytes(one.free_bytes or 0)} free of "
        f"{format_bytes(one.total_bytes)}"
        for one in found
    ]
    if known:
        return "; ".join(known)
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        if torch.cuda.is_available():
            return f"{torch.cuda.device_count()} CUDA devices, none in use yet"
        return "no GPU that torch can use"
    return "an NVIDIA driver" if Path("/proc/driver/nvidia/version").exists() else "no GPU driver"
