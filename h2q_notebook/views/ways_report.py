"""Ways of loading a model, as a table and a plot."""

from __future__ import annotations

from dataclasses import asdict
from html import escape
from typing import TYPE_CHECKING, Any

from h2q_notebook.errors import MissingExtra
from h2q_notebook.units import MIB, format_bytes, format_seconds, shorten
from h2q_notebook.views.table import BOX, SOFT, html_table, text_table

if TYPE_CHECKING:
    from h2q_notebook.bench.ways import LoadWays, WayResult

__all__ = ["bundle", "figure", "metadata"]

_HEAD = (
    "way", "load", "first answer", "peak own", "peak file", "holds own", "holds file", "logits",
)  # fmt: skip
_NOTE = (
    "own: anonymous memory, which nobody can take back; file: pages of mapped files. The first "
    "answer is one forward pass of 16 tokens, counted from the beginning of the load."
)


def bundle(found: LoadWays) -> dict[str, str]:
    """All ways as ``text/plain`` and ``text/html``."""
    title = f"h2q bench · loading {shorten(found.model, 60)}, median of {found.rounds}"
    rows = [_row(one, found.reference) for one in found.ways]
    return {
        "text/plain": "\n".join([title, *text_table(_HEAD, rows), f"  {_NOTE}"]),
        "text/html": f'<div style="{BOX}"><b>{escape(title)}</b>{html_table(_HEAD, rows)}'
        f'<div style="{SOFT}">{_NOTE}</div></div>',
    }


def metadata(found: LoadWays) -> dict[str, Any]:
    """JSON-ready."""
    return {"kind": "ways", **asdict(found)}


def _row(one: WayResult, reference: str) -> tuple[str, ...]:
    if one.error:
        return (one.way, "–", "–", "–", "–", "–", "–", shorten(one.error, 90))
    same = "the reference" if one.way == reference else "the same" if one.identical else "others"
    return (
        one.way,
        format_seconds(one.load_s or 0.0),
        format_seconds(one.first_answer_s or 0.0),
        format_bytes(one.peak_anon_bytes),
        format_bytes(one.peak_file_bytes),
        format_bytes(one.resident_anon_bytes),
        format_bytes(one.resident_file_bytes),
        same,
    )


def figure(found: LoadWays) -> Any:
    """Two panels: memory at the peak, and time to the first answer.

    Raises:
        MissingExtra: plotly is absent.
    """
    try:
        import plotly.graph_objects as go
        from plotly.subplots import make_subplots
    except ImportError:
        raise MissingExtra("plotly", "bench") from None
    done = [one for one in found.ways if not one.error]
    names = [one.way for one in done]
    drawn = make_subplots(
        rows=1, cols=2, subplot_titles=("peak, MiB", "time to the first answer, s")
    )
    for label, values, colour in (
        ("own memory", [one.peak_anon_bytes / MIB for one in done], "#1976d2"),
        ("mapped files", [one.peak_file_bytes / MIB for one in done], "#90caf9"),
    ):
        drawn.add_trace(go.Bar(x=names, y=values, name=label, marker_color=colour), row=1, col=1)
    seconds = [one.first_answer_s for one in done]
    bar = go.Bar(x=names, y=seconds, showlegend=False, marker_color="#616161")
    drawn.add_trace(bar, row=1, col=2)
    drawn.update_layout(
        barmode="stack", template="plotly_white", height=380,
        title=f"h2q bench · loading {found.model}", margin={"l": 40, "r": 20, "t": 80, "b": 40},
    )  # fmt: skip
    return drawn
