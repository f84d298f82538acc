"""When to strike at a running cell, and how hard: pure decisions.

A *strike* is one attempt to stop. The first is polite (one signal); each later one, a strike
interval after it, is sent as long as the cell has not unwound. Standard library only at import.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum

__all__ = ["NO_ACT", "Act", "Cause", "Orders", "Standing", "View", "judge"]


class Cause(IntEnum):
    """Why a cell is being stopped; the number crosses the shared page."""

    NONE = 0
    MEMORY = 1
    TIMEOUT = 2
    REQUEST = 3
    REFUSED = 4
    """It goes on asking for what it cannot have."""


@dataclass(frozen=True, slots=True)
class Orders:
    """What the watcher was told when it was armed."""

    limit_bytes: int
    """Absolute use of the kernel and what was born in the cell."""
    strike: bool = True
    """False: look on and keep the record (``--on-overrun warn``)."""
    strike_interval_s: float = 0.05
    timeout_s: float | None = None
    clamp_at_strike: int = 0
    """From this strike on RLIMIT_DATA is clamped; 0 never (only ``--strict`` asks for it: the
    clamp kills the kernel when a Rust library is allocating on the main thread)."""
    insist_at_strike: int = 5
    """From this strike on SIGINT is sent as well: the cell may have replaced SIGURG's handler."""
    max_refusals: int = 1000
    """A cell that was refused so often is in a loop (``while True: ... except MemoryError``): one
    refusal takes some 30 us, and no sensible fall-back tries a thousand sizes."""


@dataclass(frozen=True, slots=True)
class View:
    """What the watcher sees at one moment."""

    now_s: float
    """Seconds since it was armed."""
    own_bytes: int
    extra_bytes: int
    """Held by children and shared memory born in the cell."""
    unwound: bool
    """The kernel says that the cell has been left; it must not be struck again."""
    stop_requested: bool
    refused: int = 0
    """Requests that were refused since it was armed."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What the watcher remembers between two looks."""

    strikes: int = 0
    next_strike_s: float = 0.0
    first_over_s: float | None = None
    cause: Cause = Cause.NONE


@dataclass(frozen=True, slots=True)
class Act:
    """What to do now; ``strike`` 0 means nothing."""

    strike: int = 0
    cause: Cause = Cause.NONE
    freeze_children: bool = False
    clamp: bool = False
    insist: bool = False


NO_ACT = Act()


def judge(orders: Orders, standing: Standing, view: View) -> tuple[Standing, Act]:
    """Decide on one look.

    Args:
        orders: limit and manners.
        standing: the answer of the look before.
        view: the readings of this look.

    Returns:
        The new standing, and what to do.
    """
    over = view.own_bytes + view.extra_bytes > orders.limit_bytes
    late = orders.timeout_s is not None and view.now_s >= orders.timeout_s
    if over and standing.first_over_s is None:
        standing = replace(standing, first_over_s=view.now_s)
    if view.stop_requested:
        cause = Cause.REQUEST
    elif over and orders.strike:
        cause = Cause.MEMORY
    elif late:
        cause = Cause.TIMEOUT
    elif view.refused >= orders.max_refusals and orders.strike:
        cause = Cause.REFUSED
    else:
        return standing, NO_ACT
    if view.unwound or view.now_s < standing.next_strike_s:
        return standing, NO_ACT
    strikes = standing.strikes + 1
    standing = replace(
        standing,
        strikes=strikes,
        next_strike_s=view.now_s + orders.strike_interval_s,
        cause=standing.cause or cause,
    )
    own_over = view.own_bytes > orders.limit_bytes
    act = Act(
        strike=strikes,
        cause=standing.cause,
        freeze_children=cause is Cause.MEMORY and not own_over,
        clamp=own_over and 0 < orders.clamp_at_strike <= strikes,
        insist=strikes >= orders.insist_at_strike,
    )
    return standing, act
