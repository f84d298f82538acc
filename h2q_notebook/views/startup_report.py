"""What a start, a stop or a restart shows: a row for each layer."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from h2q_notebook.units import format_bytes, format_seconds, shorten
from h2q_notebook.views.table import BOX, html_table, text_table

if TYPE_CHECKING:
    from h2q_notebook.startup.layered import LayerReport, StartupReport

__all__ = ["bundle", "metadata"]

_HEAD = ("layer", "state", "time", "memory", "")
_MARKS = {"ready": "✓ ready", "failed": "✗ failed", "undone": "↶ undone", "not reached": "–"}


def bundle(report: StartupReport, what: str) -> dict[str, str]:
    """All layers as ``text/plain`` and ``text/html``.

    Args:
        report: what became of them.
        what: ``started``, ``stopped`` or ``restarted``.
    """
    title = f"h2q · {what}" if report.ok else "h2q · not started; all that was done is undone"
    rows = [_row(one) for one in report.layers]
    return {
        "text/plain": "\n".join([title, *text_table(_HEAD, rows)]),
        "text/html": f'<div style="{BOX}"><b>{escape(title)}</b>{html_table(_HEAD, rows)}</div>',
    }


def _row(one: LayerReport) -> tuple[str, ...]:
    sign = "+" if one.added_bytes >= 0 else "-"
    return (
        one.name,
        _MARKS.get(one.state, one.state),
        format_seconds(one.took_s) if one.took_s else "–",
        f"{sign}{format_bytes(abs(one.added_bytes))}" if one.added_bytes else "–",
        shorten(one.said, 240),
    )


def metadata(report: StartupReport) -> dict[str, Any]:
    """JSON-ready."""
    return {
        "kind": "startup",
        "ok": report.ok,
        "layers": [
            {"name": one.name, "state": one.state, "took_s": round(one.took_s, 4),
             "added_bytes": one.added_bytes}
            for one in report.layers
        ],
    }  # fmt: skip
