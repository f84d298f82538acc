"""Figures of a kernel as OpenMetrics text: numbers with units and a closed set of labels.

Covers the text alone. No path, no name of a variable, a model or a user, and no source is ever in
it: who reads metrics is not who reads the notebook. The format: OpenMetrics 1.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Figures", "openmetrics"]

_STATES = ("calm", "warned", "over")
_ENDINGS = ("ok", "error", "interrupted", "overrun", "refused", "timeout", "stopped", "warned")
_EVENTS = ("warn", "clean", "stop", "calm", "ceiling", "settings", "load")


@dataclass(frozen=True, slots=True)
class Figures:
    """What is told. Bytes and counts."""

    used_bytes: int
    limit_bytes: int
    state: str
    """``calm``, ``warned`` or ``over``."""
    n_models: int = 0
    model_bytes: int = 0
    cells: Mapping[str, int] = field(default_factory=dict)
    """How many guarded cells ended in which way."""
    events: Mapping[str, int] = field(default_factory=dict)
    """How many events there were of which kind."""


def openmetrics(told: Figures) -> str:
    """The text, with its closing mark."""
    lines: list[str] = []

    def gauge(name: str, help_text: str, value: float, unit: str = "") -> None:
        lines.append(f"# TYPE {name} gauge")
        if unit:
            lines.append(f"# UNIT {name} {unit}")
        lines.extend([f"# HELP {name} {help_text}", f"{name} {value}"])

    gauge("h2q_kernel_used_bytes", "Memory the kernel holds.", told.used_bytes, "bytes")
    gauge("h2q_kernel_limit_bytes", "Ceiling of the kernel now.", told.limit_bytes, "bytes")
    gauge("h2q_models", "Models that h2q loaded and that live.", told.n_models)
    gauge("h2q_model_memory_bytes", "What these models hold.", told.model_bytes, "bytes")
    lines += [
        "# TYPE h2q_kernel_state stateset",
        "# HELP h2q_kernel_state How near the ceiling is.",
    ]
    lines += [
        f'h2q_kernel_state{{h2q_kernel_state="{one}"}} {int(one == told.state)}' for one in _STATES
    ]
    for name, help_text, label, known, counts in (
        ("h2q_cells", "Guarded cells by how they ended.", "status", _ENDINGS, told.cells),
        ("h2q_events", "Events of the kernel by kind.", "kind", _EVENTS, told.events),
    ):
        lines += [f"# TYPE {name} counter", f"# HELP {name} {help_text}"]
        lines += [f'{name}_total{{{label}="{one}"}} {counts.get(one, 0)}' for one in known]
        others = sum(n for one, n in counts.items() if one not in known)
        lines.append(f'{name}_total{{{label}="other"}} {others}')
    return "\n".join([*lines, "# EOF", ""])
