"""Refuses single requests that do not fit the rest of the budget, before they grow.

Covers numpy allocations (``numpy_hook``) and a list of torch functions (``torch_hook``), at or
above a threshold, in the thread that arms. Not growth by many small requests (the sidecar's work),
not polars, pyarrow, strings, lists, big integers or GPU memory.

A refused request raises ``MemoryError`` in the cell; ``disarm()`` tells what was refused, so that
the caller can know this MemoryError from the cell's own.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from h2q_notebook.guardian.numpy_hook import NumpyHook
from h2q_notebook.guardian.on_import import ImportWatch
from h2q_notebook.units import MIB

if TYPE_CHECKING:
    from h2q_notebook.guardian.torch_hook import TorchHook

__all__ = ["Refusal", "Refuser"]

_MAX_REFUSALS = 100  # a cell may catch MemoryError and try again for ever
_NOT_IMPORTED = "not imported"


@dataclass(frozen=True, slots=True)
class Refusal:
    """One request that was refused."""

    what: str
    """``numpy``, or the torch function, as in ``torch.ones``."""
    asked_bytes: int
    left_bytes: int
    """What was left of the budget when it was asked for, in bytes; never negative."""


class Refuser:
    """The gate in front of large requests; one per kernel.

    Args:
        read_used: the use of this process, in bytes, as budgets count it; called for every large
            request, from the thread that makes it.
        threshold_bytes: requests below it are granted without a look.
        torch_functions: whether torch calls are looked at. torch's own mode machinery costs about
            3 us per call from Python, small ones too: much for a tiny model, little for a real one.
    """

    def __init__(
        self,
        read_used: Callable[[], int],
        *,
        threshold_bytes: int = 32 * MIB,
        torch_functions: bool = True,
    ) -> None:
        self._torch_wanted = torch_functions
        self._read_used = read_used
        self._threshold_bytes = threshold_bytes
        self._limit_bytes = 0
        self._armed = False
        self._pid = os.getpid()
        self._thread = 0
        self._refusals: list[Refusal] = []
        self._watch = ImportWatch()
        self._numpy: NumpyHook | None = None
        self._torch: TorchHook | None = None

    def arm(self, limit_bytes: int) -> None:
        """Begin to refuse, in this thread and context.

        Args:
            limit_bytes: the use of the whole process that may not be exceeded, in bytes.
        """
        if self._armed:
            self.disarm()
        self._limit_bytes = limit_bytes
        self._refusals = []
        self._thread = threading.get_ident()
        self._armed = True
        for name, hook in (("numpy", self._hook_numpy), ("torch", self._hook_torch)):
            if name == "torch" and not self._torch_wanted:
                continue
            module = sys.modules.get(name)
            spec = getattr(module, "__spec__", None)
            if module is None or getattr(spec, "_initializing", False):
                self._watch.when_imported(name, hook)
            else:
                hook()

    def set_limit(self, limit_bytes: int) -> None:
        """Change the limit, in bytes, while armed; any thread may call it."""
        self._limit_bytes = limit_bytes

    def refusals(self) -> tuple[Refusal, ...]:
        """What has been refused since ``arm``."""
        return tuple(self._refusals)

    def disarm(self) -> tuple[Refusal, ...]:
        """Stop refusing; what was refused since ``arm``, the first hundred."""
        self._armed = False
        self._watch.forget()
        if self._numpy is not None:
            self._numpy.disarm()
        if self._torch is not None:
            self._torch.disarm()
        refusals, self._refusals = tuple(self._refusals), []
        return refusals

    def tiers(self) -> tuple[tuple[str, bool, str], ...]:
        """Each tier: its name, whether it works here, and why not (or what it waits for)."""
        numpy_why = _NOT_IMPORTED if self._numpy is None else self._numpy.reason
        torch_why = _NOT_IMPORTED if self._torch_wanted else "switched off"
        if self._torch is not None:
            torch_why = self._torch.reason
        return (
            ("numpy malloc", not numpy_why, numpy_why),
            ("torch functions", not torch_why, torch_why),
        )

    def close(self) -> None:
        """Put everything back as it was."""
        self.disarm()

    def _hook_numpy(self) -> None:
        if self._numpy is None:
            self._numpy = NumpyHook(self._refuses_numpy, self._threshold_bytes)
        if self._armed and threading.get_ident() == self._thread:
            self._numpy.arm()

    def _hook_torch(self) -> None:
        from h2q_notebook.guardian.torch_hook import TorchHook

        if self._torch is None:
            self._torch = TorchHook(self._left, self._note, self._threshold_bytes)
        if self._armed and threading.get_ident() == self._thread:
            self._torch.arm()

    def _refuses_numpy(self, asked_bytes: int) -> bool:
        left_bytes = self._left()
        if left_bytes is None or asked_bytes <= left_bytes:
            return False
        return self._note("numpy", asked_bytes, max(0, left_bytes))

    def _left(self) -> int | None:
        """What is left, in bytes, negative when over; None where nothing is guarded."""
        if not self._armed or os.getpid() != self._pid:
            return None  # a forked child has memory of its own, which read_used does not read
        try:
            return self._limit_bytes - self._read_used()
        except OSError:
            return None

    def _note(self, what: str, asked_bytes: int, left_bytes: int) -> bool:
        """Remember a refusal; True, so that it happens."""
        if len(self._refusals) < _MAX_REFUSALS:
            self._refusals.append(Refusal(what, asked_bytes, left_bytes))
        return True
