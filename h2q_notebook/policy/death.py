"""Why a kernel died, as far as the evidence goes.

Covers judging alone. It says "for memory" only where a counter of the system rose; an exit code by
itself is never proof: SIGKILL also comes from people and from schedulers.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass

from h2q_notebook.units import format_bytes, format_seconds

__all__ = ["CAUSES", "DeathEvidence", "Verdict", "explain"]

CAUSES = ("out_of_memory", "address_space", "crash", "signal", "exit", "unknown")
"""Every cause there is."""
_CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE)
_NEARLY_FULL = 0.75
"""A refused request is not in the peak, so that the peak of a process that aborted at its limit
stays below it, by the size of that request."""


@dataclass(frozen=True, slots=True)
class DeathEvidence:
    """What is known when a kernel is found dead."""

    exit_code: int | None
    """As ``subprocess`` gives it: minus the number of a signal; None: not known."""
    kills: int | None = None
    """How many processes the system killed for memory in the seconds before; None: not counted."""
    limit_bytes: int | None = None
    peak_bytes: int | None = None
    """The most that was used of it."""
    limit_source: str = ""
    """Whose limit it is, in words."""
    held_bytes: int | None = None
    """What the kernel itself held at the last look."""
    held_before_s: float = 0.0
    """How long before it was found dead that look was."""
    address_used_bytes: int | None = None
    address_limit_bytes: int | None = None
    """RLIMIT_AS, where there was one."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is said."""

    cause: str
    """One of ``CAUSES``."""
    text: str


def explain(found: DeathEvidence) -> Verdict:
    """Say why, and how that is known; "cause unknown" where it is not."""
    cause, text = _judge(found)
    return Verdict(cause, f"{text}{_held(found)}")


def _judge(found: DeathEvidence) -> tuple[str, str]:
    code = found.exit_code
    if code is None:
        return "unknown", "gone, exit code and cause unknown"
    if code >= 0:
        return "exit", f"ended by itself with exit code {code}"
    if code == -signal.SIGKILL:
        return _killed(found)
    name = _name(-code)
    if code == -signal.SIGABRT and _address_full(found):
        assert found.address_used_bytes is not None
        assert found.address_limit_bytes is not None
        taken = _of(found.address_used_bytes, found.address_limit_bytes)
        return "address_space", (
            f"aborted ({name}) with {taken} of its address space (RLIMIT_AS) taken, as a library "
            "does that cannot go on when it is refused memory"
        )
    if -code in _CRASHES:
        return "crash", f"crashed in native code ({name})"
    return "signal", f"ended by {name}, sent by somebody or something else"


def _killed(found: DeathEvidence) -> tuple[str, str]:
    if found.kills:
        return "out_of_memory", f"killed by the system for memory{_at(found)}"
    counted = "; the system counted no process killed for memory" if found.kills == 0 else ""
    return "signal", f"exited with -9, cause unknown{counted}"


def _at(found: DeathEvidence) -> str:
    """At 7.9 of 8.0 GiB."""
    if found.limit_bytes is None:
        return ""
    if found.peak_bytes is None:
        return f" ({found.limit_source}: {format_bytes(found.limit_bytes)})"
    return f" at {_of(found.peak_bytes, found.limit_bytes)} ({found.limit_source})"


def _of(used_bytes: int, limit_bytes: int) -> str:
    """The unit once where both have the same."""
    used, limit = format_bytes(used_bytes), format_bytes(limit_bytes)
    same = used.split()[1] == limit.split()[1]
    return f"{used.split()[0] if same else used} of {limit}"


def _held(found: DeathEvidence) -> str:
    if found.held_bytes is None:
        return ""
    when = f"{format_seconds(found.held_before_s)} before" if found.held_before_s else "then"
    return f"; it held {format_bytes(found.held_bytes)} at the last look, {when}"


def _address_full(found: DeathEvidence) -> bool:
    used, limit = found.address_used_bytes, found.address_limit_bytes
    return used is not None and limit is not None and used >= _NEARLY_FULL * limit


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
