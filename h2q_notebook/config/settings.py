"""What h2q may do and when, as one frozen value.

Covers defaults and ranges. Not where values come from.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from h2q_notebook.errors import BadArgument
from h2q_notebook.units import MIB

__all__ = ["MemorySafeConfig"]


@dataclass(frozen=True, slots=True)
class MemorySafeConfig:
    """Settings of one session.

    Raises:
        BadArgument: a value is outside its range; the sentence names field, value and range.
    """

    sample_interval_s: float = 0.005
    """Time between two looks of the watcher (0.001 to 1)."""
    strike_interval_s: float = 0.05
    """Time between two attempts to stop a cell (0.01 to 5)."""
    gauge_delay_s: float = 0.7
    """A cell shorter than this shows no gauge (0 to 60)."""
    gauge_interval_s: float = 0.25
    """Time between two updates of the gauge (0.1 to 10)."""
    raise_step_bytes: int = 512 * MIB
    """What one press of Raise adds (1 MiB to 1 TiB)."""
    reserve_bytes: int = 512 * MIB
    """Left to the machine when a cell names no budget (0 to 1 TiB)."""
    deep_limit_bytes: int = 256 * MIB
    """Copies that ``--rollback deep`` may keep by default (1 MiB to 1 TiB)."""
    history_length: int = 1000
    """Outcomes kept in ``h2q.history`` (1 to 100000)."""
    data_dir: str = ""
    """Directory for the results of benches; empty for Jupyter's data directory. ``H2Q_DATA_DIR``
    in the environment comes first."""

    def __post_init__(self) -> None:
        ranges: dict[str, tuple[float, float]] = {
            "sample_interval_s": (0.001, 1),
            "strike_interval_s": (0.01, 5),
            "gauge_delay_s": (0, 60),
            "gauge_interval_s": (0.1, 10),
            "raise_step_bytes": (MIB, 1 << 40),
            "reserve_bytes": (0, 1 << 40),
            "deep_limit_bytes": (MIB, 1 << 40),
            "history_length": (1, 100_000),
        }
        if not isinstance(self.data_dir, str) or "\0" in self.data_dir:
            raise BadArgument(f"data_dir: {self.data_dir!r} is no path; give a directory as text")
        for field in fields(self):
            if field.name not in ranges:
                continue
            value, (low, high) = getattr(self, field.name), ranges[field.name]
            if (
                isinstance(value, bool)
                or not isinstance(value, (int, float))
                or not low <= value <= high
            ):
                raise BadArgument(f"{field.name}: {value!r} is outside {low:g} to {high:g}")
