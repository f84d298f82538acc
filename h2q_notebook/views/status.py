"""What ``%h2q_status`` shows: memory, lines of defence, the last guarded cells.

Covers text and static HTML from plain data. Imports ``units`` alone at run time.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from h2q_notebook.units import format_bytes, format_seconds, shorten

if TYPE_CHECKING:
    from h2q_notebook.cell.outcome import CellOutcome

__all__ = ["Status", "bundle"]

_Table = list[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Status:
    """The state of a session at one moment."""

    used_bytes: int
    free_bytes: int
    free_source: str
    tiers: tuple[tuple[str, bool, str], ...]
    default: str | None
    """The size every cell is guarded with, as typed; None: only cells that ask."""
    outcomes: tuple[CellOutcome, ...]
    models: tuple[tuple[str, str, int], ...] = ()
    """Name, class and resident bytes of each model loaded by h2q that still lives."""


def _tables(status: Status) -> list[tuple[str, _Table]]:
    every = f"every cell: {status.default}" if status.default else "cells that ask for it"
    tables: list[tuple[str, _Table]] = [
        (
            "memory",
            [
                ("kernel holds", format_bytes(status.used_bytes)),
                ("can still be given", f"{format_bytes(status.free_bytes)} ({status.free_source})"),
                ("guarded", every),
            ],
        ),
        (
            "lines of defence",
            [(name, "on" if on else "off", why) for name, on, why in status.tiers],
        ),
    ]
    if status.outcomes:
        rows: _Table = [
            (
                shorten(outcome.label, 30) or f"[{outcome.execution_count}]",
                outcome.status,
                f"peak {format_bytes(outcome.peak_bytes)}",
                f"kept {format_bytes(outcome.retained_bytes)}",
                format_seconds(outcome.duration_s),
            )
            for outcome in status.outcomes
        ]
        tables.append(("last guarded cells", rows))
    if status.models:
        models: _Table = [(name, kind, format_bytes(n)) for name, kind, n in status.models]
        tables.append(("models", models))
    return tables


def bundle(status: Status) -> dict[str, str]:
    """Return ``text/plain`` and ``text/html`` of the same content."""
    text, html = [], []
    for title, rows in _tables(status):
        text.append(f"h2q · {title}")
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        text += [
            "  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        cells = "".join(
            "<tr>" + "".join(f'<td style="text-align:left">{escape(c)}</td>' for c in row) + "</tr>"
            for row in rows
        )
        html.append(f"<b>h2q · {escape(title)}</b><table>{cells}</table>")
    return {"text/plain": "\n".join(text), "text/html": "".join(html)}
