"""Runs side by side as one plotly figure: cases, intervals, speed and memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from h2q_notebook.errors import MissingExtra
from h2q_notebook.units import MIB, shorten

if TYPE_CHECKING:
    from h2q_notebook.bench.compare import Column, Comparison

__all__ = ["comparison_figure"]

_COLOURS = ("#1976d2", "#ef6c00", "#388e3c", "#7b1fa2", "#c2185b", "#00838f")
_FAILED, _PASSED = "#e57373", "#66bb6a"


def comparison_figure(found: Comparison) -> Any:
    """Four panels: a heat map of case by run, pass rates with 95 % intervals, tokens/s, peak.

    Returns:
        A ``plotly.graph_objects.Figure``.

    Raises:
        MissingExtra: plotly is absent.
    """
    try:
        import plotly.graph_objects as go
        from plotly.subplots import make_subplots
    except ImportError:
        raise MissingExtra("plotly", "bench") from None
    labels = [shorten(column.label, 40) for column in found.columns]
    titles = ("passed", "pass rate, 95 % interval", "tokens/s", "peak above the model, MiB")
    figure = make_subplots(
        rows=2, cols=3, column_widths=[0.4, 0.3, 0.3], subplot_titles=titles,
        specs=[[{"rowspan": 2}, {"colspan": 2}, None], [None, {}, {}]],
    )  # fmt: skip
    figure.add_trace(
        go.Heatmap(
            x=labels,
            y=list(found.case_ids),
            z=[
                [column.scores[at] for column in found.columns] for at in range(len(found.case_ids))
            ],
            zmin=0,
            zmax=1,
            colorscale=[[0, _FAILED], [1, _PASSED]],
            showscale=False,
            xgap=2,
            ygap=2,
            hovertemplate="%{y}<br>%{x}<br>%{z:.0%} passed<extra></extra>",
        ),
        row=1,
        col=1,
    )
    figure.update_yaxes(autorange="reversed", row=1, col=1)
    groups = [*found.categories, "all"] if len(found.categories) > 1 else ["all"]
    for at, (column, label) in enumerate(zip(found.columns, labels, strict=True)):
        colour = _COLOURS[at % len(_COLOURS)]
        figure.add_trace(_rates(go, column, label, groups, colour), row=1, col=2)
        for col, value in ((2, column.tokens_per_s), (3, column.peak_bytes / MIB)):
            bar = go.Bar(x=[label], y=[value], marker_color=colour, showlegend=False, name=label)
            figure.add_trace(bar, row=2, col=col)
    figure.update_yaxes(range=[-0.03, 1.03], tickformat=".0%", row=1, col=2)
    figure.update_xaxes(showticklabels=False, row=2, col=2)
    figure.update_xaxes(showticklabels=False, row=2, col=3)
    figure.update_layout(
        title=f"h2q bench · {found.suite}",
        height=max(420, 24 * len(found.case_ids) + 160),
        template="plotly_white",
        legend={"orientation": "h", "y": -0.08},
        margin={"l": 20, "r": 20, "t": 80, "b": 40},
    )
    return figure


def _rates(go: Any, column: Column, label: str, groups: list[str], colour: str) -> Any:
    tallies = [column.tallies[name] for name in groups]
    return go.Scatter(
        x=groups,
        y=[tally.rate for tally in tallies],
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [tally.interval[1] - tally.rate for tally in tallies],
            "arrayminus": [tally.rate - tally.interval[0] for tally in tallies],
        },
        mode="markers",
        marker={"color": colour, "size": 9},
        name=label,
    )
