"""One guarded cell from its first line to its outcome.

Covers the order of things: snapshot, arm, run, disarm, judge, undo, give back. What is shown, and
when a cell is guarded at all, is the session's business.
"""

from __future__ import annotations

import asyncio
import builtins
import sys
import threading
from dataclasses import dataclass, field
from datetime import datetime, timezone
from types import TracebackType
from typing import TYPE_CHECKING, Any

from h2q_notebook.cell import sizes, snapshot
from h2q_notebook.cell.options import BudgetOptions, ResolvedBudget, resolve_budget
from h2q_notebook.cell.outcome import (
    CellOutcome,
    DeviceUse,
    Event,
    NameSize,
    Sample,
    SourceLine,
    Undone,
)
from h2q_notebook.cell.shell_refs import (
    cell_frames,
    cell_line,
    cell_task,
    drop_traceback_refs,
    local_names,
)
from h2q_notebook.cell.verdict import (
    Facts,
    advice_for,
    facts_of,
    is_allocation_error,
    judge_status,
    notes_for,
    told_error,
)
from h2q_notebook.errors import CellStopped
from h2q_notebook.guardian.arming import GuardRequest, WatchResult
from h2q_notebook.guardian.born import end_born
from h2q_notebook.guardian.device_limit import is_device_full
from h2q_notebook.guardian.guardian import MemoryGuardian
from h2q_notebook.guardian.reclaim import clear_exception, release_memory
from h2q_notebook.guardian.stop import EXCEPTIONS, CellContext
from h2q_notebook.policy.strikes import Cause
from h2q_notebook.units import MIB, format_bytes

if TYPE_CHECKING:
    from h2q_notebook.cell.outcome import Status
    from h2q_notebook.config.settings import MemorySafeConfig

__all__ = ["GuardedCell"]

_STAYED_BYTES = 64 * MIB
_BUILTINS = builtins.__dict__


@dataclass
class _Caught:
    """What the exception handler saw before frames were cleared."""

    line: SourceLine | None = None
    holders: tuple[NameSize, ...] = ()
    local_holders: tuple[NameSize, ...] = ()


