"""The anywidget of the live gauge, and the two things every front end needs done to it.

Covers the widget class (made on first use: importing this module imports no widget library), the
cure that lets its buttons act while the cell runs, and its emptying. When to show and what to
show is ``gauge``. Imports nothing else of h2q.
"""

from __future__ import annotations

import functools
from importlib import resources
from typing import Any

__all__ = ["assets", "empty", "keep_shell", "widget_class"]

# A module that draws nothing; see ``empty``.
_NO_ESM = "export default { render() {} }"


@functools.cache
def assets() -> tuple[str, str]:
    """Read the built front end: (ES module, style sheet)."""
    static = resources.files(__package__) / "static"
    return (
        (static / "gauge.js").read_text(encoding="utf-8"),
        (static / "gauge.css").read_text(encoding="utf-8"),
    )


@functools.cache
def widget_class() -> Any:
    """Make the widget class; imports anywidget, so call it off the cell's own thread."""
    import anywidget
    import traitlets

    esm, css = assets()

    class GaugeWidget(anywidget.AnyWidget):
        """One gauge on the page; its state is numbers, labels and phase words."""

        _esm = traitlets.Unicode(esm).tag(sync=True)
        _css = traitlets.Unicode(css).tag(sync=True)
        label = traitlets.Unicode().tag(sync=True)
        hint = traitlets.Unicode().tag(sync=True)
        raise_text = traitlets.Unicode().tag(sync=True)
        can_raise = traitlets.Bool(False).tag(sync=True)
        can_stop = traitlets.Bool(False).tag(sync=True)
        frame = traitlets.Dict().tag(sync=True)

        def __repr__(self) -> str:
            # text/plain for a front end without this widget (and for the saved file, if the
            # kernel dies before the gauge could be replaced).
            return f"h2q memory gauge of {self.label} (live only while its kernel runs)"

    return GaugeWidget


def keep_shell(comm: Any) -> None:
    """Let the page's messages to *comm* arrive on the subshell that the page chose.

    ipykernel 7.4.0 notes, at each publish, on which shell the comm was last used and sends the
    page's messages there. A gauge publishes from the main shell's cell, so its clicks would wait
    for the end of the very cell they are to stop. 7.0 to 7.3 lack the method and need no cure.
    """
    if hasattr(comm, "_reply_subshell_for"):
        comm._reply_subshell_for = lambda _data, default: default


def empty(widget: Any) -> None:
    """Drop what the widget holds, then close it and its comm.

    A closed widget's last state is still kept by nbclient and written into the file (1.2 MB of
    module per gauge), so the state is made small first.
    """
    with widget.hold_sync():
        widget.frame = {}
        widget._esm = _NO_ESM
        widget._css = ""
    widget.close()
