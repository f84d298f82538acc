"""Which gauge this front end can show, and making it.

Covers a guess from what the kernel can see: it is never told who is looking. Decided so, because:

* Terminal IPython shows no pictures: ``text``.
* ``JPY_SESSION_NAME`` is set by jupyter_server for kernels with a notebook: ``widgets``. (Asking
  ipywidgets is useless: its control comm is None even in JupyterLab.)
* A kernel without it is driven by nbclient, nbconvert, papermill or a console: nobody can press a
  button, and nbclient would store every widget's state in the file: ``html``.
* VS Code and Colab set no JPY_SESSION_NAME but do show anywidgets: ``widgets``. Neither sends
  clicks over a subshell, so a button would act only after the cell it is to stop; there the
  buttons are left out and the gauge says how to interrupt. (Read from their documentation and
  anywidget's source; h2q is not tested there.)

``H2Q_GAUGE=off|html|widgets`` overrides all of it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any, Literal

from h2q_notebook.errors import BadArgument
from h2q_notebook.units import MIB, shorten
from h2q_notebook.views.fallback import FallbackGauge
from h2q_notebook.views.gauge import LiveGauge
from h2q_notebook.views.gauge_frame import GaugeFrame

__all__ = ["Frontend", "buttons_act", "detect", "make_gauge"]

Frontend = Literal["widgets", "html", "text", "off"]
_HINT = "To end this cell, use Interrupt in the toolbar."


def _is_vscode(shell: Any, environ: Mapping[str, str]) -> bool:
    # A Jupyter server started from VS Code may hand VSCODE_PID on; its kernels have a session name.
    return "__vsc_ipynb_file__" in getattr(shell, "user_ns", {}) or (
        "VSCODE_PID" in environ and "JPY_SESSION_NAME" not in environ
    )


def _is_colab() -> bool:
    return "google.colab" in sys.modules


def detect(shell: Any, environ: Mapping[str, str]) -> Frontend:
    """Say what the front end of *shell* can show.

    Args:
        shell: the InteractiveShell, or None outside IPython.
        environ: the environment of the kernel.

    Returns:
        widgets, html, text, or off where the user said so.

    Raises:
        BadArgument: ``H2Q_GAUGE`` is set to something else than off, html or widgets.
    """
    wish = environ.get("H2Q_GAUGE", "").strip().lower()
    if wish and wish not in ("off", "html", "widgets"):
        raise BadArgument(f"H2Q_GAUGE: {shorten(wish)!r} is not one of off, html, widgets")
    if wish == "off":
        return "off"
    if getattr(shell, "kernel", None) is None:
        return "text"
    if wish == "html":
        return "html"
    seen = "JPY_SESSION_NAME" in environ or _is_vscode(shell, environ) or _is_colab()
    if (seen or wish == "widgets") and find_spec("anywidget") is not None:
        return "widgets"
    return "html"


def buttons_act(shell: Any, environ: Mapping[str, str]) -> bool:
    """True if a click can reach the kernel while a cell runs (subshells on both sides).

    ipykernel offers subshells from 7.0 on. Whether the page uses them cannot be asked; the
    gauge's page tells the user when a click stays unanswered.
    """
    kernel = getattr(shell, "kernel", None)
    offers = bool(getattr(kernel, "_supports_kernel_subshells", False))
    return offers and not _is_vscode(shell, environ) and not _is_colab()


def make_gauge(
    frontend: Frontend,
    read: Callable[[], GaugeFrame],
    *,
    label: str,
    delay_s: float = 0.7,
    raise_bytes: int = 512 * MIB,
    on_raise: Callable[[int], None] | None = None,
    on_stop: Callable[[], None] | None = None,
    persistent: bool = False,
    buttons: bool | None = None,
) -> LiveGauge | FallbackGauge:
    """Make the gauge for *frontend*; see ``LiveGauge`` for the arguments.

    Args:
        buttons: whether clicks can act while the cell runs; None asks ``buttons_act``.
    """
    if frontend != "widgets":
        return FallbackGauge(
            read, label=label, mode=frontend, delay_s=delay_s, persistent=persistent
        )
    if buttons is None:
        from IPython.core.getipython import get_ipython

        buttons = buttons_act(get_ipython(), os.environ)
    hint = "" if buttons or (on_stop is None and on_raise is None) else _HINT
    return LiveGauge(
        read,
        label=label,
        delay_s=delay_s,
        raise_bytes=raise_bytes,
        on_raise=on_raise if buttons else None,
        on_stop=on_stop if buttons else None,
        persistent=persistent,
        embed=not buttons,
        hint=hint,
    )
