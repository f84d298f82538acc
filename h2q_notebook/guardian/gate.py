"""The compiled gate, where it was built: one large request that does not fit never grows.

Covers finding it, trying it out, opening its doors, and what it refused. The doors themselves are
``native/``; which of them are opened by default is decided by what ``benchmarks/gate_faults.py``
found: after a refusal, each operation behind an open door ended in a Python exception or went on.
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.machinery import ExtensionFileLoader
from typing import Any

from h2q_notebook.guardian.page import SharedPage, Word
from h2q_notebook.units import MIB

__all__ = ["DOORS", "Gate", "GateRefusal", "compiled"]

_THRESHOLD_BYTES = 16 * MIB
_CLOSED = "not started"
_WORDS = {0: "Python", 1: "Python", 2: "malloc", 3: "aligned allocation"}
DOORS: dict[str, tuple[tuple[str, str], ...]] = {
    # Never numpy's realloc: pandas swallows its failure and writes out of bounds.
    "numpy": (("_multiarray_umath", "malloc"),),
    "torch": (("libc10.so", "posix_memalign"),),
}
"""For each module, the objects whose entries are changed, and which of them."""


@dataclass(frozen=True, slots=True)
class GateRefusal:
    """One request that was refused."""

    what: str
    """``Python`` (strings, lists, integers ...), ``numpy`` or ``torch``."""
    asked_bytes: int
    used_bytes: int
    """With what children hold, and what was granted and not yet touched."""
    limit_bytes: int


def compiled() -> Any | None:
    """The extension; None where it was not built."""
    try:
        return import_module("h2q_notebook.guardian._gate")
    except ImportError:
        return None


class Gate:
    """The gate of this process; one at a time.

    Args:
        module: the extension; None for one that stays off.
        why_not: why it stays off.
    """

    def __init__(self, module: Any | None = None, why_not: str = "") -> None:
        self._gate = module
        self.reason = why_not or "not built: no compiler was there when h2q was installed"
        """Why it is off; empty while it works."""
        self.opened: tuple[str, ...] = ()
        self._watching = False
        if module is not None:
            self.reason = _why_no_gate() or self._begin()

    @property
    def works(self) -> bool:
        """Whether it may be armed."""
        return not self.reason

    def _begin(self) -> str:
        """Try it out; where it does not work, nothing of it stays. Why it does not, or empty."""
        why = self._try_out()
        if why and self._gate is not None:
            self._gate.close_doors()
        elif not why:
            let_extensions_pass(self._gate)
        return why

    def _try_out(self) -> str:
        """One request granted, one refused, one lazy one passed; else why not."""
        gate = self._gate
        assert gate is not None
        with mmap.mmap(-1, mmap.PAGESIZE) as page:
            try:
                gate.watch(page, Word.LIMIT, Word.EXTRA, Word.REFUSED)
                gate.open_python()
                words = memoryview(page).cast("q")
                try:
                    return _verdict(gate, words)
                finally:
                    words.release()
            except (OSError, RuntimeError) as error:
                return f"it does not work here ({error})"
            finally:
                gate.disarm()
                gate.unwatch()

    # -- life ---------------------------------------------------------------------------------

    def watch(self, page: SharedPage) -> None:
        """Take limit and use of children from *page*, which the sidecar writes too."""
        if self.reason == _CLOSED:
            self.reason = self._begin()
        if self.works and self._gate is not None:
            self._gate.watch(page.memory, Word.LIMIT, Word.EXTRA, Word.REFUSED)
            self._watching = True

    def unwatch(self) -> None:
        """Let the page go; it could not be closed before."""
        if self._watching and self._gate is not None:
            self._gate.unwatch()
            self._watching = False

    def open(self, module: str) -> bool:
        """Open the doors of a module that has been imported; whether there were any."""
        if not self.works or self._gate is None:
            return False
        if module not in self.opened:
            changed = [self._gate.open_door(*door) for door in DOORS[module]]
            if not any(changed):
                return False  # linked in some other way: its refusals stay with others
            self.opened += (module,)
        return True

    def close(self) -> None:
        """Put everything back."""
        self.unwatch()
        if self._gate is not None and self.works:
            stop_letting_pass()
            self._gate.close_doors()
            self.opened = ()
            self.reason = _CLOSED

    # -- one cell -----------------------------------------------------------------------------

    def arm(self) -> None:
        """Refuse from now on what passes the limit that stands in the page."""
        if self._watching and self._gate is not None:
            self._gate.arm(_THRESHOLD_BYTES)

    def pause(self) -> None:
        """Refuse nothing any more; what was refused is kept."""
        if self._gate is not None:
            self._gate.disarm()

    def refusals(self) -> tuple[GateRefusal, ...]:
        """The last ones since it was armed, oldest first."""
        if self._gate is None or not self._watching:
            return ()
        return tuple(
            GateRefusal(_name(door, file), asked, used, limit)
            for door, file, asked, used, limit in self._gate.events()
        )


_METHODS = ("create_module", "exec_module")
_originals: dict[str, Any] = {}


def let_extensions_pass(gate: Any) -> None:
    """While a C extension is initialised, the thread that does it is refused nothing."""
    if _originals:
        return
    for name in _METHODS:
        original = _originals[name] = getattr(ExtensionFileLoader, name)
        setattr(ExtensionFileLoader, name, letting_pass(gate, original))


def letting_pass(gate: Any, method: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """The same method of the loader, refused nothing while it runs."""

    def passing(self: Any, given: Any) -> Any:
        gate.let_pass(1)
        try:
            return method(self, given)
        finally:
            gate.let_pass(-1)

    return passing


def stop_letting_pass() -> None:
    """Give the loader its own methods back."""
    for name, original in _originals.items():
        setattr(ExtensionFileLoader, name, original)
    _originals.clear()


def _why_no_gate() -> str:
    """A free-threaded Python allocates by other ways than the public ones."""
    return (
        "" if getattr(sys, "_is_gil_enabled", lambda: True)() else "not on a free-threaded Python"
    )


def _verdict(gate: Any, words: memoryview) -> str:
    large = 2 * MIB  # small, and with a threshold to match: a trial must cost nothing
    words[Word.LIMIT] = gate.used() + 64 * MIB
    gate.arm(MIB)
    granted = _asked(lambda: b"x" * large)
    words[Word.LIMIT] = gate.used() + MIB
    gate.arm(MIB)
    refused = not _asked(lambda: b"x" * large)
    counted = words[Word.REFUSED]
    lazy = _asked(lambda: bytes(large))
    gate.disarm()
    if granted and refused and lazy and counted == 1:
        return ""
    return f"its trial failed (granted {granted}, refused {refused}, lazy {lazy}, told {counted})"


def _asked(request: Callable[[], object]) -> bool:
    try:
        request()
    except MemoryError:
        return False
    return True


def _name(door: int, file: str) -> str:
    for module, doors in DOORS.items():
        if any(file.startswith(start) for start, _ in doors):
            return module
    return _WORDS.get(door, "malloc")