@dataclass(repr=False, eq=False)
class GuardedCell:
    """The one cell being guarded.

    Args:
        shell: the IPython shell.
        guardian: watches and stops.
        config: limits and intervals.
        options: what the user asked for.
    """

    shell: Any
    guardian: MemoryGuardian
    config: MemorySafeConfig
    options: BudgetOptions
    thread_id: int = field(default_factory=threading.get_ident)
    events: list[Event] = field(default_factory=list)
    budget: ResolvedBudget = field(init=False)
    error_shown: bool = False
    _snapshot: snapshot.Snapshot = field(init=False)
    _caught: _Caught = field(default_factory=_Caught)
    _builtins: dict[str, Any] = field(default_factory=_BUILTINS.copy)
    _started_at: str = ""
    _source: tuple[str, ...] = ()
    _previous_custom: tuple[Any, Any] = ((), None)
    _custom: Any = None

    # -- begin ----------------------------------------------------------------------------------

    def begin(self, raw_cell: str, transformed_cell: str | None) -> None:
        """Snapshot, then arm.

        Raises:
            GuardUnavailable: no watcher can be started, or --strict cannot be had.
            BadArgument: the size makes no sense on this machine.
        """
        self._source = tuple(raw_cell.lstrip("\n").split("\n"))
        self.budget = resolve_budget(
            self.options.size or self.config.working_size,
            self.guardian.headroom(),
            self.config.safety_bytes,
        )
        self._started_at = datetime.now(timezone.utc).isoformat(timespec="seconds")
        shell = self.shell
        self._snapshot = snapshot.take(
            shell.user_ns,
            contents=self.options.contents if self.options.on_overrun == "rollback" else "off",
            deep_limit_bytes=min(
                self.options.deep_limit_bytes or self.config.deep_limit_bytes,
                self.budget.n_bytes,
            ),
            hidden=getattr(shell, "user_ns_hidden", None),
            display=vars(shell.displayhook),
        )
        task, loop = cell_task(shell, raw_cell, transformed_cell)
        request = GuardRequest(
            budget_bytes=max(MIB, self.budget.n_bytes - self._snapshot.copied_bytes),
            strike=self.options.on_overrun != "warn",
            strict=self.options.strict or self.config.enable_strict_mode,
            refuse=self.options.refuse,
            gate=self.options.gate,
            timeout_s=self.options.timeout_s,
            gpu=self.options.gpu,
        )
        self._take_exceptions()
        try:
            self.guardian.arm(
                request,
                lambda token: CellContext(
                    token=token,
                    thread_id=self.thread_id,
                    runner_code=type(shell).run_code.__code__,
                    global_names=shell.user_global_ns,
                    message=self._stop_text,
                    shielded_file=__file__,
                    task=task,
                    loop=loop,
                ),
            )
        except BaseException:
            self._give_exceptions_back()
            self._snapshot.release()
            raise

    def abandon(self) -> None:
        """Stop guarding without a verdict (the extension is being unloaded by the cell itself)."""
        self.guardian.disarm()
        self._give_exceptions_back()
        self._snapshot.release()

    # -- the exception, if there is one ----------------------------------------------------------

    def _take_exceptions(self) -> None:
        """Have stops handed to us before IPython formats them.

        Formatting the traceback of a 1600-frame recursion blocked for 18-40 s; and memory must
        come back before anything else is allocated.
        """
        shell = self.shell
        self._previous_custom = (shell.custom_exceptions, getattr(shell, "CustomTB", None))
        own: tuple[type[BaseException], ...] = (CellStopped, MemoryError, asyncio.CancelledError)
        own += (RuntimeError,)  # so torch and the devices say that there is no memory
        shell.set_custom_exc((*own, *shell.custom_exceptions), self._on_exception)
        self._custom = shell.CustomTB

    def _give_exceptions_back(self) -> None:
        shell = self.shell
        if shell.CustomTB is self._custom:
            shell.custom_exceptions, shell.CustomTB = self._previous_custom
        self._previous_custom, self._custom = ((), None), None

    def _on_exception(
        self,
        shell: Any,
        kind: type[BaseException],
        error: BaseException,
        trace: TracebackType | None,
        tb_offset: int | None = None,
    ) -> list[str]:
        mine = _BUILTINS.copy()
        _BUILTINS.update(self._builtins)  # a cell may have rebound what we need to get out of it
        left = self.guardian.unwound(sys._getframe().f_back)
        live = self.guardian.live()
        stopped = isinstance(error, CellStopped) or (
            isinstance(error, asyncio.CancelledError) and live is not None and live.strikes > 0
        )
        if not stopped and not self._was_refused(error):
            _BUILTINS.update(mine)
            previous_kinds, previous = self._previous_custom
            if previous is not None and previous_kinds and issubclass(kind, previous_kinds):
                return list(previous(kind, error, trace, tb_offset=tb_offset) or ())
            shell.showtraceback((kind, error, trace), tb_offset=tb_offset)
            return []
        if left:
            try:
                self._look_at(trace)
            except Exception:  # telling where must never stand in the way of getting out
                self._caught = _Caught()
        clear_exception(error)
        del trace
        text = (
            str(error).split("\n")[0]
            or f"one request that does not fit the {self.budget.source} was refused"
        )
        if stopped:
            cause = (live.cause if live is not None else Cause.NONE) or Cause.MEMORY
            kind, text = EXCEPTIONS[cause], self._stop_text(cause)
        self._show_error(kind.__name__, text)
        self.error_shown = left
        return []

    def _stop_text(self, cause: Cause) -> str:
        if cause is Cause.TIMEOUT:
            return "the cell was stopped: its --timeout is over"
        if cause is Cause.REQUEST:
            return "the cell was stopped on request"
        if cause is Cause.REFUSED:
            return f"it goes on asking for more than fits ({self.budget.source}) and was stopped"
        return f"the cell was stopped at its {self.budget.source}"

    def _was_refused(self, error: BaseException) -> bool:
        if self.options.gpu is not None and is_device_full(error):
            return True
        return is_allocation_error(error) and (
            self.options.strict or bool(self.guardian.refusals())
        )

    def _look_at(self, trace: TracebackType | None) -> None:
        names = self.shell.user_ns
        frames, innermost, line = cell_frames(
            trace, type(self.shell).run_code.__code__, self.shell.user_global_ns
        )
        self._caught.line = cell_line(innermost, line, self._source)
        self._caught.local_holders = sizes.largest(local_names(frames, names), top=5)

    def _show_error(self, name: str, text: str) -> None:
        """Tell the front end that the cell failed, in one line in the place of a traceback."""
        where = f" (line {self._caught.line.number})" if self._caught.line else ""
        kind = type(name, (CellStopped,), {})
        stb = [f"{name}: {text}{where}"]
        self.shell._showtraceback(kind, f"{text}{where}", stb)
        self.shell._last_traceback = stb

    # -- end ------------------------------------------------------------------------------------

    def finish(self, result: Any, *, give_back_sigint: bool) -> CellOutcome:
        """Disarm, judge, undo, give back.

        Args:
            result: IPython's ExecutionResult; None if the shell lost it.
            give_back_sigint: see ``StopController.end``.
        """
        mine = _BUILTINS.copy()
        _BUILTINS.update(self._builtins)
        watch = self.guardian.disarm(give_back_sigint=give_back_sigint)
        self._give_exceptions_back()
        error = None
        if result is not None:
            error = result.error_in_exec or result.error_before_exec
        end_bytes = self.guardian.used_bytes() - watch.baseline.used_bytes
        facts = facts_of(watch, self.options, self.budget.source, error, end_bytes)
        status = judge_status(facts)
        del error
        early = status in ("overrun", "refused", "timeout", "stopped")
        born = self._snapshot.born(self.shell.user_ns)
        holders: tuple[NameSize, ...] = ()
        notes = list(notes_for(facts, status))
        undone = Undone()
        not_undone: tuple[str, ...] = ()
        if early:
            holders = _merge(
                sizes.largest(self.shell.user_ns, top=5, born=born), self._caught.local_holders
            )
            self._end_error(result, facts)
            notes += self._end_born(watch)
            undone, not_undone = self._undo(result, notes)
        else:
            _BUILTINS.update(mine)  # it ended well, so they are what the user wants
        if not early and watch.born_children:
            n = len(watch.born_children)
            notes.append(f"{_count(n, 'process', 'processes')} it started still running")
        self._snapshot.release()
        if early:
            release_memory()
        after = self.guardian.used_bytes() - watch.baseline.used_bytes
        if early and self.options.on_overrun == "rollback" and after > _STAYED_BYTES:
            notes.append(
                f"{format_bytes(after)} did not come back: output still queued for the front "
                "end, a library's own pool, or small objects scattered over the heap"
            )
        return self._outcome(watch, facts, status, holders, undone, not_undone, notes, after)

    def _end_error(self, result: Any, facts: Facts) -> None:
        """Cut what the error keeps alive, and make sure the reply says that the cell failed."""
        clear_exception(facts.error)
        if result is None:
            return
        if not isinstance(facts.error, CellStopped) and not is_allocation_error(facts.error):
            cause = facts.cause or Cause.MEMORY
            kind, text = EXCEPTIONS[cause], self._stop_text(cause)
            if not self.error_shown:
                self._show_error(kind.__name__, text)
            result.error_in_exec = kind(text)
        elif not self.error_shown:
            self._show_error(type(facts.error).__name__, str(facts.error))

    def _end_born(self, watch: WatchResult) -> list[str]:
        if not watch.born_children and not watch.born_threads:
            return []
        killed, ended, left = end_born(
            watch.born_children, watch.born_threads, self.shell.user_global_ns
        )
        notes = []
        if killed:
            notes.append(f"{_count(killed, 'process', 'processes')} it had started ended")
        if ended:
            notes.append(f"{_count(ended, 'thread', 'threads')} it had started ended")
        if left:
            notes.append(f"{_count(left, 'thread', 'threads')} it had started still in native code")
        return notes

    def _undo(self, result: Any, notes: list[str]) -> tuple[Undone, tuple[str, ...]]:
        shell = self.shell
        drop_traceback_refs(shell, result)
        if self.options.on_overrun != "rollback":
            notes.append("names were kept as the cell left them (--on-overrun keep)")
            return Undone(), ()
        hidden, display = getattr(shell, "user_ns_hidden", None), vars(shell.displayhook)
        undone = self._snapshot.restore(shell.user_ns, hidden=hidden, display=display)
        notes += self._snapshot.notes
        if self._snapshot.skipped:
            notes.append(f"{self._snapshot.skipped} older objects were not checked for changes")
        return undone, self._snapshot.not_undone

    def _outcome(
        self,
        watch: WatchResult,
        facts: Facts,
        status: Status,
        holders: tuple[NameSize, ...],
        undone: Undone,
        not_undone: tuple[str, ...],
        notes: list[str],
        after_bytes: int,
    ) -> CellOutcome:
        early = status in ("overrun", "refused", "timeout", "stopped")
        latency = watch.duration_s - watch.first_over_s if watch.first_over_s is not None else None
        return CellOutcome(
            label=self.options.label,
            status=status,
            on_overrun=self.options.on_overrun,
            budget_bytes=watch.budget_bytes,
            budget_source=self.budget.source,
            baseline_bytes=watch.baseline.used_bytes,
            peak_bytes=watch.peak_bytes,
            retained_bytes=after_bytes,
            returned_bytes=max(0, facts.end_bytes - after_bytes) if early else 0,
            duration_s=watch.duration_s,
            stop_latency_s=latency if status == "overrun" else None,
            strikes=watch.strikes,
            line=self._caught.line,
            holders=holders,
            undone=undone,
            not_undone=not_undone,
            notes=tuple(notes),
            advice=advice_for(facts, status),
            error=told_error(facts.error),
            samples=tuple(Sample(round(t, 3), used) for t, used in watch.points),
            events=tuple(self.events),
            started_at=self._started_at,
            execution_count=getattr(self.shell, "execution_count", None),
            devices=tuple(
                DeviceUse(one.name, one.budget_bytes, one.peak_bytes, one.end_bytes)
                for one in watch.devices
            ),
            device_full=facts.device_full,
        )


def _count(n: int, one: str, many: str) -> str:
    return f"{n} {one if n == 1 else many}"


def _merge(names: tuple[NameSize, ...], local: tuple[NameSize, ...]) -> tuple[NameSize, ...]:
    return tuple(sorted((*names, *local), key=lambda held: -held.n_bytes)[:5])
