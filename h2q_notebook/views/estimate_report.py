"""What ``%h2q_estimate`` shows: the whole ladder as a table, and memory over context as a plot."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from h2q_notebook.units import format_bytes, shorten
from h2q_notebook.views.table import BOX, SOFT, html_table, text_table

if TYPE_CHECKING:
    from h2q_notebook.load.estimate import Estimate
    from h2q_notebook.load.ladder import Verdict
    from h2q_notebook.load.outcome import LadderEstimate

__all__ = ["bundle", "metadata"]

_FORMS = ("form", "in memory", "in its file", "to load", "to run", "disk", "verdict")
_RUN = ("to run", "weights", "+ cache", "+ compute", "= together", "how it is known")
_WIDTH, _HEIGHT, _LEFT, _FLOOR = 560, 190, 76, 160


def bundle(told: LadderEstimate) -> dict[str, str]:
    """The estimate as ``text/plain`` and ``text/html``."""
    forms = [_form(verdict) for verdict in told.verdicts]
    runs = [_run(figures) for figures in told.figures]
    notes = [_answer(told), *_prices(told), *told.notes]
    text = [
        _heading(told),
        *text_table(_FORMS, forms),
        _run_heading(told),
        *text_table(_RUN, runs),
        *(f"  {note}" for note in notes),
    ]
    if told.curve:
        text.append("  memory by context: " + _curve_words(told))
    html = (
        f'<div style="{BOX}"><div>{escape(_heading(told))}</div>'
        f"{html_table(_FORMS, forms, told.chosen)}"
        f'<div style="{SOFT}">{escape(_run_heading(told))}</div>{html_table(_RUN, runs)}'
        + "".join(f"<div>{escape(note)}</div>" for note in notes)
        + (_plot(told) if len(told.curve) > 1 else "")
        + "</div>"
    )
    return {"text/plain": "\n".join(text), "text/html": html}


def metadata(told: LadderEstimate) -> dict[str, Any]:
    """The estimate as JSON-ready data, for the output's metadata."""
    return {
        "kind": "estimate",
        "label": told.label,
        "model_type": told.facts.model_type,
        "n_parameters": told.figures[0].n_parameters,
        "context_tokens": told.context_tokens,
        "batch": told.batch,
        "budget_bytes": told.budget_bytes,
        "chosen": None if told.chosen is None else told.verdicts[told.chosen].rung.name,
        "rungs": [
            {
                "name": one.rung.name,
                "fits": one.fits,
                "why": one.why,
                "resident_bytes": one.rung.resident_bytes,
                "mapped_bytes": one.rung.mapped_bytes,
                "load_peak_bytes": one.rung.load_peak_bytes,
                "run_peak_bytes": one.rung.run_peak_bytes,
                "disk_bytes": one.rung.disk_bytes,
            }
            for one in told.verdicts
        ],
        "curve": [list(point) for point in told.curve],
    }


def _heading(told: LadderEstimate) -> str:
    figures = told.figures[0]
    classes = ", ".join(f"{name} {format_bytes(n)}" for name, n in figures.weights_by_class if n)
    return (
        f"{shorten(told.label, 60)} ({shorten(told.facts.model_type, 40)}): "
        f"{figures.n_parameters:,} parameters; in {figures.dtype} {classes}; "
        f"budget {format_bytes(told.budget_bytes)}"
    )


def _run_heading(told: LadderEstimate) -> str:
    prompts = "a prompt" if told.batch == 1 else f"{told.batch} prompts"
    return f"to run {prompts} of {told.context_tokens:,} tokens:"


def _form(verdict: Verdict) -> tuple[str, ...]:
    rung = verdict.rung
    return (
        rung.name,
        format_bytes(rung.resident_bytes),
        format_bytes(rung.mapped_bytes) if rung.mapped_bytes else "–",
        format_bytes(rung.load_peak_bytes),
        format_bytes(rung.run_peak_bytes),
        format_bytes(rung.disk_bytes) if rung.disk_bytes else "–",
        f"{'fits' if verdict.fits else 'no'}: {verdict.why}",
    )


