"""A gauge that stands still: text/plain with a sparkline, text/html with an SVG of a few kB.

For front ends without widgets, and for what remains of a kernel gauge in the saved file. The
report of a guarded cell is another view (``report``). Imports ``units`` and ``gauge_frame``.
"""

from __future__ import annotations

import html

from h2q_notebook.units import format_bytes, format_seconds
from h2q_notebook.views.gauge_frame import GaugeFrame, History, badge, sentence, trend, words

__all__ = ["bundle", "line", "sparkline", "svg"]

_BARS = "▁▂▃▄▅▆▇█"
_COLOURS = {"calm": "#2e7d32", "warn": "#8a5200", "clean": "#c62828", "over": "#c62828"}
_MARKS = {"info": "#1f6feb", "warn": "#d29922", "bad": "#e5484d"}
_WIDTH, _HEIGHT, _LEFT = 640, 120, 64


def sparkline(history: History, limit_bytes: int, width: int = 40) -> str:
    """Draw the history with block characters; a full block is the limit (or the peak above it)."""
    used = history.used_bytes
    if not used:
        return ""
    n = min(width, len(used))
    cells = [max(used[i * len(used) // n : (i + 1) * len(used) // n]) for i in range(n)]
    top = max(limit_bytes, *cells, 1)
    return "".join(_BARS[max(0, min(7, int(8 * cell / top)))] for cell in cells)


def line(frame: GaugeFrame, history: History, label: str, width: int = 20) -> str:
    """Write the gauge as one line of text."""
    glyph, word = badge(frame)
    rate = trend(frame)
    graph = sparkline(history, frame.limit_bytes, width)
    return f"{glyph} {word} {label} {words(frame)}{f' · {rate}' if rate else ''} {graph}".rstrip()


def svg(frame: GaugeFrame, history: History, label: str) -> str:
    """Draw history, zones, limit and events; neutral colours, so that either theme is readable."""
    limit = max(0, frame.limit_bytes)
    top = max(limit, frame.peak_bytes, 1) * 1.15
    last_s = max(history.t_s[-1] if history.t_s else 0.0, 1e-3)
    right, floor = _WIDTH - 10, _HEIGHT - 18

    def x(t_s: float) -> float:
        return round(_LEFT + (right - _LEFT) * min(1.0, max(0.0, t_s / last_s)), 1)

    def y(n_bytes: float) -> float:
        return round(floor - (floor - 12) * max(0.0, n_bytes) / top, 1)

    def zone(low: float, high: float, colour: str) -> str:
        return (
            f'<rect x="{_LEFT}" y="{y(high * limit)}" width="{right - _LEFT}" '
            f'height="{y(low * limit) - y(high * limit):.1f}" fill="{colour}" opacity=".28"/>'
        )

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" '
        f'aria-label="{html.escape(sentence(frame, label))}" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'width="100%" style="max-width:{_WIDTH}px" font-family="sans-serif" font-size="10" '
        f'fill="currentColor">'
    ]
    if limit:
        parts += [
            zone(0.8, 0.9, "#f5a623"),
            zone(0.9, 1.0, "#d32f2f"),
            f'<line x1="{_LEFT}" x2="{right}" y1="{y(limit)}" y2="{y(limit)}" '
            f'stroke="currentColor" stroke-dasharray="5 3"/>',
            f'<text x="{_LEFT + 2}" y="{y(limit) - 3}">limit {format_bytes(limit)}</text>',
        ]
    points = " ".join(
        f"{x(t)},{y(used)}" for t, used in zip(history.t_s, history.used_bytes, strict=True)
    )
    parts.append(f'<polyline fill="none" stroke="#1f6feb" stroke-width="2" points="{points}"/>')
    parts += [
        f"<g><title>{html.escape(e.text)}, {format_seconds(e.t_s)}</title>"
        f'<circle cx="{x(e.t_s)}" cy="{y(e.used_bytes)}" r="4" fill="{_MARKS[e.kind]}"/></g>'
        for e in frame.events[-12:]
    ]
    parts += [
        f'<text x="{_LEFT - 4}" y="{floor}" text-anchor="end">0</text>',
        f'<text x="{_LEFT - 4}" y="{y(frame.peak_bytes) + 3}" text-anchor="end">'
        f"{format_bytes(frame.peak_bytes)}</text>",
        f'<text x="{_LEFT}" y="{_HEIGHT - 4}">0 s</text>',
        f'<text x="{right}" y="{_HEIGHT - 4}" text-anchor="end">{format_seconds(last_s)}</text>',
        "</svg>",
    ]
    return "".join(parts)


def bundle(frame: GaugeFrame, history: History, label: str) -> dict[str, str]:
    """Return text/plain and text/html of the gauge as it stands."""
    glyph, word = badge(frame)
    rate = trend(frame)
    head = (
        f'<div style="font:13px/20px system-ui,sans-serif">'
        f'<span style="background:{_COLOURS[frame.level]};color:#fff;border-radius:4px;'
        f'padding:0 7px;font-weight:600">{glyph} {word}</span> '
        f"<b>{html.escape(label)}</b> {html.escape(words(frame))}"
        f"{f' · {rate}' if rate else ''}</div>"
    )
    return {
        "text/plain": line(frame, history, label, width=40),
        "text/html": head + svg(frame, history, label),
    }
