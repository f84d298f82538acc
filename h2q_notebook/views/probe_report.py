"""What a probe found: what the cell would peak at, and on which copies that was learnt."""

from __future__ import annotations

from dataclasses import asdict
from html import escape
from typing import TYPE_CHECKING, Any

from h2q_notebook.units import format_bytes, format_seconds, shorten
from h2q_notebook.views.table import BOX, SOFT

if TYPE_CHECKING:
    from h2q_notebook.cell.outcome import ProbeResult

__all__ = ["bundle", "metadata"]

_SHOWN = 4


def bundle(found: ProbeResult) -> dict[str, str]:
    """``text/plain`` and ``text/html`` of the same content."""
    head = f"h2q · probe: {_found(found)}"
    rows = list(_rows(found))
    body = "".join(
        f'<div><span style="{SOFT}">{escape(key)}</span> {escape(value)}</div>'
        for key, value in rows
    )
    return {
        "text/plain": "\n".join([head, *(f"  {key:<9}{value}" for key, value in rows)]),
        "text/html": f'<div style="{BOX}"><b>{escape(head)}</b>{body}</div>',
    }


def _found(found: ProbeResult) -> str:
    took, peak = format_seconds(found.duration_s), format_bytes(found.peak_bytes)
    if found.status == "lost":
        return f"the worker ended before it could tell anything ({found.error}); seen: {peak}"
    if found.status == "over":
        return f"it wants more than {format_bytes(found.limit_bytes)}, which is all that was free"
    if found.status == "timeout":
        return f"at least {peak}; it was ended after {took} (--timeout)"
    exact = "" if found.exact else "about "
    share = found.peak_bytes / max(found.budget_bytes, 1)
    fits = "within" if share <= 1 else "over"
    return (
        f"{exact}{peak} at its peak, {fits} the budget of {format_bytes(found.budget_bytes)} "
        f"({share:.0%}); {format_bytes(found.retained_bytes)} kept, in {took}"
    )


def _rows(found: ProbeResult) -> list[tuple[str, str]]:
    rows = []
    if found.error and found.status == "error":
        rows.append(("error", f"{shorten(found.error, 200)}: the figures are up to there"))
    names = ", ".join(f"{one.name} {format_bytes(one.n_bytes)}" for one in found.copied[:_SHOWN])
    rest = len(found.copied) - _SHOWN
    more = f" and {rest} more" if rest > 0 else ""
    if names:
        rows.append(("copied", f"{names}{more}"))
    if found.missing:
        rows.append(("missing", f"{shorten(', '.join(found.missing), 200)}: could not be copied"))
    rows.append(("note", "your variables are untouched; files and network were really used"))
    return rows


def metadata(found: ProbeResult) -> dict[str, Any]:
    """JSON-ready."""
    return {"kind": "probe", **asdict(found)}
