"""What a gauge shows at one moment: plain data, the words for it, and a bounded history.

Covers data and words for people. Drawing is ``static/gauge.js`` (live) and ``gauge_static`` (kept
in the file); threads and messages are ``gauge``. Imports ``units`` and ``cell.outcome``'s data.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import Any, Literal

from h2q_notebook.cell.outcome import Event
from h2q_notebook.units import MIB, format_bytes, format_seconds

__all__ = [
    "GaugeFrame",
    "History",
    "Level",
    "State",
    "as_state",
    "badge",
    "sentence",
    "trend",
    "words",
]

Level = Literal["calm", "warn", "clean", "over"]
State = Literal["running", "stopping", "ended"]

# A glyph and a word for each level: colour alone says nothing to one reader in twelve.
_BADGES: dict[Level, tuple[str, str]] = {
    "calm": ("●", "OK"),
    "warn": ("▲", "WARN 80%"),
    "clean": ("■", "CLEANING 90%"),
    "over": ("✖", "OVER BUDGET"),
}
_MAX_EVENTS = 12  # more marks than this cover each other


@dataclass(frozen=True, slots=True)
class GaugeFrame:
    """One reading for the gauge; bytes are relative to the cell's start (absolute for a kernel)."""

    t_s: float
    """Seconds since the gauge's cell began."""
    used_bytes: int
    limit_bytes: int
    """The budget (or ceiling) in bytes; 0 means that there is none."""
    peak_bytes: int
    level: Level
    """calm below 80 %, warn from 80 %, clean from 90 %, over above 100 % of the limit."""
    state: State
    seconds_to_limit: float | None = None
    """At the present rate; None where the use is not growing."""
    events: tuple[Event, ...] = ()
    devices: tuple[tuple[str, int, int], ...] = ()
    """Of each GPU in use: name, bytes used, bytes that there are or that the cell may use."""
    alarm: str = ""
    """How short the machine is of memory, in words."""


@dataclass(slots=True)
class History:
    """Readings in order, never more than *keep*: when full, the resolution is halved.

    Of each pair the higher reading is kept, so that a short peak does not vanish from the picture.
    """

    keep: int = 240
    t_s: list[float] = field(default_factory=list)
    used_bytes: list[int] = field(default_factory=list)

    def add(self, t_s: float, used_bytes: int) -> None:
        """Append one reading (seconds, bytes)."""
        if len(self.t_s) >= self.keep:
            pairs = list(zip(self.t_s, self.used_bytes, strict=True))
            kept = [max(pairs[i : i + 2], key=lambda p: p[1]) for i in range(0, len(pairs), 2)]
            self.t_s = [t for t, _ in kept]
            self.used_bytes = [used for _, used in kept]
        self.t_s.append(t_s)
        self.used_bytes.append(used_bytes)

    def packed(self) -> bytes:
        """Return n float32 times, then n float32 readings in MiB (little work for the kernel)."""
        return array("f", [*self.t_s, *(b / MIB for b in self.used_bytes)]).tobytes()


def badge(frame: GaugeFrame) -> tuple[str, str]:
    """Return the glyph and the word for the frame's level."""
    return _BADGES[frame.level]


def words(frame: GaugeFrame) -> str:
    """Write the head line: ``310 MiB of 400 MiB (78%) · peak 310 MiB``, then stopping or ended."""
    used = format_bytes(frame.used_bytes)
    if frame.limit_bytes > 0:
        share = 100 * frame.used_bytes / frame.limit_bytes
        used = f"{used} of {format_bytes(frame.limit_bytes)} ({share:.0f}%)"
    state = "" if frame.state == "running" else f" · {frame.state}"
    alarm = f" · {frame.alarm}" if frame.alarm else ""
    devices = "".join(
        f" · {name} {format_bytes(held)} of {format_bytes(limit)}"
        for name, held, limit in frame.devices
    )
    return f"{used} · peak {format_bytes(frame.peak_bytes)}{devices}{alarm}{state}"


def trend(frame: GaugeFrame) -> str:
    """Write ``full in 12 s at this rate``, or nothing where nothing is growing."""
    left = frame.seconds_to_limit
    full = 0 < frame.limit_bytes <= frame.used_bytes
    if left is None or full or frame.state != "running" or not 0 <= left < 3600:
        return ""
    # Whole seconds: a tenth would flicker, and no extrapolation is that good.
    return f"full in {format_seconds(left) if left >= 60 else f'{left:.0f} s'} at this rate"


def sentence(frame: GaugeFrame, label: str) -> str:
    """Write the whole gauge as one sentence for a screen reader."""
    parts = (f"{label}: memory {words(frame)}".replace(" · ", ", "), badge(frame)[1], trend(frame))
    return ", ".join(part for part in parts if part)


def as_state(
    frame: GaugeFrame, history: History, label: str, limit_word: str = "budget"
) -> dict[str, Any]:
    """Return what is synced to the page: numbers, labels and phase words; no path, no source."""
    glyph, word = badge(frame)
    limit = f"{limit_word} {format_bytes(frame.limit_bytes)}" if frame.limit_bytes > 0 else ""
    return {
        "t": round(frame.t_s, 2),
        "used": frame.used_bytes,
        "limit": frame.limit_bytes,
        "peak": frame.peak_bytes,
        "level": frame.level,
        "state": frame.state,
        "glyph": glyph,
        "word": word,
        "words": words(frame),
        "trend": trend(frame),
        "limit_words": limit,
        "spoken": sentence(frame, label),
        "events": [
            {"t": round(e.t_s, 2), "used": e.used_bytes, "text": e.text[:60], "kind": e.kind}
            for e in frame.events[-_MAX_EVENTS:]
        ],
        "history": history.packed(),
    }
