"""What a load tells its user at its end, as text and HTML.

Covers wording and layout only, from the frozen data of a load. The HTML holds no script and no
remote asset, escapes every label, and takes its colours from JupyterLab with fallbacks.
Imports ``units`` alone; the room ``load`` is only a type here.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from h2q_notebook.units import format_bytes, format_seconds, shorten
from h2q_notebook.views.table import BOX, SOFT

if TYPE_CHECKING:
    from h2q_notebook.load.outcome import LoadOutcome

__all__ = ["bundle", "line", "metadata"]

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
    notes = [*_choice(outcome), *outcome.notes]
    text = "\n".join([line(outcome, name=name, budget=budget), *(f"  {note}" for note in notes)])
    body = (
        f'<span style="{_BADGE}">LOADED</span><b>{escape(_bound(outcome, name))}</b>: '
        f"{escape(_figures(outcome, budget))}"
    )
    body += "".join(f'<div style="{SOFT}">{escape(note)}</div>' for note in notes)
    return {"text/plain": text, "text/html": f'<div style="{BOX}" role="status">{body}</div>'}


def metadata(outcome: LoadOutcome) -> dict[str, Any]:
    """The load as JSON-ready data, for the output's metadata."""
    rung = outcome.plan.rung
    return {
        "kind": "load",
        "names": list(outcome.names),
        "model_class": type(outcome.model).__name__,
        "model_type": outcome.facts.model_type,
        "task": outcome.task,
        "rung": rung.name,
        "budget_bytes": outcome.plan.budget_bytes,
        "estimated_load_peak_bytes": rung.load_peak_bytes,
        "peak_bytes": outcome.peak_bytes,
        "resident_bytes": outcome.resident_bytes,
        "mapped_bytes": outcome.mapped_bytes,
        "device_bytes": outcome.device_bytes,
        "duration_s": round(outcome.duration_s, 3),
        "notes": list(outcome.notes),
    }


def _choice(outcome: LoadOutcome) -> list[str]:
    """Why this form, where it is not the first, and what it costs."""
    rung = outcome.plan.rung
    price = "; ".join(part for part in (rung.speed, rung.quality) if part)
    said = [outcome.plan.reason] if outcome.plan.chosen else []
    if price and (outcome.plan.chosen or rung.kind != "full"):
        said.append(f"{rung.name}: {price}")
    return said


def _bound(outcome: LoadOutcome, name: str) -> str:
    shown = " and ".join(shorten(one, 40) for one in outcome.names or (name,))
    return f"{shown} = {type(outcome.model).__name__} ({outcome.plan.rung.name})"


def _figures(outcome: LoadOutcome, budget: str) -> str:
    share = outcome.peak_bytes / outcome.plan.budget_bytes
    elsewhere = ""
    if outcome.mapped_bytes:
        elsewhere += f" and {format_bytes(outcome.mapped_bytes)} in its file"
    if outcome.device_bytes:
        elsewhere += f" and {format_bytes(outcome.device_bytes)} on its device"
    return (
        f"peak {format_bytes(outcome.peak_bytes)} ({share:.0%} of "
        f"{budget or format_bytes(outcome.plan.budget_bytes)}), holds "
        f"{format_bytes(outcome.resident_bytes)}{elsewhere}, {format_seconds(outcome.duration_s)}"
    )
