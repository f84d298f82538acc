"""The loop body of a watcher: look, judge, act. The same in the sidecar and in a thread.

Effects (readings, signals, clock) come in through ``Effects``. Standard library only at import.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from h2q_notebook.guardian.page import SharedPage, Word
from h2q_notebook.policy.strikes import Act, Cause, Orders, Standing, View, judge
from h2q_notebook.readings.history import History

__all__ = ["Effects", "Watching"]

_TREE_INTERVAL_S = 0.02
_TREE_COST_SHARE = 5  # a look at the tree may take at most a fifth of the time
_FILL_BYTES_PER_S = 6 << 30
"""No cell fills memory faster (earlyoom's assumption; 1.5-3.3 GB/s were measured for fresh pages on
one core), so looks can be rarer while there is much room: a watcher at 5 ms took 6 % of a core."""
_MAX_WAIT_S = 0.025


class Effects(Protocol):
    """What a watcher can see and do."""

    def now_s(self) -> float:
        """A monotonic clock."""

    def own_bytes(self) -> int:
        """The kernel's own use."""

    def mark_start(self) -> None:
        """Remember which children and shared memory exist now."""

    def extra_bytes(self, own_bytes: int) -> int:
        """Use of children and shared memory born since ``mark_start``."""

    def born(self) -> list[int]:
        """Process ids of children born since ``mark_start``."""

    def strike(self, act: Act) -> None:
        """Signal the kernel; freeze its new children; clamp, if the act says so."""


@dataclass
class Watching:
    """One arming, from ``arm`` to ``result``."""

    effects: Effects
    page: SharedPage
    orders: Orders
    token: int
    start_s: float = 0.0
    looks: int = 0
    _extra: int = 0
    _next_tree_s: float = 0.0
    _standing: Standing = field(default_factory=Standing)
    _history: History = field(default_factory=History)

    def begin(self) -> None:
        """Start the clock and take the baseline of the tree."""
        page = self.page
        for word in (Word.OWN, Word.EXTRA, Word.PEAK, Word.STRIKES, Word.CAUSE, Word.INSIST):
            page[word] = 0
        self.effects.mark_start()
        self.start_s = self.effects.now_s()

    def wait_s(self, interval_s: float) -> float:
        """How long the next look can wait: what would at most fill the room that is left.

        Args:
            interval_s: the shortest wait.
        """
        if self._extra:  # children fill memory beside each other
            return interval_s
        room = self.page[Word.LIMIT] - self.page[Word.OWN]
        return min(_MAX_WAIT_S, max(interval_s, room / _FILL_BYTES_PER_S))

    def look(self) -> None:
        """Take one reading and do what it asks for."""
        effects, page = self.effects, self.page
        now_s = effects.now_s() - self.start_s
        limit = page[Word.LIMIT] or self.orders.limit_bytes
        own = effects.own_bytes()
        if now_s >= self._next_tree_s:
            self._extra = effects.extra_bytes(own)
            cost_s = effects.now_s() - self.start_s - now_s
            self._next_tree_s = now_s + max(_TREE_INTERVAL_S, _TREE_COST_SHARE * cost_s)
        self.looks += 1
        total = own + self._extra
        page[Word.OWN], page[Word.EXTRA] = own, self._extra
        page[Word.PEAK] = max(page[Word.PEAK], total)
        self._history.add(now_s, total)
        if limit != self.orders.limit_bytes:  # Raise was pressed
            self.orders = replace(self.orders, limit_bytes=limit)
        view = View(
            now_s=now_s,
            own_bytes=own,
            extra_bytes=self._extra,
            unwound=page[Word.UNWOUND] == self.token,
            stop_requested=page[Word.STOP_REQUESTED] == self.token,
            refused=page[Word.REFUSED],
        )
        self._standing, act = judge(self.orders, self._standing, view)
        if act.strike:
            page[Word.STRIKES], page[Word.CAUSE] = act.strike, int(act.cause)
            page[Word.INSIST] = int(act.insist)
            effects.strike(act)

    def result(self) -> dict[str, Any]:
        """What was seen, ready for JSON."""
        return {
            "token": self.token,
            "looks": self.looks,
            "peak_bytes": self.page[Word.PEAK],
            "strikes": self._standing.strikes,
            "cause": int(self._standing.cause or Cause.NONE),
            "first_over_s": self._standing.first_over_s,
            "seconds": self.effects.now_s() - self.start_s,
            "born": self.effects.born(),
            "points": self._history.points(),
        }
