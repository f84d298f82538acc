"""What stays of a gauge when its cell has ended: one text line and one drawing of a few kB.

Covers the MIME bundle and the metadata of a finished cell. The words come from ``report``; the
drawing is inline SVG with no script and no remote asset, in ``currentColor``, so that the page's
own theme colours it, also years later in a saved notebook or an exported page. Where SVG is
stripped (an untrusted notebook) the words still stand.
Imports ``units``, ``report``, ``isolated`` and ``spark`` alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from h2q_notebook.units import format_bytes, format_seconds, shorten
from h2q_notebook.views import isolated, report
from h2q_notebook.views.spark import sparkline, thinned

if TYPE_CHECKING:
    from h2q_notebook.cell.outcome import CellOutcome, Event, Sample

__all__ = ["bundle", "chart_svg", "chart_text", "metadata"]

_MAX_POINTS = 120
_MAX_EVENTS = 20
_WIDTH, _HEIGHT = 640.0, 132.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 66.0, 10.0, 18.0, 18.0
_EVENT_COLOURS = {"info": "#1976d2", "warn": "#c77700", "bad": "#d32f2f"}
_STOP_COLOUR = "#d32f2f"


def bundle(outcome: CellOutcome, *, chart: bool) -> dict[str, str]:
    """``text/plain`` and ``text/html`` of a finished cell.

    Args:
        outcome: the cell.
        chart: whether to draw the course of memory too (a cell of a few ms has none worth it).
    """
    stopped = outcome.ended_early or outcome.status == "warned"
    text = report.story_text(outcome) if outcome.ended_early else report.line(outcome)
    html = report.story_html(outcome) if outcome.ended_early else report.line_html(outcome)
    if stopped and not outcome.ended_early and outcome.advice:
        text += f"\n  try  {shorten(outcome.advice[0], 200)}"
    if not outcome.ended_early:
        for key, value in isolated.rows(outcome):
            text += f"\n  {key}  {shorten(value, 300)}"
            html += f"<div>{escape(key)}: {escape(shorten(value, 300))}</div>"
    if chart and len(outcome.samples) >= 2:
        text += "\n  " + chart_text(outcome)
        html += chart_svg(outcome)
    return {"text/plain": text, "text/html": f'<div class="h2q-summary">{html}</div>'}


def metadata(outcome: CellOutcome) -> dict[str, Any]:
    """``{"h2q": ...}`` for the output's metadata: the outcome as data, without its samples.

    Floats are rounded so that running a notebook twice changes as little of the file as it can.
    """
    data = outcome.as_dict()
    for key in ("samples", "events"):
        data.pop(key, None)
    return {"h2q": _rounded(data)}


def chart_text(outcome: CellOutcome) -> str:
    """The course of memory in one line of block characters, scaled to the budget."""
    values = [sample.used_bytes for sample in outcome.samples]
    top = max(outcome.budget_bytes, outcome.peak_bytes, 1)
    line = sparkline(values, top=top)
    return f"{line}  0 to {format_bytes(top)} in {format_seconds(outcome.duration_s)}"


def chart_svg(outcome: CellOutcome) -> str:
    """The course of memory as inline SVG: zones at 80 and 90 %, budget line, event marks."""
    end_s = max(outcome.duration_s, max((s.t_s for s in outcome.samples), default=0.0), 1e-3)
    highest = max(
        outcome.peak_bytes, outcome.budget_bytes, *(s.used_bytes for s in outcome.samples), 1
    )
    scale = _Scale(end_s, highest * 1.06)
    said = shorten(
        f"Memory of {outcome.label or 'the cell'}: peak {format_bytes(outcome.peak_bytes)} of "
        f"a budget of {format_bytes(outcome.budget_bytes)} ({outcome.share * 100:.0f} percent) "
        f"in {format_seconds(outcome.duration_s)}, {outcome.status}",
        200,
    )
    parts = [
        f'<svg role="img" aria-label="{escape(said)}" viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" '
        f'width="{_WIDTH:g}" height="{_HEIGHT:g}" xmlns="http://www.w3.org/2000/svg" '
        'style="max-width:100%;height:auto;display:block;color:var(--jp-ui-font-color1,inherit);'
        'font-family:var(--jp-ui-font-family,sans-serif);font-size:11px">',
        f"<title>{escape(said)}</title>",
        _zones(outcome.budget_bytes, scale),
        _axes(outcome, scale),
        _course(outcome.samples, scale),
        *(_event(event, scale) for event in _chosen(outcome.events)),
        _end(outcome, scale),
        "</svg>",
    ]
    return "".join(parts)


class _Scale:
    """Seconds and bytes to picture units."""

    __slots__ = ("end_s", "top_bytes")

    def __init__(self, end_s: float, top_bytes: float) -> None:
        self.end_s = end_s
        self.top_bytes = top_bytes

    def x(self, t_s: float) -> float:
        share = min(1.0, max(0.0, t_s / self.end_s))
        return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)

    def y(self, n_bytes: float) -> float:
        share = min(1.0, max(0.0, n_bytes / self.top_bytes))
        return round(_HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM), 1)


def _zones(budget_bytes: int, scale: _Scale) -> str:
    """Bands at 80-90 % and 90-100 % of the budget; translucent, so both themes shine through."""
    bands = ((0.8, 0.9, "#f9a825"), (0.9, 1.0, "#d32f2f"))
    made = []
    for low, high, colour in bands:
        top, bottom = scale.y(high * budget_bytes), scale.y(low * budget_bytes)
        made.append(
            f'<rect x="{_LEFT:g}" y="{top}" width="{_WIDTH - _LEFT - _RIGHT:g}" '
            f'height="{bottom - top:.1f}" fill="{colour}" fill-opacity=".16"/>'
        )
    return "".join(made)


def _axes(outcome: CellOutcome, scale: _Scale) -> str:
    left, right, floor = _LEFT, _WIDTH - _RIGHT, scale.y(0)
    budget, peak = scale.y(outcome.budget_bytes), scale.y(outcome.peak_bytes)
    labels = [
        _text(left, _HEIGHT - 4, "0 s", "start"),
        _text(right, _HEIGHT - 4, format_seconds(scale.end_s), "end"),
        _text(left - 6, floor + 3, "0", "end"),
        # Above the line where there is room, so that it never hides the zones.
        _text(left + 4, max(10.0, budget - 4), f"budget {format_bytes(outcome.budget_bytes)}"),
    ]
    if floor - peak > 14:
        labels.append(_text(left - 6, peak + 4, format_bytes(outcome.peak_bytes), "end"))
    return (
        f'<path d="M{left:g} {floor}H{right:g}" stroke="currentColor" stroke-opacity=".35"/>'
        f'<path d="M{left:g} {budget}H{right:g}" stroke="currentColor" stroke-width="1.2" '
        'stroke-dasharray="5 3"/>'
        f'<path d="M{left:g} {peak}H{right:g}" stroke="currentColor" stroke-opacity=".25" '
        f'stroke-dasharray="1 3"/>{"".join(labels)}'
    )


def _course(samples: Sequence[Sample], scale: _Scale) -> str:
    points = [
        (scale.x(sample.t_s), scale.y(sample.used_bytes))
        for sample in thinned(samples, _MAX_POINTS, key=lambda sample: sample.used_bytes)
    ]
    if not points:
        return ""
    path = "M" + "L".join(f"{x:g} {y:g}" for x, y in points)
    floor = scale.y(0)
    area = f"{path}L{points[-1][0]:g} {floor:g}L{points[0][0]:g} {floor:g}Z"
    return (
        f'<path d="{area}" fill="#1e88e5" fill-opacity=".14"/>'
        f'<path d="{path}" fill="none" stroke="#1e88e5" stroke-width="1.8" '
        'stroke-linejoin="round"/>'
    )


def _chosen(events: Sequence[Event]) -> Sequence[Event]:
    """At most 20, the bad ones first to stay."""
    rank = {"bad": 0, "warn": 1, "info": 2}
    best = sorted(events, key=lambda event: rank.get(event.kind, 2))[:_MAX_EVENTS]
    return sorted(best, key=lambda event: event.t_s)


def _event(event: Event, scale: _Scale) -> str:
    colour = _EVENT_COLOURS.get(event.kind, _EVENT_COLOURS["info"])
    text = escape(f"{format_seconds(max(0.0, event.t_s))}: {shorten(event.text, 80)}")
    return (
        f'<circle cx="{scale.x(event.t_s):g}" cy="{scale.y(event.used_bytes):g}" r="4" '
        f'fill="{colour}" stroke="#fff" stroke-width=".8"><title>{text}</title></circle>'
    )


def _end(outcome: CellOutcome, scale: _Scale) -> str:
    """A cross where h2q ended the cell: a shape, for those who do not tell the colours."""
    if not outcome.ended_early or not outcome.samples:
        return ""
    last = outcome.samples[-1]
    x, y = scale.x(last.t_s), scale.y(last.used_bytes)
    return (
        f'<path d="M{x - 4:g} {y - 4:g}l8 8m0 -8l-8 8" stroke="{_STOP_COLOUR}" '
        f'stroke-width="2.4"><title>stopped</title></path>'
    )


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return (
        f'<text x="{x:g}" y="{y:.1f}" text-anchor="{anchor}" fill="currentColor" '
        f'fill-opacity=".8">{escape(text)}</text>'
    )


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(inner) for inner in value]
    return value
