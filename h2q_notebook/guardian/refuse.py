"""Refuses single requests that do not fit the rest of the budget, before they grow.

Covers what the compiled gate covers where it was built (``gate``: Python's own allocators, numpy,
torch's CPU allocator, in every thread; more in the level ``wide``); else numpy allocations
(``numpy_hook``) and a list of torch functions (``torch_hook``), in the thread that arms. At or
above a threshold. Not growth by many small requests (the sidecar's work), not polars, not GPUs.

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

from h2q_notebook.guardian.arrow_pool import ArrowPool
from h2q_notebook.guardian.gate import Gate, GatePassed
from h2q_notebook.guardian.gate_rules import Level
from h2q_notebook.guardian.numpy_hook import NumpyHook
from h2q_notebook.guardian.on_import import ImportWatch
from h2q_notebook.units import MIB

if TYPE_CHECKING:
    from h2q_notebook.guardian.page import SharedPage
    from h2q_notebook.guardian.torch_hook import TorchHook

__all__ = ["Refusal", "Refuser"]

_MAX_REFUSALS = 100  # a cell may catch MemoryError and try again for ever
_NOT_IMPORTED = "not imported"
_SWITCHED_OFF = "switched off: setting gate"


@dataclass(frozen=True, slots=True)
class Refusal:
    """One request that was refused."""

    what: str
    """``numpy``, ``torch``, ``Python`` (strings, lists, integers ...), or the torch function."""
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
            Not used where the gate has torch's allocator.
        gate: the compiled gate; None: there is none. It begins with the first level above off.
    """

    def __init__(
        self,
        read_used: Callable[[], int],
        *,
        threshold_bytes: int = 32 * MIB,
        torch_functions: bool = True,
        gate: Gate | None = None,
    ) -> None:
        self._gate = Gate() if gate is None else gate
        self._level = Level.OFF
        self._arrow = ArrowPool()
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

    def begin(self, level: Level) -> None:
        """Make the gate ready for cells of that level."""
        if level > Level.OFF:
            self._gate.begin()

    def arm(self, limit_bytes: int, level: Level = Level.OFF) -> None:
        """Begin to refuse, in this thread and context.

        Args:
            limit_bytes: the use of the whole process that may not be exceeded, in bytes.
            level: how much the gate may refuse.
        """
        if self._armed:
            self.disarm()
        self.begin(level)
        self._level = level
        self._limit_bytes = limit_bytes
        self._refusals = []
        self._thread = threading.get_ident()
        self._armed = True
        hooks = {"numpy": self._hook_numpy, "torch": self._hook_torch, "pyarrow": self._hook_arrow}
        for name, hook in hooks.items():
            module = sys.modules.get(name)
            spec = getattr(module, "__spec__", None)
            if module is None or getattr(spec, "_initializing", False):
                self._watch.when_imported(name, hook)
            else:
                hook()
        self._gate.arm(level)

    def watch(self, page: SharedPage) -> None:
        """Follow the limit that stands in *page*, as the gate does."""
        self._gate.watch(page)

    def unwatch(self) -> None:
        """Let the page go, before it is closed."""
        self._gate.unwatch()

    def pause(self) -> None:
        """The cell has been left: the gate refuses nothing any more."""
        self._gate.pause()

    def set_limit(self, limit_bytes: int) -> None:
        """Change the limit, in bytes, while armed; any thread may call it."""
        self._limit_bytes = limit_bytes

    def refusals(self) -> tuple[Refusal, ...]:
        """What has been refused since ``arm``, the first hundred and the gate's last ones."""
        told = (
            Refusal(one.what, one.asked_bytes, max(0, one.limit_bytes - one.used_bytes))
            for one in self._gate.refusals()
        )
        return (*self._refusals, *told)

    def passed(self) -> tuple[GatePassed, ...]:
        """What the gate granted beyond the limit since ``arm``: refusing could end the kernel."""
        return self._gate.passed()

    def disarm(self) -> tuple[Refusal, ...]:
        """Stop refusing; see ``refusals`` for what is told."""
        self._gate.pause()
        refusals = self.refusals() if self._armed else ()
        self._armed = False
        self._watch.forget()
        if self._numpy is not None:
            self._numpy.disarm()
        if self._torch is not None:
            self._torch.disarm()
        self._refusals = []
        self._arrow.disarm()
        self._gate.forget()
        return refusals

    def tiers(self, level: Level = Level.SAFE) -> tuple[tuple[str, bool, str], ...]:
        """Each tier: its name, whether it works here, and why not (or what it waits for).

        Args:
            level: what the next cell will ask for.
        """
        numpy_why = _NOT_IMPORTED if self._numpy is None else self._numpy.reason
        torch_why = _NOT_IMPORTED if self._torch_wanted else "switched off"
        if self._torch is not None:
            torch_why = self._torch.reason
        if self._gate.works and level > Level.OFF:
            told = "Python, numpy and torch"
            if level is Level.WIDE:
                told = "Python, numpy, torch and pyarrow"
            return (("compiled gate", True, f"large requests of {told}, before they grow"),)
        off = self._gate.reason if level > Level.OFF else _SWITCHED_OFF
        return (
            ("compiled gate", False, off),
            ("numpy malloc", not numpy_why, numpy_why),
            ("torch functions", not torch_why, torch_why),
        )

    def close(self) -> None:
        """Put everything back as it was."""
        self.disarm()
        self._gate.close()

    def _gated(self, module: str) -> bool:
        return self._level > Level.OFF and self._gate.open(module, self._level)

    def _hook_numpy(self) -> None:
        if self._gated("numpy"):
            return
        if self._numpy is None:
            self._numpy = NumpyHook(self._refuses_numpy, self._threshold_bytes)
        if self._armed and threading.get_ident() == self._thread:
            self._numpy.arm()

    def _hook_arrow(self) -> None:
        if self._level is Level.WIDE and self._gate.works:
            self._arrow.arm()
            self._gate.open("pyarrow", self._level)

    def _hook_torch(self) -> None:
        if self._gated("torch") or not self._torch_wanted:
            return
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
