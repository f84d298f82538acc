"""Calls back once a named top-level module has been imported.

Covers modules that the guarded cell itself imports (``import torch`` inside the cell). Not
submodules, not modules put into ``sys.modules`` by hand, not built-in ones.

A finder at the head of ``sys.meta_path`` looks at the registered names only, asks the other finders
for the spec, and shadows ``exec_module`` on that one loader instance. Loader, spec and module stay
the objects they would have been. With nothing registered there is no finder.
"""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from types import ModuleType

__all__ = ["ImportWatch"]


class ImportWatch:
    """Names waited for and what to call; each callback runs at most once.

    It runs in the importing thread, right after the module's own code; an ``Exception`` in it is
    dropped, because an import must never fail on our account.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, Callable[[], None]] = {}

    def when_imported(self, name: str, callback: Callable[[], None]) -> None:
        """Call *callback* after the next successful import of *name*."""
        self._waiting[name] = callback
        if not any(finder is self for finder in sys.meta_path):
            sys.meta_path.insert(0, self)

    def forget(self) -> None:
        """Forget every name and take the finder away."""
        self._waiting.clear()
        sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not self]

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec the other finders give, with its loader watched; None for other names."""
        if name not in self._waiting:
            return None
        for finder in list(sys.meta_path):
            find = None if finder is self else getattr(finder, "find_spec", None)
            spec: importlib.machinery.ModuleSpec | None = find and find(name, path, target)
            if spec is not None:
                self._watch(spec)
                return spec
        return None

    def _watch(self, spec: importlib.machinery.ModuleSpec) -> None:
        """Shadow ``exec_module`` of the spec's loader until it has run once."""
        loader = spec.loader
        original = getattr(loader, "exec_module", None)
        if original is None or isinstance(loader, type):
            return

        def exec_module(module: ModuleType) -> None:
            if getattr(module, "__name__", None) == spec.name:
                loader.__dict__.pop("exec_module", None)
            original(module)
            if getattr(module, "__name__", None) == spec.name:
                self._imported(spec.name)

        try:
            loader.__dict__["exec_module"] = exec_module
        except (AttributeError, TypeError):
            return  # a loader without a __dict__: this import goes unnoticed

    def _imported(self, name: str) -> None:
        callback = self._waiting.pop(name, None)
        if not self._waiting:
            self.forget()
        if callback is not None:
            try:
                callback()
            except Exception:
                return
