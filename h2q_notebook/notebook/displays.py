"""How values that h2q returns look as the result of a cell.

The rooms that make them know nothing of displays; the session tells IPython here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["forget", "register"]

# By name, so that nothing is imported before a value of the kind exists.
_SHOWN = {
    ("h2q_notebook.bench.outcome", "BenchRun"): "bench_report",
    ("h2q_notebook.load.outcome", "LadderEstimate"): "estimate_report",
}


def register(shell: Any) -> None:
    """Let IPython show each kind of value as its view does."""
    for (module, name), view in _SHOWN.items():
        shell.display_formatter.mimebundle_formatter.for_type_by_name(module, name, _shower(view))


def forget(shell: Any) -> None:
    """Undo ``register``."""
    formatter = shell.display_formatter.mimebundle_formatter
    for module, name in _SHOWN:
        formatter.deferred_printers.pop((module, name), None)
        for kind in [one for one in formatter.type_printers if _named(one) == (module, name)]:
            formatter.type_printers.pop(kind, None)


def _named(kind: type) -> tuple[str, str]:
    return kind.__module__, kind.__name__


def _shower(view: str) -> Callable[..., tuple[dict[str, str], dict[str, Any]]]:
    def show(value: Any, **unused: Any) -> tuple[dict[str, str], dict[str, Any]]:
        from importlib import import_module

        room = import_module(f"h2q_notebook.views.{view}")
        return room.bundle(value), {"h2q": room.metadata(value)}

    return show
