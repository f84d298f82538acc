"""Figures of kernels as OpenMetrics text: numbers with units and a closed set of labels.

Covers the text alone. No path, no name of a variable, a model or a user, and no source is ever in
it: who reads metrics is not who reads the notebook. The format: OpenMetrics 1.0.

Labels: ``kernel_id`` (Jupyter's random id of a kernel, or its process id), and words of the closed
sets below.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from h2q_notebook.readings.figures import Figures

__all__ = ["CONTENT_TYPE", "openmetrics"]

CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_STATES = ("calm", "warned", "over")
_ENDINGS = ("ok", "error", "interrupted", "overrun", "refused", "timeout", "stopped", "warned")
_EVENTS = ("warn", "clean", "stop", "calm", "ceiling", "settings", "load", "death")
_GAUGES: tuple[tuple[str, str, str, Callable[[Figures], float]], ...] = (
    ("h2q_kernel_used_bytes", "bytes", "Memory the kernel holds.", lambda one: one.used_bytes),
    ("h2q_kernel_limit_bytes", "bytes", "Ceiling of the kernel now.", lambda one: one.limit_bytes),
    (
        "h2q_cell_budget_bytes",
        "bytes",
        "What the running cell may add; 0: none is guarded.",
        lambda one: one.budget_bytes,
    ),
    ("h2q_models", "", "Models that h2q loaded and that live.", lambda one: one.n_models),
    ("h2q_model_memory_bytes", "bytes", "What these models hold.", lambda one: one.model_bytes),
)


def openmetrics(kernels: Mapping[str, Figures], deaths: Mapping[str, int] | None = None) -> str:
    """The text, with its closing mark.

    Args:
        kernels: what each tells, by its id.
        deaths: how many kernels died of which cause, every cause there is; None leaves it out.
    """
    lines: list[str] = []
    told = {_plain(kernel_id): one for kernel_id, one in kernels.items()}

    def family(name: str, kind: str, unit: str, help_text: str, samples: Iterable[str]) -> None:
        lines.append(f"# TYPE {name} {kind}")
        if unit:
            lines.append(f"# UNIT {name} {unit}")
        lines.append(f"# HELP {name} {help_text}")
        lines.extend(samples)

    for name, unit, help_text, read in _GAUGES:
        samples = [f'{name}{{kernel_id="{i}"}} {read(one)}' for i, one in told.items()]
        family(name, "gauge", unit, help_text, samples)
    states = [
        f'h2q_kernel_state{{kernel_id="{i}",h2q_kernel_state="{state}"}} {int(state == one.state)}'
        for i, one in told.items()
        for state in _STATES
    ]
    family("h2q_kernel_state", "stateset", "", "How near the ceiling is.", states)
    cells = {i: one.cells for i, one in told.items()}
    samples = _counted("h2q_cells", "status", _ENDINGS, cells)
    family("h2q_cells", "counter", "", "Guarded cells by how they ended.", samples)
    events = {i: one.events for i, one in told.items()}
    samples = _counted("h2q_events", "kind", _EVENTS, events)
    family("h2q_events", "counter", "", "Events of the kernel by kind.", samples)
    if deaths is not None:
        name, help_text = "h2q_kernel_deaths", "Kernels that died unasked, by cause."
        samples = [f'{name}_total{{cause="{cause}"}} {n}' for cause, n in deaths.items()]
        family(name, "counter", "", help_text, samples)
    return "\n".join([*lines, "# EOF", ""])


def _counted(
    name: str, label: str, known: tuple[str, ...], counts: Mapping[str, Mapping[str, int]]
) -> list[str]:
    lines = []
    for kernel_id, mine in counts.items():
        others = sum(n for word, n in mine.items() if word not in known)
        words = [*((word, mine.get(word, 0)) for word in known), ("other", others)]
        lines += [
            f'{name}_total{{kernel_id="{kernel_id}",{label}="{word}"}} {n}' for word, n in words
        ]
    return lines


def _plain(kernel_id: str) -> str:
    """Only what such an id is made of, so that no quote can end the label."""
    return re.sub(r"[^0-9A-Za-z-]", "", kernel_id)[:64]
