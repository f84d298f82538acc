"""Where a model is to run: the device that was asked for, and what it has free.

Asks torch only where something other than the CPU was asked for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from h2q_notebook.errors import BadArgument
from h2q_notebook.load.skeleton import import_torch
from h2q_notebook.units import shorten

__all__ = ["Device", "find_device"]

_NAME = re.compile(r"(cpu|mps|auto)|(cuda)(?::([0-9]{1,3}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Device:
    """One device."""

    name: str
    """As torch spells it: ``cpu``, ``cuda:0``, ``mps``."""
    free_bytes: int | None
    """What it can still give; None for the CPU, whose memory the budget is about."""


def find_device(text: str) -> Device:
    """The device that is meant.

    Args:
        text: ``cpu``, ``cuda`` (the one with most free memory), ``cuda:1``, ``mps``, or ``auto``
            (the best there is).

    Raises:
        BadArgument: no such device here.
    """
    wanted = text.strip().lower()
    match = _NAME.fullmatch(wanted)
    if match is None:
        raise BadArgument(f"--device: {shorten(text)!r} is none of auto, cpu, cuda, cuda:N, mps")
    if wanted == "cpu":
        return Device("cpu", None)
    torch = import_torch()
    n_cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    has_mps = bool(torch.backends.mps.is_available())
    if match[2] or (wanted == "auto" and n_cuda):
        if not n_cuda:
            raise BadArgument(f"--device: {shorten(text)}: torch finds no CUDA device here")
        return _cuda(torch, match[3], n_cuda)
    if wanted == "mps" or (wanted == "auto" and has_mps):
        if not has_mps:
            raise BadArgument("--device: mps: torch finds no such device here")
        limit = int(torch.mps.recommended_max_memory())
        return Device("mps", max(limit - int(torch.mps.driver_allocated_memory()), 0))
    return Device("cpu", None)


def _cuda(torch: object, number: str | None, n_devices: int) -> Device:
    cuda = torch.cuda  # type: ignore[attr-defined]
    if number is None:
        free = [int(cuda.mem_get_info(at)[0]) for at in range(n_devices)]
        at = max(range(n_devices), key=free.__getitem__)
        return Device(f"cuda:{at}", free[at])
    if int(number) >= n_devices:
        raise BadArgument(
            f"--device: cuda:{number} is not there; there are {n_devices}, from cuda:0 on"
        )
    return Device(f"cuda:{int(number)}", int(cuda.mem_get_info(int(number))[0]))
