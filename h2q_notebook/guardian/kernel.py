"""Guards the kernel as a whole, between cells and during them.

Covers looking, deciding (``policy.decide``) and acting, in a thread of its own that sleeps the
longer the more room there is. A cell with a budget has a watcher of its own; this one sees what
nobody else does: a thread that goes on growing after its cell, a machine that gets full.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from h2q_notebook.guardian.events import EventLog
from h2q_notebook.policy.decide import (
    Decision,
    Standing,
    Thresholds,
    after_cleaning,
    decide,
)
from h2q_notebook.policy.trend import seconds_to_limit
from h2q_notebook.readings.limits import Headroom
from h2q_notebook.units import GIB, MIB, format_bytes, format_seconds

if TYPE_CHECKING:
    from h2q_notebook.config.settings import MemorySafeConfig

__all__ = ["Effects", "KernelGuard", "KernelView"]

_FILL_BYTES_PER_S = 2 * GIB
"""How fast a background thread may fill memory; the sleep is what is left by that. Slower than what
a cell's own watcher assumes (``watching``), which has a budget to keep and no GIL to share."""
_SHORTEST_S = 0.1
_GROWS_BYTES, _GROWS_S = 16 * MIB, 3.0
"""Use that rose by so much in so long, or since it passed the ceiling, is growing. A kernel that
merely holds a lot, on a machine that others fill, has nothing that should be ended."""
_CEILING_MOVED = 0.10
"""A ceiling that falls by this share of itself is noted ..."""
_NEAR = 0.5
"""... and told where the kernel holds so much of it."""


class Effects(Protocol):
    """What the guard can do; every one may be called from its thread."""

    def say(self, text: str) -> None:
        """Tell the user."""

    def clean(self) -> str:
        """Collect, empty pools and caches, call the user's reclaimers; what these did, in words."""

    def offer(self) -> str:
        """What the user could give up next (an idle model), in words; "" where there is nothing."""

    def calm(self) -> None:
        """There is room again."""

    def stop(self) -> str:
        """End what grows; returns what was ended, in words, or "" where there was nothing."""


@dataclass(frozen=True, slots=True)
class KernelView:
    """The whole kernel at one moment."""

    used_bytes: int
    limit_bytes: int
    source: str
    """The limit that binds, in words."""
    state: str
    """``calm``, ``warned`` or ``over``."""
    seconds_to_limit: float | None


