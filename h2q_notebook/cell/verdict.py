"""How a cell ended, judged from what was seen: pure.

Covers the status, notes and advice of an outcome. Not names, memory or display.
"""

from __future__ import annotations

from dataclasses import dataclass

from h2q_notebook.cell.outcome import OnOverrun, Status
from h2q_notebook.policy.strikes import Cause
from h2q_notebook.units import MIB, format_bytes

__all__ = ["Facts", "advice_for", "judge_status", "notes_for"]

_ALLOCATION_WORDS = ("allocate", "bad_alloc", "out of memory", "Cannot allocate")


@dataclass(frozen=True, slots=True)
class Facts:
    """What was seen of a cell; bytes above its baseline."""

    error: BaseException | None
    cause: Cause
    raised: int
    cancelled: int
    strikes: int
    refused: int
    strict: bool
    on_overrun: OnOverrun
    budget_bytes: int
    peak_bytes: int
    end_bytes: int
    """Use when the cell had ended, before anything was undone."""
    watcher_lost: bool = False
    asked_bytes: int = 0
    """The last request that was refused; 0 if none was."""


def judge_status(facts: Facts) -> Status:
    """Name the way the cell ended."""
    if facts.raised or facts.cancelled:
        return {Cause.TIMEOUT: "timeout", Cause.REQUEST: "stopped"}.get(  # type: ignore[return-value]
            facts.cause, "overrun"
        )
    allocation = isinstance(facts.error, MemoryError) or (
        isinstance(facts.error, (RuntimeError, OSError))
        and any(word in str(facts.error) for word in _ALLOCATION_WORDS)
    )
    if allocation and (facts.refused or facts.strict):
        return "refused"
    if facts.on_overrun == "warn":
        if facts.peak_bytes > facts.budget_bytes:
            return "warned"
    elif facts.end_bytes > facts.budget_bytes:
        return "overrun"
    return "error" if facts.error is not None else "ok"


def notes_for(facts: Facts, status: Status) -> tuple[str, ...]:
    """What a user should know beside the figures."""
    notes = []
    if status in ("ok", "error") and facts.peak_bytes > facts.budget_bytes:
        notes.append(
            "it went over its budget inside one call that had given the memory back before it "
            "could be stopped"
        )
    if facts.raised > 1:
        notes.append(
            "it caught the first stop and had to be forced: finally blocks may be incomplete"
        )
    if status == "overrun" and not facts.raised and not facts.cancelled:
        notes.append("its last call ended over the budget; it was undone afterwards")
    if facts.refused and status in ("ok", "error"):
        notes.append(f"{facts.refused} requests were refused, and the cell handled that")
    if facts.watcher_lost:
        notes.append("the watcher was lost during the cell; a new one guards the next cell")
    return tuple(notes)


def advice_for(facts: Facts, status: Status) -> tuple[str, ...]:
    """What to try next, the most promising first."""
    if status == "timeout":
        return ("give a longer --timeout, or work on a smaller piece",)
    if status not in ("overrun", "refused"):
        return ()
    need = max(facts.peak_bytes, facts.budget_bytes) * 3 // 2
    if status == "refused":
        need = max(need, facts.peak_bytes + facts.asked_bytes)
    step = 256 * MIB
    advice = [
        f"more room: %%h2q_budget {format_bytes(-(-need // step) * step).replace(' ', '')}",
        "less at once: chunks, a smaller sample, a narrower dtype (float32, category), or del "
        "what is no longer needed",
    ]
    if status == "overrun" and facts.peak_bytes - facts.budget_bytes > 64 * MIB:
        advice.append(
            "one native call outran the watcher: --strict bounds such calls (not with polars or "
            "tokenizers, which abort when refused)"
        )
    return tuple(advice)
