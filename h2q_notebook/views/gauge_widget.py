"""The anywidget of the live gauge, and the two things every front end needs done to it.

Covers the widget class (made on first use: importing this module imports no widget library), the
cure that lets its buttons act while the cell runs, and its emptying. When to show and what to
show is ``gauge``. Imports nothing else of h2q.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from importlib import resources
from typing import Any

__all__ = ["Assets", "assets", "empty", "keep_shell", "widget_class"]


@dataclass(frozen=True, slots=True)
class Assets:
    """The built front end."""

    module: str
    """The ES module of every gauge, 5 kB."""
    style: str
    engine: str
    """The ES module that draws (plotly.js), 1.2 MB; a page needs it once."""
    engine_id: str


@functools.cache
def assets() -> Assets:
    """Read the built front end."""
    static = resources.files(__package__) / "static"

    def read(name: str) -> str:
        return (static / name).read_text(encoding="utf-8")

    engine = read("figure.js")
    digest = hashlib.sha256(engine.encode()).hexdigest()[:16]
    return Assets(read("gauge.js"), read("gauge.css"), engine, digest)


@functools.cache
def widget_class() -> Any:
    """Make the widget class; imports anywidget, so call it off the cell's own thread."""
    import anywidget
    import traitlets

    built = assets()

    class GaugeWidget(anywidget.AnyWidget):
        """One gauge on the page; its state is numbers, labels and phase words."""

        delivered = False
        """Whether a gauge of this kernel has carried the engine to its page."""

        _esm = traitlets.Unicode(built.module).tag(sync=True)
        _css = traitlets.Unicode(built.style).tag(sync=True)
        engine_id = traitlets.Unicode(built.engine_id).tag(sync=True)
        engine = traitlets.Unicode().tag(sync=True)
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

    A closed widget's last state is still kept by nbclient and written into the file (1.2 MB where
    it carried the engine), so the state is made small first.
    """
    with widget.hold_sync():
        widget.frame = {}
        widget.engine = ""
    widget.close()