def _run(figures: Estimate) -> tuple[str, ...]:
    known = {"counted": "counted on fake tensors", "formula": "by formula, rough"}
    return (
        f"{figures.dtype} weights",
        format_bytes(figures.weights_bytes),
        format_bytes(figures.cache_bytes),
        format_bytes(figures.compute_bytes),
        format_bytes(figures.run_peak_bytes),
        known[figures.source],
    )


def _answer(told: LadderEstimate) -> str:
    if told.chosen is None:
        return f"a load would be refused: {told.reason}"
    return f"a load with --context {told.context_tokens} would take {told.reason}"


def _prices(told: LadderEstimate) -> list[str]:
    """What each form costs in speed and quality, with where the figure comes from."""
    said = []
    for verdict in told.verdicts:
        rung = verdict.rung
        parts = [part for part in (rung.note, rung.speed, rung.quality) if part]
        if parts:
            said.append(f"{rung.name}: {'; '.join(parts)}")
    return said


def _curve_words(told: LadderEstimate) -> str:
    return ", ".join(f"{tokens:,} tokens {format_bytes(n)}" for tokens, n in told.curve)


def _plot(told: LadderEstimate) -> str:
    """A still SVG with axes, the budget and the curve; readable in either theme."""
    right = _WIDTH - 16
    last = told.curve[-1][0]
    top = max(*(n for _, n in told.curve), min(told.budget_bytes, 2 * told.curve[-1][1])) * 1.1

    def x(tokens: int) -> float:
        return round(_LEFT + (right - _LEFT) * tokens / last, 1)

    def y(n_bytes: float) -> float:
        return round(_FLOOR - (_FLOOR - 14) * n_bytes / top, 1)

    form = told.verdicts[told.chosen].rung.name if told.chosen is not None else "smallest form"
    title = f"Memory of {told.label} ({form}) over context"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'width="100%" style="max-width:{_WIDTH}px" font-family="sans-serif" font-size="11" '
        f'fill="currentColor"><title>{escape(shorten(title, 120))}</title>'
        f"<desc>{escape(_curve_words(told))}</desc>",
        f'<path d="M{_LEFT} 10V{_FLOOR}H{right}" fill="none" stroke="currentColor" opacity=".5"/>',
    ]
    if told.budget_bytes <= top:
        at = y(told.budget_bytes)
        parts.append(
            f'<line x1="{_LEFT}" x2="{right}" y1="{at}" y2="{at}" stroke="#d32f2f" '
            f'stroke-dasharray="5 3"/><text x="{_LEFT + 4}" y="{at - 4}">budget '
            f"{format_bytes(told.budget_bytes)}</text>"
        )
    points = " ".join(f"{x(tokens)},{y(n)}" for tokens, n in told.curve)
    parts.append(f'<polyline points="{points}" fill="none" stroke="#1f6feb" stroke-width="2"/>')
    for tokens, n in told.curve:
        words = f"{tokens:,} tokens: {format_bytes(n)}"
        parts.append(
            f'<g><title>{words}</title><circle cx="{x(tokens)}" cy="{y(n)}" r="3.5" '
            f'fill="#1f6feb"/></g><text x="{x(tokens)}" y="{_FLOOR + 14}" '
            f'text-anchor="middle">{tokens:,}</text>'
        )
    for n in (0, told.curve[-1][1]):
        parts.append(
            f'<text x="{_LEFT - 6}" y="{y(n) + 4}" text-anchor="end">{format_bytes(n)}</text>'
        )
    middle = (_LEFT + right) / 2
    parts.append(
        f'<text x="{middle}" y="{_HEIGHT - 4}" text-anchor="middle">context, tokens</text>'
    )
    return "".join([*parts, "</svg>"])
