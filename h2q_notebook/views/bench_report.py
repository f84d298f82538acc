"""What a bench shows at its end: a run, a list of runs, runs side by side; text and HTML.

Covers wording and layout only, from frozen data. See ``table`` for the looks.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from h2q_notebook.units import format_bytes, format_seconds, shorten
from h2q_notebook.views.table import BOX, SOFT, html_table, text_table

if TYPE_CHECKING:
    from h2q_notebook.bench.compare import Comparison
    from h2q_notebook.bench.outcome import BenchRun, CaseResult, Tally
    from h2q_notebook.bench.store import Summary

__all__ = ["CASE_HEAD", "bundle", "case_row", "comparison", "heading", "listing", "metadata"]

CASE_HEAD = ("case", "level", "result", "tokens", "first", "per token", "peak", "why not")
_MARKS = {
    "passed": "✓ passed",
    "failed": "✗ failed",
    "truncated": "… truncated",
    "error": "! error",
}
_NONE = "–"


def case_row(one: CaseResult) -> tuple[str, ...]:
    """One answer as a row under ``CASE_HEAD``."""
    sample = f" #{one.sample + 1}" if one.sample else ""
    return (
        one.case_id + sample,
        str(one.level),
        _MARKS.get(one.status, one.status),
        f"{one.prompt_tokens}+{one.new_tokens}" if one.new_tokens else _NONE,
        format_seconds(one.ttft_s) if one.ttft_s is not None else _NONE,
        f"{one.tpot_s * 1000:.0f} ms" if one.tpot_s is not None else _NONE,
        f"{'' if one.peak_is_exact else '≥'}{format_bytes(one.peak_bytes)}",
        shorten(one.reason, 90),
    )


def bundle(run: BenchRun) -> dict[str, str]:
    """A run as ``text/plain`` and ``text/html``."""
    rows = _rows(run)
    notes = _notes(run)
    text = [heading(run), *text_table(CASE_HEAD, rows), *(f"  {note}" for note in notes)]
    html = (
        f'<div style="{BOX}"><div><b>{escape(heading(run))}</b></div>'
        + html_table(CASE_HEAD, rows)
        + "".join(f'<div style="{SOFT}">{escape(note)}</div>' for note in notes)
        + "</div>"
    )
    return {"text/plain": "\n".join(text), "text/html": html}


def _rows(run: BenchRun) -> list[tuple[str, ...]]:
    """An answer each; with several samples, a case each."""
    if run.samples == 1:
        return [case_row(one) for one in run.cases]
    rows = []
    for case in dict.fromkeys(one.case_id for one in run.cases):
        answers = [one for one in run.cases if one.case_id == case]
        passed = sum(one.passed for one in answers)
        shown = next((one for one in answers if not one.passed), answers[0])
        # Figures are those of the answer that is shown: the first that failed, if one did.
        rows.append((case, str(shown.level), f"{passed} of {len(answers)}", *case_row(shown)[3:]))
    return rows


def heading(run: BenchRun) -> str:
    """The result in a line."""
    model = run.manifest["model"]
    rung = f" ({model['rung']})" if model.get("rung") else ""
    state = "" if run.status == "complete" else f" · {run.status}, {run.total} of {run.planned}"
    return (
        f"h2q bench · {run.suite} · {shorten(str(model.get('label', '?')), 60)}{rung}: "
        f"{_tally(run.tally())}{state}"
    )


def _tally(tally: Tally) -> str:
    low, high = tally.interval
    return f"{tally.passed} of {tally.total} passed (95 % interval {low:.0%} to {high:.0%})"


def _notes(run: BenchRun) -> list[str]:
    manifest, notes = run.manifest, []
    if len(run.categories) > 1:
        parts = [f"{name}: {_tally(run.tally(name))}" for name in run.categories]
        notes.append("; ".join(parts))
    lucky = run.passed - run.strict_passed
    if lucky:
        notes.append(f"{lucky} passed by the last number of a text that marks none as its answer")
    if run.samples > 1:
        chances = [(k, run.pass_at(k)) for k in (1, 5, 10, 100) if k <= run.samples]
        told = [f"pass@{k} {chance:.0%}" for k, chance in chances if chance is not None]
        notes.append(", ".join(told))
    speed = f"{run.tokens_per_s:.3g} tokens/s" if run.tokens_per_s else "no speed"
    notes.append(f"{speed}, peak {format_bytes(run.peak_bytes)} above the model, {_settings(run)}")
    noise = manifest.get("noise") or {}
    if noise.get("noisy"):
        notes.append(f"noisy: {noise.get('why', '')}")
    notes += [str(note) for note in manifest.get("notes", ())]
    missing = _fences(run)
    if missing:
        notes.append(missing)
    if run.damaged_lines:
        notes.append(f"{run.damaged_lines} damaged lines were left aside")
    if run.status != "complete":
        notes.append(f"%h2q_bench --resume {run.run_id[-6:]} goes on")
    notes.append(f"kept in {run.path}")
    return notes


def _settings(run: BenchRun) -> str:
    asked = run.manifest["sampling"]
    how = "greedy" if not asked.get("temperature") else f"temperature {asked['temperature']:g}"
    if run.samples > 1:
        how = f"{run.samples} samples, {how}"
    threads = run.manifest.get("threads", "?")
    return f"{how}, {threads} thread{'' if threads == 1 else 's'}"


def _fences(run: BenchRun) -> str:
    """Which fences were missing around generated code; "" if none was, or none was run."""
    missing: dict[str, str] = {}
    for one in run.cases:
        missing.update({name: why for name, why in one.fences.items() if why != "held"})
    if not missing:
        return ""
    told = ", ".join(f"{name} ({why})" for name, why in sorted(missing.items()))
    return f"generated code ran isolated, which is no security boundary here; not held: {told}"


def metadata(run: BenchRun) -> dict[str, Any]:
    """A run as JSON-ready data, for the output's metadata."""
    return {
        "kind": "bench",
        "run_id": run.run_id,
        "status": run.status,
        "suite": run.suite,
        "suite_hash": run.manifest["suite"]["hash"],
        "passed": run.passed,
        "total": run.total,
        "planned": run.planned,
        "tokens_per_s": run.tokens_per_s,
        "peak_bytes": run.peak_bytes,
    }


