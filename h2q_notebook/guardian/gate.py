"""The compiled gate, where it was built: one large request that does not fit never grows.

Covers finding it, trying it out, opening its doors, and what it refused or granted all the same.
The doors themselves are ``native/``; which of them there are is ``gate_rules``.
"""

from __future__ import annotations

import mmap
import os
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

from h2q_notebook.guardian.extension_loading import let_extensions_pass, stop_letting_pass
from h2q_notebook.guardian.gate_rules import DOORS, RULES, Level, library_name
from h2q_notebook.guardian.page import SharedPage, Word
from h2q_notebook.units import MIB

__all__ = ["Gate", "GatePassed", "GateRefusal", "compiled"]

_THRESHOLD_BYTES = 16 * MIB
_NOT_STARTED = "not started"
_PYTHON_DOORS = (0, 1)


@dataclass(frozen=True, slots=True)
class GateRefusal:
    """One request that was refused."""

    what: str
    """``Python`` (strings, lists, integers ...), ``numpy``, ``torch`` or another library."""
    asked_bytes: int
    used_bytes: int
    """With what children hold, and what was granted and not yet touched."""
    limit_bytes: int


@dataclass(frozen=True, slots=True)
class GatePassed:
    """What a library asked for beyond the limit and was granted: refusing could end the kernel."""

    what: str
    count: int
    asked_bytes: int
    """The largest request."""
    left_bytes: int
    """What was left when it was made."""


def compiled() -> Any | None:
    """The extension; None where it was not built, or must not be imported."""
    if _why_no_gate():
        return None
    try:
        return import_module("h2q_notebook.guardian._gate")
    except ImportError:
        return None


class Gate:
    """The gate of this process; one at a time has it.

    Nothing is changed in the process before ``begin``.

    Args:
        module: the extension; None: it was not built.
    """

    _holder: ClassVar[Gate | None] = None

    def __init__(self, module: Any | None = None) -> None:
        self._gate = module
        not_built = _why_no_gate() or "not built: no compiler when h2q was installed"
        self.reason = _NOT_STARTED if module else not_built
        """Why it is off; empty while it works."""
        self._page: SharedPage | None = None
        self._watching = False
        self._level = Level.OFF

    @property
    def works(self) -> bool:
        """Whether it may be armed."""
        return not self.reason

    # -- life ---------------------------------------------------------------------------------

    def begin(self) -> bool:
        """Try it out and make it ready; where it does not work, nothing of it stays.

        Returns:
            Whether it works; ``reason`` says why not. Asked again, it says the same, but where
            another guardian of this process had it and has given it up.
        """
        if self.works or self._gate is None:
            return self.works
        if Gate._holder is not None:
            self.reason = "another guardian of this process has it"
            return False
        if self.reason != _NOT_STARTED and not self.reason.startswith("another"):
            return False
        self.reason = _why_no_gate() or self._try_out()
        if self.reason:
            self._gate.close_doors()
            return False
        Gate._holder = self
        let_extensions_pass(self._gate, self._look)
        self._follow()
        return True

    def _try_out(self) -> str:
        """One request granted, one refused, one lazy one passed; else why not."""
        gate = self._gate
        assert gate is not None
        with mmap.mmap(-1, mmap.PAGESIZE) as page:
            try:
                for rule in RULES:
                    gate.know(rule.text, rule.kind, rule.level)
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

    def watch(self, page: SharedPage) -> None:
        """Take limit and use of children from *page*, which the sidecar writes too."""
        self._page = page
        self._follow()

    def _follow(self) -> None:
        if self.works and self._page is not None and self._gate is not None and not self._watching:
            self._gate.watch(self._page.memory, Word.LIMIT, Word.EXTRA, Word.REFUSED)
            self._watching = True

    def unwatch(self) -> None:
        """Let the page go; it could not be closed before."""
        self._page = None
        if self._watching and self._gate is not None:
            self._gate.unwatch()
            self._watching = False

    def open(self, module: str, level: Level = Level.SAFE) -> bool:
        """Open the doors of a module that has been imported.

        Returns:
            Whether its memory is behind one of them; else it is linked in some other way, and
            its refusals stay with others.
        """
        if not self.works or self._gate is None:
            return False
        doors = [door for door in DOORS if door.library == module and door.level <= level]
        opened = {door: self._gate.open_door(door.file, door.symbol) for door in doors}
        return any(changed for door, changed in opened.items() if door.level is Level.SAFE)

    def close(self) -> None:
        """Put everything back."""
        self.unwatch()
        if self._gate is not None and self.works:
            stop_letting_pass()
            self._gate.close_doors()
            Gate._holder = None
            self.reason = _NOT_STARTED

    # -- one cell -----------------------------------------------------------------------------

    def arm(self, level: Level = Level.SAFE) -> None:
        """Refuse from now on what passes the limit that stands in the page."""
        if self._watching and self._gate is not None and level > Level.OFF:
            self._level = level
            self._gate.arm(_THRESHOLD_BYTES, level)

    def pause(self) -> None:
        """Refuse nothing any more; what was refused is kept."""
        if self.works and self._gate is not None:
            self._gate.disarm()

    def forget(self) -> None:
        """The cell has been told of."""
        self._level = Level.OFF

    def refusals(self) -> tuple[GateRefusal, ...]:
        """The last ones since it was armed, oldest first."""
        if self._gate is None or not self._watching or self._level is Level.OFF:
            return ()
        return tuple(
            GateRefusal(_asker(door, path), asked, used, limit)
            for door, path, asked, used, limit in self._gate.events()
        )

    def passed(self) -> tuple[GatePassed, ...]:
        """What was granted beyond the limit since it was armed, the largest request first."""
        if self._gate is None or not self._watching or self._level is Level.OFF:
            return ()
        told = [
            GatePassed(library_name(path), count, asked, left)
            for path, count, asked, left in self._gate.passed()
        ]
        return tuple(sorted(told, key=lambda one: -one.asked_bytes))

    def _look(self) -> None:
        """An extension has been loaded, with what it needs.

        The doors are opened at once: between numpy's core and the end of ``import numpy`` its
        realloc would be refused as one of Python's.
        """
        if self._gate is not None and self._gate.scan(self._level is Level.WIDE):
            for door in DOORS:
                if door.level <= self._level:
                    self._gate.open_door(door.file, door.symbol)


def _why_no_gate() -> str:
    """Where Python's blocks are not malloc's, their sizes cannot be told."""
    # The build is asked about, not whether the GIL is on: importing the extension switches it on.
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "not on a free-threaded Python"
    allocator = os.environ.get("PYTHONMALLOC", "")
    return f"not with PYTHONMALLOC={allocator}" if allocator.startswith("mimalloc") else ""


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


def _asker(door: int, path: str) -> str:
    return "Python" if door in _PYTHON_DOORS else library_name(path)
