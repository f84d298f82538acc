"""What ``%h2q_models`` and ``%h2q_unload`` show: living models, and what became of others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from h2q_notebook.units import format_bytes, format_seconds, shorten
from h2q_notebook.views.table import BOX, html_table, text_table

if TYPE_CHECKING:
    from h2q_notebook.load.registry import LoadedModel

__all__ = ["bundle", "unloaded"]

_HEAD = (
    "name", "class", "form", "task", "in memory", "in its file", "on a device", "budget",
    "last used", "loaded",
)  # fmt: skip
_NONE = "h2q · no model that was loaded with h2q is alive"


def bundle(models: Sequence[tuple[LoadedModel, bool]]) -> dict[str, str]:
    """Every living model.

    Args:
        models: each with whether its name still stands for it.
    """
    if not models:
        return {"text/plain": _NONE, "text/html": f'<div style="{BOX}">{escape(_NONE)}</div>'}
    rows = [_row(one, bound) for one, bound in models]
    title = "h2q · models"
    return {
        "text/plain": "\n".join([title, *text_table(_HEAD, rows)]),
        "text/html": f'<div style="{BOX}"><b>{title}</b>{html_table(_HEAD, rows)}</div>',
    }


def unloaded(
    chosen: Sequence[LoadedModel], kept: Mapping[str, tuple[str, ...] | None], freed_bytes: int
) -> dict[str, str]:
    """What became of models that were to go.

    Args:
        chosen: the models.
        kept: for each name who still holds it; None where it is gone.
        freed_bytes: what the kernel holds less now.
    """
    if not chosen:
        lines = ["h2q · no model to unload"]
    else:
        lines = [_fate(one, kept[one.name]) for one in chosen]
        lines.append(f"h2q · {format_bytes(max(freed_bytes, 0))} were given back")
    body = "".join(f"<div>{escape(line)}</div>" for line in lines)
    return {
        "text/plain": "\n".join(lines),
        "text/html": f'<div style="{BOX}" role="status">{body}</div>',
    }


def _row(one: LoadedModel, bound: bool) -> tuple[str, ...]:
    def size(n_bytes: int) -> str:
        return format_bytes(n_bytes) if n_bytes else "–"

    return (
        shorten(one.name, 40) if bound else f"{shorten(one.name, 40)} (no longer its name)",
        shorten(one.class_name, 50),
        one.rung,
        one.task,
        format_bytes(one.resident_bytes),
        size(one.mapped_bytes),
        size(one.device_bytes),
        format_bytes(one.budget_bytes),
        f"{format_seconds(one.idle_s)} ago" if one.idle_s < one.loaded_age_s else "not yet",
        f"{format_seconds(one.loaded_age_s)} ago",
    )


def _fate(one: LoadedModel, holders: tuple[str, ...] | None) -> str:
    name = shorten(one.name, 40)
    if holders is None:
        return f"h2q ✓ {name} is gone"
    who = ", ".join(shorten(holder, 80) for holder in holders)
    by = f"still held by {who}" if who else "still held, by nobody that could be found"
    return f"h2q · {name} is no longer a name here, but the model lives: {by}"
