"""What a load tells its user: the plan as a table, and one line at the end, as text and HTML.

Covers wording and layout only, from the frozen data of a load. The HTML holds no script and no
remote asset, escapes every label, and takes its colours from JupyterLab with fallbacks.
Imports ``units`` alone; the room ``load`` is only a type here.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from h2q_notebook.units import format_bytes, format_seconds, shorten

if TYPE_CHECKING:
    from h2q_notebook.load.facts import ModelFacts
    from h2q_notebook.load.ladder import LoadPlan
    from h2q_notebook.load.outcome import LoadOutcome

__all__ = ["bundle", "line", "metadata", "plan_bundle", "plan_html", "plan_text"]

_BOX = (
    "font-family:var(--jp-ui-font-family,sans-serif);font-size:var(--jp-ui-font-size1,13px);"
    "color:var(--jp-ui-font-color1,inherit);line-height:1.55"
)
_SOFT = "color:var(--jp-ui-font-color2,inherit);opacity:.85"
_CELL = "padding:2px 12px 2px 0;text-align:left"
_BADGE = (
    "background:#2e7d32;color:#fff;border-radius:3px;padding:1px 6px;font-weight:600;"
    "font-size:11px;margin-right:8px"
)


def line(outcome: LoadOutcome, *, name: str = "model", budget: str = "") -> str:
    """One line: what was bound, in which form, and what it took.

    Args:
        outcome: the finished load.
        name: the name of the model, where the outcome does not say what was bound.
        budget: which limit held, in words; "" names its size only.
    """
    return f"h2q ✓ {_bound(outcome, name)}: {_figures(outcome, budget)}"


def bundle(outcome: LoadOutcome, *, name: str = "model", budget: str = "") -> dict[str, str]:
    """The end of a load as ``text/plain`` and ``text/html``, with its notes; see ``line``."""
    notes = [outcome.plan.reason] if outcome.plan.chosen else []
    notes += outcome.notes
    text = "\n".join([line(outcome, name=name, budget=budget), *(f"  {note}" for note in notes)])
    body = (
        f'<span style="{_BADGE}">LOADED</span><b>{escape(_bound(outcome, name))}</b>: '
        f"{escape(_figures(outcome, budget))}"
    )
    body += "".join(f'<div style="{_SOFT}">{escape(note)}</div>' for note in notes)
    return {"text/plain": text, "text/html": f'<div style="{_BOX}" role="status">{body}</div>'}


def plan_text(facts: ModelFacts, plan: LoadPlan) -> str:
    """The estimate and every rung as a plain table."""
    head, *rows = [_columns(plan), *_rows(plan)]
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = [_heading(facts, plan)]
    for row in (head, *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  " + "  ".join(cells).rstrip())
    return "\n".join(lines)


def plan_html(facts: ModelFacts, plan: LoadPlan) -> str:
    """The estimate and every rung as an HTML table."""
    head = "".join(
        f'<th scope="col" style="{_CELL};{_SOFT};font-weight:400">{escape(cell)}</th>'
        for cell in _columns(plan)
    )
    body = ""
    for index, row in enumerate(_rows(plan)):
        weight = ";font-weight:600" if index == plan.chosen else ""
        cells = "".join(f'<td style="{_CELL}{weight}">{escape(cell)}</td>' for cell in row)
        body += f"<tr>{cells}</tr>"
    return (
        f'<div style="{_BOX}"><div>{escape(_heading(facts, plan))}</div>'
        f'<table style="border-collapse:collapse;margin:2px 0"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def plan_bundle(facts: ModelFacts, plan: LoadPlan) -> dict[str, str]:
    """The plan as ``text/plain`` and ``text/html``."""
    return {"text/plain": plan_text(facts, plan), "text/html": plan_html(facts, plan)}


def metadata(outcome: LoadOutcome) -> dict[str, Any]:
    """The load as JSON-ready data, for the output's metadata."""
    rung = outcome.plan.rung
    return {
        "kind": "load",
        "names": list(outcome.names),
        "model_class": type(outcome.model).__name__,
        "model_type": outcome.facts.model_type,
        "rung": rung.name,
        "budget_bytes": outcome.plan.budget_bytes,
        "estimated_load_peak_bytes": rung.load_peak_bytes,
        "peak_bytes": outcome.peak_bytes,
        "resident_bytes": outcome.resident_bytes,
        "duration_s": round(outcome.duration_s, 3),
        "notes": list(outcome.notes),
    }


def _bound(outcome: LoadOutcome, name: str) -> str:
    shown = " and ".join(shorten(one, 40) for one in outcome.names or (name,))
    return f"{shown} = {type(outcome.model).__name__} ({outcome.plan.rung.name})"


def _figures(outcome: LoadOutcome, budget: str) -> str:
    share = outcome.peak_bytes / outcome.plan.budget_bytes
    return (
        f"peak {format_bytes(outcome.peak_bytes)} ({share:.0%} of "
        f"{budget or format_bytes(outcome.plan.budget_bytes)}), holds "
        f"{format_bytes(outcome.resident_bytes)}, {format_seconds(outcome.duration_s)}"
    )


def _heading(facts: ModelFacts, plan: LoadPlan) -> str:
    return (
        f"{shorten(facts.model_type, 40)}: {facts.n_values / 1e6:,.1f} million values, stored as "
        f"{facts.stored_dtype} in {format_bytes(facts.stored_bytes)}; "
        f"budget {format_bytes(plan.budget_bytes)}"
    )


def _columns(plan: LoadPlan) -> list[str]:
    run = f"to run {plan.context_tokens} tokens (rough)"
    return ["form", "weights", "to load", run, "verdict"]


def _rows(plan: LoadPlan) -> list[list[str]]:
    rows = []
    for index, verdict in enumerate(plan.verdicts):
        rung = verdict.rung
        said = "taken" if index == plan.chosen else ("fits" if verdict.fits else "does not fit")
        rows.append(
            [
                rung.name,
                format_bytes(rung.resident_bytes),
                format_bytes(rung.load_peak_bytes),
                format_bytes(rung.run_peak_bytes),
                f"{said} ({verdict.why})",
            ]
        )
    return rows
