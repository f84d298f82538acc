"""What h2q may do and when, as one frozen value.

Covers names, defaults, ranges and help. Where values come from is ``sources``'; following a file is
``reload``'s. ``*_mb`` are MiB (2**20 bytes), as in the report the project comes from.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from h2q_notebook.errors import BadArgument
from h2q_notebook.units import MIB, shorten

__all__ = ["MemorySafeConfig", "Range", "problems", "range_of"]

_MAX_MB = 1 << 24  # 16 TiB


@dataclass(frozen=True, slots=True)
class Range:
    """What a field may be."""

    kind: str
    """``number``, ``whole``, ``switch``, ``choice`` or ``path``."""
    low: float = 0.0
    high: float = 0.0
    choices: tuple[str, ...] = ()
    optional: bool = False
    """None is allowed, and means that h2q finds the value itself."""

    def words(self) -> str:
        """The range in words."""
        if self.kind == "switch":
            return "true or false"
        if self.kind == "choice":
            return f"one of {', '.join(self.choices)}"
        if self.kind == "path":
            return "a path as text, or empty"
        whole = "a whole number " if self.kind == "whole" else ""
        none = ", or none" if self.optional else ""
        return f"{whole}{_plain(self.low)} to {_plain(self.high)}{none}"

    def holds(self, value: Any) -> bool:
        """Whether *value* is within it."""
        if value is None:
            return self.optional
        if self.kind == "switch":
            return isinstance(value, bool)
        if self.kind in ("choice", "path"):
            fits = value in self.choices if self.choices else True
            return isinstance(value, str) and "\0" not in value and fits
        kinds = (int,) if self.kind == "whole" else (int, float)
        return (
            isinstance(value, kinds)
            and not isinstance(value, bool)
            and math.isfinite(value)
            and self.low <= value <= self.high
        )


def _plain(number: float) -> str:
    return f"{int(number):,}" if number == int(number) else f"{number:g}"


def _setting(default: Any, help_text: str, kind: str = "number", **limits: Any) -> Any:
    allowed = Range(kind, **limits)
    return dataclasses.field(default=default, metadata={"range": allowed, "help": help_text})


def _number(default: float, low: float, high: float, help_text: str) -> Any:
    return _setting(default, help_text, low=low, high=high)


def _whole(default: int, low: int, high: int, help_text: str) -> Any:
    return _setting(default, help_text, "whole", low=low, high=high)


def _megabytes(help_text: str) -> Any:
    return _setting(None, help_text, low=64, high=_MAX_MB, optional=True)


@dataclass(frozen=True, slots=True)
class MemorySafeConfig:
    """Settings of one session.

    Raises:
        BadArgument: fields are outside their ranges; a sentence for each names field, value and
            range.
    """

    # What the kernel may hold
    max_memory_mb: float | None = _megabytes(
        "ceiling of the whole kernel; none: what the machine or its container can give"
    )
    model_memory_limit_mb: float | None = _megabytes("what all loaded models together may hold")
    working_memory_mb: float | None = _megabytes(
        "budget of a cell that names none; none: what is free"
    )
    safety_buffer_mb: float = _number(512, 0, _MAX_MB, "left to the machine")
    enable_strict_mode: bool = _setting(
        False, "guard with --strict too; it can end the kernel", "switch"
    )
    device: str = _setting(
        "cpu", "where models are loaded", "choice", choices=("auto", "cpu", "cuda", "mps")
    )
    gate: str = _setting(
        "on",
        "what the compiled gate may refuse: known libraries, more of them, nothing",
        "choice",
        choices=("on", "wide", "off"),
    )
    # When it acts
    warn_at: float = _number(0.80, 0.1, 1, "share of the ceiling at which it warns")
    clean_at: float = _number(0.90, 0.1, 1, "share at which it collects")
    release_at: float = _number(0.70, 0.05, 1, "share below which it is calm again")
    collect: str = _setting(
        "auto", "automatic collection near the ceiling", "choice", choices=("auto", "off")
    )
    collect_time_share: float = _number(0.05, 0.001, 0.5, "most of the time collecting may take")
    watch_interval_s: float = _number(0.5, 0.05, 60, "time between two looks at the whole kernel")
    sample_interval_s: float = _number(0.005, 0.001, 1, "time between two looks at a running cell")
    strike_interval_s: float = _number(0.05, 0.01, 5, "time between two attempts to stop a cell")
    deep_limit_bytes: int = _whole(
        256 * MIB, MIB, 1 << 40, "copies that --rollback deep may keep, in bytes"
    )
    # What is shown and kept
    gauge: str = _setting(
        "auto", "the live gauge", "choice", choices=("auto", "off", "html", "widgets")
    )
    gauge_delay_s: float = _number(0.7, 0, 60, "a cell shorter than this shows no gauge")
    gauge_interval_s: float = _number(0.25, 0.1, 10, "time between two updates of the gauge")
    raise_step_bytes: int = _whole(
        512 * MIB, MIB, 1 << 40, "what one press of Raise adds, in bytes"
    )
    history_length: int = _whole(1000, 1, 100_000, "outcomes kept in h2q.history")
    data_dir: str = _setting(
        "", "results of benches, what cells took; empty: Jupyter's data directory", "path"
    )
    event_log: str = _setting("", "file for events, a JSON line each; empty: none", "path")
    event_log_bytes: int = _whole(MIB, 4096, 1 << 30, "size at which the event log is turned over")
    metrics_textfile: str = _setting(
        "", "file for node_exporter's collector, {kernel_id} in its name; empty: none", "path"
    )
    metrics_interval_s: float = _number(10, 1, 3600, "time between two writes of that file")

    def __post_init__(self) -> None:
        found = problems(dataclasses.asdict(self))
        if found:
            raise BadArgument("; ".join(found))

    @property
    def safety_bytes(self) -> int:
        """The safety buffer, in bytes."""
        return int(self.safety_buffer_mb * MIB)

    @property
    def max_bytes(self) -> int | None:
        """The ceiling of the kernel, in bytes; None: what the machine can give."""
        return None if self.max_memory_mb is None else int(self.max_memory_mb * MIB)

    @property
    def working_size(self) -> str | None:
        """The budget of a cell that names none, as it would be typed."""
        mb = self.working_memory_mb
        return None if mb is None else f"{int(mb * MIB)}B"

    @property
    def model_bytes(self) -> int | None:
        """What all models together may hold, in bytes."""
        mb = self.model_memory_limit_mb
        return None if mb is None else int(mb * MIB)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> MemorySafeConfig:
        """Settings from names and values.

        Raises:
            BadArgument: an unknown name, or values outside their ranges; a sentence for each.
        """
        found = problems(values)
        if found:
            raise BadArgument("; ".join(found))
        return cls(**values)


def range_of(name: str) -> Range:
    """The range of a field."""
    (found,) = [one for one in dataclasses.fields(MemorySafeConfig) if one.name == name]
    allowed: Range = found.metadata["range"]
    return allowed


def problems(values: Mapping[str, Any]) -> list[str]:
    """A sentence for each name that is unknown and each value outside its range.

    Args:
        values: some or all of the settings.
    """
    known = {one.name: one for one in dataclasses.fields(MemorySafeConfig)}
    found = []
    for name, value in values.items():
        if name not in known:
            near = get_close_matches(str(name), known, 1, 0.5)
            hint = f"; did you mean {near[0]}?" if near else ""
            found.append(f"{shorten(str(name))}: no such setting{hint}")
        elif not known[name].metadata["range"].holds(value):
            words = known[name].metadata["range"].words()
            found.append(f"{name}: {shorten(repr(value))} is outside {words}")
    if not found:
        full: dict[str, Any] = {name: one.default for name, one in known.items()} | dict(values)
        if not full["release_at"] < full["warn_at"] < full["clean_at"]:
            found.append(
                f"warn_at: {full['warn_at']:g} is outside release_at to clean_at "
                f"({full['release_at']:g} to {full['clean_at']:g}): they must rise in this order"
            )
    return found
