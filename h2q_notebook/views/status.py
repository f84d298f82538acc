"""What ``%h2q_status`` shows: memory, lines of defence, the last guarded cells.

Covers text and static HTML from plain data. Imports ``units`` alone at run time.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

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
    ceiling: tuple[int, str, str, float | None] | None = None
    """The kernel's ceiling in bytes, the limit it is from, its state, seconds until it is full."""
    pressure: str = ""
    """How short the machine is of memory, in words."""
    layers: tuple[tuple[str, int, int | None, str], ...] = ()
    """Layer, bytes, its own limit in bytes, what is in it."""
    devices: tuple[tuple[str, str, int, int, int, int | None], ...] = ()
    """Name, model, bytes in tensors, bytes held for them, total, and free (None: not known)."""
    names: tuple[tuple[str, str, int], ...] = ()
    """Name, type and about how many bytes, largest first."""
    events: tuple[tuple[float, str, str], ...] = ()
    """Seconds since the epoch, kind, text."""
    settings: tuple[tuple[str, Any, str], ...] = ()
    """Those that are no defaults: name, value, and the layer they are from."""


def _tables(status: Status) -> list[tuple[str, _Table]]:
    tables: list[tuple[str, _Table]] = [("memory", _memory(status))]
    if status.layers:
        tables.append(("layers", [_layer(*row) for row in status.layers]))
    lines: _Table = [(name, "on" if on else "off", why) for name, on, why in status.tiers]
    tables.append(("lines of defence", lines))
    if status.outcomes:
        tables.append(("last guarded cells", [_cell(one) for one in status.outcomes]))
    if status.models:
        models: _Table = [(name, kind, format_bytes(n)) for name, kind, n in status.models]
        tables.append(("models", models))
    if status.devices:
        tables.append(("devices", [_device(*row) for row in status.devices]))
    if status.names:
        names: _Table = [
            (shorten(name, 40), shorten(kind, 40), f"about {format_bytes(n)}")
            for name, kind, n in status.names
        ]
        tables.append(("your largest names", names))
    if status.events:
        events: _Table = [
            (time.strftime("%H:%M:%S", time.localtime(at_s)), kind, shorten(text, 160))
            for at_s, kind, text in status.events
        ]
        tables.append(("what happened", events))
    if status.settings:
        changed: _Table = [(name, str(value), origin) for name, value, origin in status.settings]
        tables.append(("settings that are no defaults", changed))
    return tables


def _memory(status: Status) -> _Table:
    every = f"every cell: {status.default}" if status.default else "cells that ask for it"
    rows: _Table = [
        ("kernel holds", format_bytes(status.used_bytes)),
        ("can still be given", f"{format_bytes(status.free_bytes)} ({status.free_source})"),
    ]
    if status.ceiling is not None:
        limit, source, state, left_s = status.ceiling
        rate = f", full in {format_seconds(left_s)} at this rate" if left_s and left_s < 600 else ""
        rows.append(("ceiling", f"{format_bytes(limit)} ({source}): {state}{rate}"))
    if status.pressure:
        rows.append(("pressure", status.pressure))
    return [*rows, ("guarded", every)]


def _layer(name: str, n_bytes: int, limit: int | None, what: str) -> tuple[str, ...]:
    limited = "–" if limit is None else f"of {format_bytes(limit)}"
    return name, format_bytes(n_bytes), limited, shorten(what, 80)


def _device(
    name: str, model: str, used: int, held: int, total: int, free: int | None
) -> tuple[str, ...]:
    left = "free: not known" if free is None else f"{format_bytes(free)} free"
    mine = f"{format_bytes(used)} in tensors, {format_bytes(held)} held for them"
    return name, shorten(model, 40), mine, f"{left} of {format_bytes(total)}"


def _cell(outcome: CellOutcome) -> tuple[str, ...]:
    return (
        shorten(outcome.label, 30) or f"[{outcome.execution_count}]",
        outcome.status,
        f"peak {format_bytes(outcome.peak_bytes)}",
        f"kept {format_bytes(outcome.retained_bytes)}",
        format_seconds(outcome.duration_s),
    )


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