class KernelGuard:
    """Watches the kernel until it is closed.

    Args:
        settings: the settings now.
        read_used: reads the kernel's use, in bytes.
        read_room: reads the limit that binds.
        effects: what it can do.
        events: where it notes what happened.
        clock: seconds, monotonic.
        on_look: called at each look with the time; follows files of settings.
    """

    def __init__(
        self,
        settings: Callable[[], MemorySafeConfig],
        read_used: Callable[[], int],
        read_room: Callable[[], Headroom],
        effects: Effects,
        events: EventLog,
        *,
        clock: Callable[[], float] = time.monotonic,
        on_look: Callable[[float], None] = lambda now_s: None,
    ) -> None:
        self._settings = settings
        self._read_used = read_used
        self._read_room = read_room
        self._effects = effects
        self._events = events
        self._clock = clock
        self._on_look = on_look
        self._standing = Standing()
        self._points: deque[tuple[float, int]] = deque(maxlen=64)
        self._lock = threading.Lock()
        self._highest_limit = 0
        self._helpless = False
        self._offered = ""
        self._over_from = 0
        self._left_bytes: int | None = None
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    # -- life ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to look; does nothing where it looks already."""
        if self._thread is not None and self._thread.is_alive():
            return
        self._over.clear()
        self._thread = threading.Thread(target=self._run, name="h2q-kernel-guard", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Look no more. Safe to call twice."""
        self._over.set()
        thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join(5)

    def _run(self) -> None:
        wait_s = self._settings().watch_interval_s
        while not self._over.wait(wait_s):
            with suppress(Exception):  # a guard that fell over guards nothing
                self.look()
            wait_s = self.pause_s()

    def pause_s(self) -> float:
        """How long the next look may wait: no longer than what is left takes to fill."""
        longest = self._settings().watch_interval_s
        if self._left_bytes is None:
            return longest
        left_s = self._left_bytes / _FILL_BYTES_PER_S
        return min(max(left_s, min(_SHORTEST_S, longest)), longest)

    # -- one look -----------------------------------------------------------------------------

    def view(self) -> KernelView:
        """The kernel now, without acting."""
        used = self._read_used()
        limit, source = self._limit(used)
        state = "over" if used >= limit else "warned" if self._standing.warned else "calm"
        left_s = seconds_to_limit(self._recent(), limit)
        return KernelView(used, limit, source, state, left_s)

    def look(self) -> Decision:
        """Read, decide, and do at most one thing."""
        now_s = self._clock()
        self._on_look(now_s)
        used = self._read_used()
        limit, source = self._limit(used)
        self._left_bytes = max(limit - used, 0)
        with self._lock:
            self._points.append((now_s, used))
        if used < limit or not self._standing.looks_over:
            self._over_from = used
        self._follow_ceiling(used, limit, source)
        thresholds = self._thresholds()
        self._standing, decision = decide(self._standing, used, limit, now_s, thresholds)
        if decision.action == "warn":
            self._tell("warn", self._warning(used, limit, source), used, limit)
        elif decision.action == "clean":
            self._clean(used, limit, source, thresholds)
        elif decision.action == "stop":
            self._stop(used, limit, source)
        elif decision.action == "calm":
            self._helpless = False
            self._effects.calm()
            self._events.add("calm", decision.reason, used, limit)
        return decision

    def _limit(self, used: int) -> tuple[int, str]:
        """The ceiling now: the user's, or what the machine can still give, less the buffer."""
        config = self._settings()
        room = self._read_room()
        spare = max(room.free_bytes - config.safety_bytes, 0)
        limit, source = used + spare, room.source
        if config.max_bytes is not None and config.max_bytes < limit:
            limit, source = config.max_bytes, "max_memory_mb"
        return limit, source

    def _recent(self) -> list[tuple[float, int]]:
        """The last looks; the notebook's thread asks while this one looks."""
        with self._lock:
            return list(self._points)

    def _grows(self) -> bool:
        points = self._recent()
        past = [used for at_s, used in points if points[-1][0] - at_s <= _GROWS_S]
        return past[-1] - min(*past, self._over_from) >= _GROWS_BYTES

    def _thresholds(self) -> Thresholds:
        config = self._settings()
        share = config.collect_time_share if config.collect == "auto" else 0.0
        return Thresholds(config.release_at, config.warn_at, config.clean_at, share)

    def _follow_ceiling(self, used: int, limit: int, source: str) -> None:
        """Another process or the container took memory: the ceiling is lower than it was."""
        if limit >= self._highest_limit:
            self._highest_limit = limit
        elif limit < (1 - _CEILING_MOVED) * self._highest_limit:
            text = f"the ceiling fell to {format_bytes(limit)} ({source}): others took memory"
            self._events.add("ceiling", text, used, limit)
            self._highest_limit = limit
            if used > _NEAR * limit:  # elsewhere it is noise: on a large machine it moves all day
                self._effects.say(f"h2q: {text}; the kernel holds {format_bytes(used)}")

    def _warning(self, used: int, limit: int, source: str) -> str:
        left_s = seconds_to_limit(self._recent(), limit)
        rate = f"; full in {format_seconds(left_s)} at this rate" if left_s else ""
        return (
            f"h2q: the kernel holds {format_bytes(used)}, {used / max(limit, 1):.0%} of its "
            f"ceiling {format_bytes(limit)} ({source}){rate}; %h2q_status tells what holds it"
        )

    def _clean(self, used: int, limit: int, source: str, thresholds: Thresholds) -> None:
        warned = any(event.kind == "warn" for event in self._events.last(1))
        began_s = self._clock()
        told = self._effects.clean()
        now_s = self._clock()
        freed = max(used - self._read_used(), 0)
        self._standing = after_cleaning(
            self._standing,
            freed_bytes=freed,
            limit_bytes=limit,
            took_s=now_s - began_s,
            now_s=now_s,
            thresholds=thresholds,
        )
        text = f"collected: {format_bytes(freed)} given back in {format_seconds(now_s - began_s)}"
        text += f"; {told}" if told else ""
        offer = self._effects.offer() if used - freed >= thresholds.clean * limit else ""
        fresh, self._offered = offer != self._offered, offer
        if not warned:
            self._effects.say(f"{self._warning(used, limit, source)}; {text}")
        if offer and fresh:
            self._effects.say(f"h2q: {offer}")
        self._events.add("clean", text, used, limit)

    def _stop(self, used: int, limit: int, source: str) -> None:
        ended = self._effects.stop() if self._grows() else ""
        if not ended:
            if self._helpless:
                return  # it was told, and nothing has changed
            self._helpless = True
            ended = "nothing grows in the background that could be ended; %h2q_status tells more"
        text = (
            f"h2q: the kernel holds {format_bytes(used)}, over its ceiling {format_bytes(limit)} "
            f"({source}); {ended}"
        )
        self._tell("stop", text, used, limit)

    def _tell(self, kind: str, text: str, used: int, limit: int) -> None:
        self._events.add(kind, text, used, limit)
        with suppress(Exception):
            self._effects.say(text)
