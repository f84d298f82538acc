"""What a guarded cell tells its user, in words: plain text and static HTML.

Covers wording and layout only, from a ``CellOutcome``. Drawing the course of memory is
``summary``; measuring, undoing and choosing the advice happen elsewhere. The HTML holds no
script and no remote asset, escapes every label, and takes its colours from JupyterLab's CSS
variables with fallbacks, so it reads well in light, dark and printed pages.
Imports ``errors`` and ``units`` (and the frozen data of ``cell.outcome``) alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

from h2q_notebook.errors import (
    CellStopRequested,
    CellTimeExceeded,
    MemoryBudgetExceeded,
)
from h2q_notebook.units import MIB, format_bytes, format_seconds, shorten
from h2q_notebook.views import isolated

if TYPE_CHECKING:
    from h2q_notebook.cell.outcome import CellOutcome, NameSize, SourceLine, Undone

__all__ = ["error_line", "line", "line_html", "story_html", "story_text"]

_MAX_NAMES = 6
_MAX_HOLDERS = 4
_MAX_HTML_BYTES = 6 * 1024

_NAMES_OF_STOPS = {
    "overrun": MemoryBudgetExceeded.__name__,
    "timeout": CellTimeExceeded.__name__,
    "stopped": CellStopRequested.__name__,
}
# White on each of these keeps a contrast above 4.5 : 1, on light and on dark pages alike.
_BADGES = {
    "ok": ("OK", "#2e7d32"),
    "error": ("ERROR", "#5f6368"),
    "warned": ("OVER", "#8a5a00"),
    "overrun": ("STOPPED", "#b3261e"),
    "refused": ("REFUSED", "#b3261e"),
    "timeout": ("TIMEOUT", "#b3261e"),
    "stopped": ("STOPPED", "#5f6368"),
}
_SOFT = "color:var(--jp-ui-font-color2,inherit);opacity:.85"
_MONO = "font-family:var(--jp-code-font-family,monospace)"
_BOX = (
    "font-family:var(--jp-ui-font-family,sans-serif);font-size:var(--jp-ui-font-size1,13px);"
    "color:var(--jp-ui-font-color1,inherit);line-height:1.55"
)


def line(outcome: CellOutcome) -> str:
    """One line for a cell that ended by itself: peak, share of the budget, what stayed, time."""
    head = {
        "ok": "h2q ✓",
        "warned": "h2q ! over its budget, let run on:",
        "error": f"h2q · ended by {shorten((outcome.error or 'an error').split(':')[0], 40)}:",
    }.get(outcome.status, f"h2q ✗ {_BADGES[outcome.status][0].lower()}:")
    return f"{head} {_named(outcome)}{_figures(outcome)}{_remark(outcome)}"


def line_html(outcome: CellOutcome) -> str:
    """The same line with a coloured badge, as static HTML."""
    figures = escape(_figures(outcome) + _remark(outcome))
    name = escape(shorten(outcome.label, 60))
    said = f"<b>{name}</b> · " if name else ""
    return f'<div style="{_BOX}">{_badge(outcome)} {said}{figures}</div>'


def error_line(outcome: CellOutcome) -> str:
    """The one line that stands where a traceback would: what ended the cell, and where."""
    name = _NAMES_OF_STOPS.get(outcome.status) or (outcome.error or "MemoryError").split(":")[0]
    where = f" at line {outcome.line.number}" if outcome.line else ""
    return f"{shorten(name, 60)}: {_what(outcome)}{where}; {_ending(outcome)}"


def story_text(outcome: CellOutcome) -> str:
    """What happened to a cell that h2q ended, in at most 12 lines of plain text."""
    label = f" ({shorten(outcome.label, 60)})" if outcome.label else ""
    rows = [(f"h2q{label}: {_what(outcome)}", "")]
    rows += [(key, value) for key, value in _facts(outcome)]
    width = max(len(key) for key, _ in rows[1:]) if rows[1:] else 0
    body = [rows[0][0], *(f"  {key:<{width}}  {value}" for key, value in rows[1:])]
    ending = _ending(outcome)
    return "\n".join([*body[:11], ending[0].upper() + ending[1:] + "."])


def story_html(outcome: CellOutcome) -> str:
    """The same story as a static block of at most 6 kB."""
    label = shorten(outcome.label, 60)
    said = f"<b>{escape(label)}</b> · " if label else ""
    head = f'<div style="margin-bottom:4px">{_badge(outcome)} {said}{escape(_what(outcome))}</div>'
    rows = []
    for key, value in _facts(outcome, holders=False):
        rows.append(_row(key, _value_html(key, value, outcome)))
        if key == "where" or (outcome.line is None and not rows[1:]):
            rows.append(_holders_html(outcome.holders))
    if not rows:
        rows.append(_holders_html(outcome.holders))
    ending = _ending(outcome)
    foot = f'<div style="margin-top:4px;{_SOFT}">{escape(ending[0].upper() + ending[1:])}.</div>'
    colour = _BADGES[outcome.status][1]
    box = f"{_BOX};border-left:3px solid {colour};padding:2px 0 4px 10px;margin:2px 0"
    page = f'<div style="{box}">{head}{"".join(rows)}{foot}</div>'
    if len(page.encode()) <= _MAX_HTML_BYTES:
        return page
    # Only absurd labels and names get here; the text form is bounded by construction.
    return f'<pre style="{_MONO}">{escape(story_text(outcome)[:3000])}</pre>'


# ---- the sentences ---------------------------------------------------------------------------


def _named(outcome: CellOutcome) -> str:
    label = shorten(outcome.label, 60)
    return f"{label} · " if label else ""


def _percent(outcome: CellOutcome) -> str:
    return f"{outcome.share * 100:.0f} %"


def _figures(outcome: CellOutcome) -> str:
    parts = [
        f"peak {format_bytes(outcome.peak_bytes)} of {format_bytes(outcome.budget_bytes)} "
        f"({_percent(outcome)})",
        _retained(outcome.retained_bytes)
        if outcome.isolated is None
        else isolated.crossed(outcome, outcome.isolated),
        *([_devices(outcome)] if outcome.devices else ()),
        format_seconds(outcome.duration_s),
    ]
    return " · ".join(parts)


def _remark(outcome: CellOutcome) -> str:
    return f" · {shorten(outcome.notes[0], 160)}" if outcome.notes else ""


def _retained(n_bytes: int) -> str:
    """What stayed; below 1 MiB either way is noise of the allocator and reads as nothing."""
    if abs(n_bytes) < MIB:
        return "kept 0 MiB"
    return f"kept {format_bytes(n_bytes)}" if n_bytes > 0 else f"freed {format_bytes(-n_bytes)}"


def _what(outcome: CellOutcome) -> str:
    """The first sentence: what was measured against which limit."""
    peak, budget = format_bytes(outcome.peak_bytes), format_bytes(outcome.budget_bytes)
    took = format_seconds(outcome.duration_s)
    source = shorten(outcome.budget_source, 80)
    # "budget 400 MiB" already says the figure; other sources get it added.
    if source in ("", f"budget {budget}"):
        limit = f"budget of {budget}"
    else:
        limit = source if budget in source else f"limit of {budget} ({source})"
    if outcome.status == "overrun":
        return f"stopped after {took}: used {peak}, over its {limit} ({_percent(outcome)})"
    if outcome.status == "refused":
        return _refused(outcome, limit)
    if outcome.status == "timeout":
        return f"stopped after {took}: its --timeout is over (peak {peak} of {budget})"
    if outcome.status == "stopped":
        return f"stopped after {took}, as asked (peak {peak} of {budget})"
    if outcome.status == "warned":
        return f"went over its {limit}: peak {peak} ({_percent(outcome)}), let run on"
    return f"peak {peak} of {budget} ({_percent(outcome)}) in {took}"


def _refused(outcome: CellOutcome, limit: str) -> str:
    if outcome.isolated is not None and isolated.why_refused(outcome):
        return isolated.why_refused(outcome)
    why = f" ({shorten(outcome.error, 160)})" if outcome.error else ""
    what = (
        f"a request for device memory{_device_limit(outcome)} was refused"
        if outcome.device_full
        else f"one request that cannot fit the {limit} was refused before it grew"
    )
    return what + why


def _device_limit(outcome: CellOutcome) -> str:
    """Of the device that came nearest to its budget."""
    if not outcome.devices:
        return " that the device cannot give"
    full = max(outcome.devices, key=lambda one: one.peak_bytes / max(one.budget_bytes, 1))
    return f" beyond the budget of {format_bytes(full.budget_bytes)} on {full.name}"


def _devices(outcome: CellOutcome) -> str:
    return ", ".join(
        f"{one.name} peak {format_bytes(one.peak_bytes)} of {format_bytes(one.budget_bytes)}, "
        f"{_retained(one.retained_bytes)}"
        for one in outcome.devices
    )


def _facts(outcome: CellOutcome, *, holders: bool = True) -> Iterable[tuple[str, str]]:
    """The rows of the story, most wanted first; the caller cuts what does not fit."""
    if outcome.line is not None:
        yield "where", _where(outcome.line)
    if holders and outcome.holders:
        # On one row: the whole story must be seen without scrolling.
        shown = outcome.holders[:_MAX_HOLDERS]
        yield "held", ", ".join(f"{_holder(held)} {format_bytes(held.n_bytes)}" for held in shown)
    undone = _undone(outcome.undone)
    if undone:
        yield "undone", undone
    if outcome.not_undone:
        yield "not undone", _listed(outcome.not_undone)
    if outcome.isolated is None and (outcome.returned_bytes >= MIB or outcome.ended_early):
        more = _retained(outcome.retained_bytes).replace("kept", "still held above the start:")
        yield "memory", f"{format_bytes(max(0, outcome.returned_bytes))} given back; {more}"
    if outcome.devices:
        yield "devices", _devices(outcome)
    yield from isolated.rows(outcome)
    for note in outcome.notes[:2]:
        yield "note", shorten(note, 200)
    for advice in (outcome.advice or _advice(outcome))[:2]:
        yield "try", shorten(advice, 200)


def _where(source: SourceLine) -> str:
    text = shorten(source.text.strip(), 90)
    return f"line {source.number}: {text}" if text else f"line {source.number}"


def _holder(held: NameSize) -> str:
    return f"{shorten(held.name, 40)} ({shorten(held.type_name, 30)})"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(shorten(name, 60) for name in names[:_MAX_NAMES])
    rest = len(names) - _MAX_NAMES
    return f"{shown} and {rest} more" if rest > 0 else shown


def _undone(undone: Undone) -> str:
    parts = [
        f"{word} {_listed(names)}"
        for word, names in (
            ("removed", undone.added),
            ("put back", undone.rebound),
            ("brought back", undone.deleted),
            ("content restored:", undone.contents),
        )
        if names
    ]
    return "; ".join(parts)


def _ending(outcome: CellOutcome) -> str:
    """What the user still has; promises nothing that was not done."""
    if outcome.isolated is not None:
        return isolated.ENDING
    if outcome.status == "refused" and not outcome.undone.count and outcome.on_overrun == "keep":
        return "the kernel is alive and its variables are as the cell left them"
    if outcome.on_overrun != "rollback":
        return "the kernel is alive; what the cell had made is kept"
    if outcome.not_undone:
        return "the kernel is alive, earlier variables are back except what is listed"
    return "the kernel is alive and your earlier variables are as before"


def _advice(outcome: CellOutcome) -> tuple[str, ...]:
    """What to try when nobody closer to the cause has said anything."""
    if outcome.status in ("overrun", "refused"):
        wanted = max(outcome.peak_bytes, outcome.budget_bytes) * 3 // 2
        return (f"work in smaller pieces, or allow more: %%h2q_budget {-(-wanted // MIB)}MiB",)
    if outcome.status == "timeout":
        return ("give the cell more time: --timeout",)
    return ()


# ---- HTML ------------------------------------------------------------------------------------


def _badge(outcome: CellOutcome) -> str:
    text, colour = _BADGES[outcome.status]
    return (
        f'<span style="background:{colour};color:#fff;border-radius:3px;padding:1px 7px;'
        f'font-weight:600;font-size:.85em">h2q {text}</span>'
    )


def _row(key: str, value: str) -> str:
    # Lines of a div, not a table: JupyterLab stripes and right-aligns tables, and where inline
    # styles are stripped (an untrusted notebook) the rows still read one per line.
    return (
        f'<div><span style="display:inline-block;min-width:6.5em;{_SOFT}">{escape(key)}</span> '
        f"{value}</div>"
    )


def _value_html(key: str, value: str, outcome: CellOutcome) -> str:
    if key == "where" and outcome.line is not None:
        text = escape(shorten(outcome.line.text.strip(), 90))
        return f'line {outcome.line.number} &nbsp;<code style="{_MONO}">{text}</code>'
    return escape(value)


def _holders_html(holders: Sequence[NameSize]) -> str:
    """The names that held most, each with a bar relative to the largest."""
    shown = holders[:_MAX_HOLDERS]
    largest = max((held.n_bytes for held in shown), default=0)
    rows = []
    for at, held in enumerate(shown):
        width = max(2, round(110 * held.n_bytes / largest)) if largest > 0 else 2
        bar = (
            f'<span style="display:inline-block;height:.6em;width:{width}px;'
            'background:var(--jp-brand-color1,#1976d2);border-radius:2px"></span>'
        )
        name = f'<code style="{_MONO}">{escape(shorten(held.name, 40))}</code>'
        kind = f'<span style="{_SOFT}">{escape(shorten(held.type_name, 30))}</span>'
        said = f"{name} {kind} {format_bytes(held.n_bytes)} {bar}"
        rows.append(_row("held most" if at == 0 else "", said))
    return "".join(rows)
