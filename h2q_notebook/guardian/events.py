"""What happened, in order: a bounded list in memory, and a file of JSON lines where one is wanted.

Covers keeping and turning over. Never breaks what it reports on: a full disk costs the line.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["EventLog", "KernelEvent"]

_KEPT = 500


@dataclass(frozen=True, slots=True)
class KernelEvent:
    """One thing that happened to the kernel as a whole."""

    at_s: float
    """Seconds since the epoch."""
    kind: str
    """``warn``, ``clean``, ``stop``, ``calm``, ``ceiling``, ``settings``, ``load`` or ``death``."""
    text: str
    used_bytes: int
    limit_bytes: int


class EventLog:
    """Keeps events.

    Args:
        path: the file, or None; asked at each event, as settings change.
        max_bytes: size at which the file becomes ``<name>.1`` and a new one begins.
        now: seconds since the epoch.
    """

    def __init__(
        self,
        path: Callable[[], str] = lambda: "",
        max_bytes: Callable[[], int] = lambda: 1 << 20,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._path, self._max_bytes, self._now = path, max_bytes, now
        self._events: deque[KernelEvent] = deque(maxlen=_KEPT)
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, kind: str, text: str, used_bytes: int = 0, limit_bytes: int = 0) -> KernelEvent:
        """Note an event."""
        event = KernelEvent(round(self._now(), 3), kind, text, used_bytes, limit_bytes)
        with self._lock:
            self._events.append(event)
            self._counts[kind] += 1
            path = self._path()
            if path:
                with suppress(OSError, ValueError):
                    self._write(Path(path).expanduser(), event)
        return event

    def counts(self) -> dict[str, int]:
        """How many events of each kind there were, also of those no longer kept."""
        with self._lock:
            return dict(self._counts)

    def last(self, n: int = _KEPT) -> tuple[KernelEvent, ...]:
        """The newest events, oldest first."""
        with self._lock:
            return tuple(self._events)[-n:]

    def _write(self, path: Path, event: KernelEvent) -> None:
        with suppress(FileNotFoundError):
            if path.stat().st_size >= self._max_bytes():
                os.replace(path, path.with_name(f"{path.name}.1"))
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        fd = os.open(path, flags, 0o600)
        try:
            os.write(fd, json.dumps(asdict(event)).encode() + b"\n")
        finally:
            os.close(fd)
