"""How a cell ended, judged from what was seen: pure.

Covers the status, notes and advice of an outcome. Not names, memory or display.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from h2q_notebook.cell.outcome import OnOverrun, Status
from h2q_notebook.guardian.device_limit import is_device_full
from h2q_notebook.policy.strikes import Cause
from h2q_notebook.units import MIB, format_bytes

if TYPE_CHECKING:
    from h2q_notebook.cell.options import BudgetOptions
    from h2q_notebook.guardian.arming import WatchResult
    from h2q_notebook.guardian.gate import GatePassed

__all__ = [
    "Facts",
    "advice_for",
    "facts_of",
    "is_allocation_error",
    "judge_status",
    "notes_for",
    "told_error",
]

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
    granted_bytes: int = 0
    """What it was promised; the machine may have had less of it left."""
    asked_bytes: int = 0
    """The last request that was refused; 0 if none was."""
    asked_by: str = ""
    left_bytes: int = 0
    """What there was room for when it was refused."""
    budget_source: str = ""
    """Which limit binds, in words."""
    passed: GatePassed | None = None
    """The largest request beyond the limit that was granted: refusing it could end the kernel."""
    devices: int | None = None
    """How many devices had a budget; None: none was asked for."""
    device_full: bool = False
    """The error is a device's allocator that kept to its budget."""


def facts_of(
    watch: WatchResult,
    options: BudgetOptions,
    budget_source: str,
    error: BaseException | None,
    end_bytes: int,
) -> Facts:
    """Gather them.

    Args:
        watch: what was seen.
        options: what was asked for.
        budget_source: which limit binds, in words.
        error: what the cell ended with.
        end_bytes: use when it had ended, above its baseline.
    """
    refusal = watch.refusals[-1] if watch.refusals else None
    return Facts(
        error=error,
        cause=watch.cause,
        raised=watch.raised,
        cancelled=watch.cancelled,
        strikes=watch.strikes,
        refused=len(watch.refusals),
        strict=options.strict,
        on_overrun=options.on_overrun,
        budget_bytes=watch.budget_bytes,
        peak_bytes=watch.peak_bytes,
        end_bytes=end_bytes,
        watcher_lost=watch.watcher_lost,
        granted_bytes=watch.granted_bytes,
        asked_bytes=refusal.asked_bytes if refusal else 0,
        asked_by=refusal.what if refusal else "",
        left_bytes=refusal.left_bytes if refusal else 0,
        budget_source=budget_source,
        passed=watch.passed[0] if watch.passed else None,
        devices=len(watch.devices) if options.gpu is not None else None,
        device_full=options.gpu is not None and is_device_full(error),
    )


def is_allocation_error(error: BaseException | None) -> bool:
    """Whether a library says, in its own way, that it was given no memory."""
    return isinstance(error, MemoryError) or (
        isinstance(error, (RuntimeError, OSError))
        and any(word in str(error) for word in _ALLOCATION_WORDS)
    )


def told_error(error: BaseException | None) -> str | None:
    """Its name and what it says, if it says anything (Python's own MemoryError does not)."""
    return None if error is None else f"{type(error).__name__}: {error}"[:200].removesuffix(": ")


def judge_status(facts: Facts) -> Status:
    """Name the way the cell ended."""
    if facts.raised or facts.cancelled:
        return {Cause.TIMEOUT: "timeout", Cause.REQUEST: "stopped"}.get(  # type: ignore[return-value]
            facts.cause, "overrun"
        )
    if facts.device_full:
        return "refused"
    if is_allocation_error(facts.error) and (facts.refused or facts.strict):
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
    if facts.granted_bytes > facts.budget_bytes:
        notes.append(
            f"others took memory while it ran: of the {format_bytes(facts.granted_bytes)} it was "
            f"granted the machine had {format_bytes(facts.budget_bytes)} left"
        )
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
        many = f"{facts.refused} requests were" if facts.refused > 1 else "a request was"
        notes.append(f"{many} refused, and the cell handled that")
    if status == "refused" and facts.asked_by:
        notes.append(
            f"{facts.asked_by} asked for {format_bytes(facts.asked_bytes)} with "
            f"{format_bytes(facts.left_bytes)} left ({facts.budget_source}); it was refused before "
            "it grew"
        )
    if facts.passed and facts.peak_bytes > facts.budget_bytes:
        one = facts.passed
        notes.append(
            f"{one.what} asked for {format_bytes(one.asked_bytes)} with "
            f"{format_bytes(one.left_bytes)} left; it was granted, as refusing it could end the "
            "kernel"
        )
    if facts.devices == 0:
        notes.append("--gpu: no device of torch's was in use, so none was limited")
    if facts.watcher_lost:
        notes.append("the watcher was lost during the cell; a new one guards the next cell")
    return tuple(notes)


def advice_for(facts: Facts, status: Status) -> tuple[str, ...]:
    """What to try next, the most promising first."""
    if status == "timeout":
        return ("give a longer --timeout, or work on a smaller piece",)
    if status not in ("overrun", "refused"):
        return ()
    if facts.device_full:
        return (
            "a smaller batch (h2q.fit_batch_size finds one), a narrower dtype, or a larger --gpu",
            "del what is no longer needed on the device; with --gpu its cache is emptied first",
        )
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
        advice.insert(
            1,
            "one native call outran the watcher, and its library cannot be refused: --isolate "
            "runs the cell in a process of its own",
        )
    return tuple(advice)