def listing(runs: Sequence[Summary]) -> dict[str, str]:
    """All runs."""
    head = ("run", "suite", "model", "passed", "status")
    rows = []
    for one in runs:
        told = one.manifest.get("summary") or {}
        passed = f"{told['passed']} of {told['total']}" if "passed" in told else _NONE
        model, suite = one.manifest.get("model") or {}, one.manifest.get("suite") or {}
        label = shorten(str(model.get("label", _NONE)), 60)
        rows.append((one.run_id, str(suite.get("name", _NONE)), label, passed, one.status))
    if not rows:
        line = "h2q bench · no runs yet"
        return {"text/plain": line, "text/html": f'<div style="{BOX}">{line}</div>'}
    title = "h2q bench · runs"
    return {
        "text/plain": "\n".join([title, *text_table(head, rows)]),
        "text/html": f'<div style="{BOX}"><b>{title}</b>{html_table(head, rows)}</div>',
    }


def comparison(found: Comparison) -> dict[str, str]:
    """Runs side by side, without the plot."""
    head = ("case", *(column.label for column in found.columns))
    rows = [
        (case, *(_score(column.scores[at]) for column in found.columns))
        for at, case in enumerate(found.case_ids)
    ]
    rows.append(("passed", *(_tally(column.tallies["all"]) for column in found.columns)))
    speeds = [f"{c.tokens_per_s:.3g}" if c.tokens_per_s else _NONE for c in found.columns]
    rows.append(("tokens/s", *speeds))
    rows.append(("peak", *(format_bytes(column.peak_bytes) for column in found.columns)))
    notes = [*(contrast.sentence for contrast in found.contrasts), *found.notes]
    title = f"h2q bench · {found.suite} · {len(found.columns)} runs"
    return {
        "text/plain": "\n".join([title, *text_table(head, rows), *(f"  {n}" for n in notes)]),
        "text/html": f'<div style="{BOX}"><b>{escape(title)}</b>{html_table(head, rows)}'
        + "".join(f"<div>{escape(note)}</div>" for note in notes)
        + "</div>",
    }


def _score(score: float) -> str:
    return "✓" if score == 1 else "✗" if score == 0 else f"{score:.0%}"
