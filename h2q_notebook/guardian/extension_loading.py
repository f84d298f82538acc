"""While a C extension is initialised, the thread that does it is refused nothing by the gate.

The code that initialises an extension is written with no thought of a ``MemoryError``: numpy's own
ended in a SIGSEGV when one arena was refused to it. Afterwards the gate looks at what was loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.machinery import ExtensionFileLoader
from typing import Any

__all__ = ["let_extensions_pass", "letting_pass", "stop_letting_pass"]

_METHODS = ("create_module", "exec_module")
_originals: dict[str, Any] = {}


def let_extensions_pass(gate: Any, loaded: Callable[[], object]) -> None:
    """Have the loader of extensions tell the gate.

    Args:
        gate: the extension module.
        loaded: called when one has been loaded.
    """
    if _originals:
        return
    for name in _METHODS:
        original = _originals[name] = getattr(ExtensionFileLoader, name)
        setattr(ExtensionFileLoader, name, letting_pass(gate, original, loaded))


def letting_pass(
    gate: Any, method: Callable[[Any, Any], Any], loaded: Callable[[], object]
) -> Callable[[Any, Any], Any]:
    """The same method of the loader, refused nothing while it runs."""

    def passing(self: Any, given: Any) -> Any:
        gate.let_pass(1)
        try:
            return method(self, given)
        finally:
            gate.let_pass(-1)
            loaded()

    return passing


def stop_letting_pass() -> None:
    """Give the loader its own methods back."""
    for name, original in _originals.items():
        setattr(ExtensionFileLoader, name, original)
    _originals.clear()
