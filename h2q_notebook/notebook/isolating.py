"""``--isolate`` in a notebook: a cell runs in a worker; what it made is bound here, all or nothing.

Covers the wiring: room and budget, the gauge, what is shown, the kernel's names, the outcome.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from h2q_notebook.cell.isolate import IsolatedRun, Order, Ran, noted_interrupts
from h2q_notebook.cell.isolate_changes import VALUE
from h2q_notebook.cell.isolate_facts import UNCHANGED, Ending, advice_for, ending_of, line_in
from h2q_notebook.cell.options import BudgetOptions, ResolvedBudget, resolve_budget
from h2q_notebook.cell.outcome import CellOutcome, Event, Isolation, Sample, SourceLine
from h2q_notebook.cell.past import CellMemory, cell_key
from h2q_notebook.cell.sendable import Sendable, sendable
from h2q_notebook.errors import (
    CellStopRequested,
    CellTimeExceeded,
    H2QError,
    MemoryBudgetExceeded,
)
from h2q_notebook.guardian.guardian import MemoryGuardian
from h2q_notebook.guardian.reclaim import release_memory
from h2q_notebook.notebook.gauges import CellGauge, front_end
from h2q_notebook.notebook.isolated_screen import NotebookScreen
from h2q_notebook.policy.expectation import warning
from h2q_notebook.readings.limits import Headroom

__all__ = ["Ended", "Isolations"]

_BASES: dict[str, type[BaseException]] = {
    one.__name__: one
    for one in (MemoryBudgetExceeded, CellTimeExceeded, CellStopRequested, KeyboardInterrupt)
}


@dataclass(frozen=True, slots=True)
class Ended:
    """An isolated cell that is over and has still to be told of."""

    key: str
    """See ``cell_key``."""
    outcome: CellOutcome
    options: BudgetOptions
    gauge: CellGauge | None


class Isolations:
    """Runs isolated cells, one at a time.

    Args:
        shell: the IPython shell.
        guardian: for the room there is, and the settings.
        past: what cells took before.
        alarm: how short the machine is of memory, in words.
        say: tells the user.
    """

    def __init__(
        self,
        shell: Any,
        guardian: MemoryGuardian,
        past: CellMemory,
        alarm: Callable[[], str],
        say: Callable[[str], None],
    ) -> None:
        self._shell = shell
        self._guardian = guardian
        self._past = past
        self._alarm = alarm
        self._say = say
        self._running: IsolatedRun | None = None
        self._ended: list[Ended] = []

    def stop(self) -> bool:
        """Stop the one that runs, from any thread; False if none does."""
        running = self._running
        return running is not None and running.stop()

    def raise_budget(self, extra_bytes: int) -> int:
        """Give the one that runs more, from any thread; its new budget in bytes, or 0."""
        running = self._running
        return 0 if running is None else running.raise_budget(extra_bytes)

    def take(self) -> list[Ended]:
        """Those that have ended since the last time."""
        ended, self._ended = self._ended, []
        return ended

    def run(self, options: BudgetOptions, cell: str) -> None:
        """Run *cell* in a worker; bind what it made.

        Raises:
            H2QError: it was not begun (no room for copies, no worker, another one runs).
            BaseException: it did not end well; named and told as in the worker.
        """
        if self._running is not None:
            raise H2QError("--isolate: another isolated cell runs; wait, or stop it: h2q.stop()")
        shell, events = self._shell, list[Event]()
        room = self._guardian.headroom()
        sent = sendable(shell.transform_cell(cell), shell.user_ns, room.free_bytes, "--isolate")
        left = Headroom(sent.left_bytes, room.total_bytes, room.source)
        config = self._guardian.config
        budget = resolve_budget(options.size or config.working_size, left, config.safety_bytes)
        key = cell_key(cell)
        if why := warning(self._past.past(key), budget.n_bytes):
            self._say(f"h2q: {why}")
        run = self._run_of(options, cell, budget, sent)
        gauge = self._gauge_of(options, run, events)
        base_bytes = self._guardian.used_bytes()
        began_s, began_at = time.monotonic(), datetime.now(timezone.utc)
        self._running = run
        try:
            ran = run.run()
            ending = ending_of(ran.facts)
            crossed = self._bind(ran, sent) if ending.status == "ok" else _not_bound(ran, sent)
        except BaseException:
            if gauge is not None:
                gauge.finish({"text/plain": f"h2q: no outcome; {UNCHANGED}"}, {})
            raise
        finally:
            self._running = None
        outcome = CellOutcome(
            label=options.label,
            status=ending.status,
            on_overrun="rollback",
            budget_bytes=ran.seen.get("limit_bytes", budget.n_bytes),
            budget_source=budget.source,
            baseline_bytes=base_bytes,
            peak_bytes=max(ran.seen.get("peak_bytes", 0), _told(ran, "peak_bytes")),
            retained_bytes=self._guardian.used_bytes() - base_bytes,
            returned_bytes=0,
            duration_s=ran.seen.get("seconds", time.monotonic() - began_s),
            strikes=ran.seen.get("strikes", 0),
            line=_line(ran, cell),
            advice=_advice(ending, ran, budget),
            error=f"{ending.name}: {ending.text}"[:200] if ending.name else None,
            samples=tuple(Sample(round(t, 3), used) for t, used in ran.seen.get("points", ())),
            events=tuple(events),
            started_at=began_at.isoformat(timespec="seconds"),
            execution_count=shell.displayhook.prompt_count,
            isolated=crossed,
        )
        self._ended.append(Ended(key, outcome, options, gauge))
        if ending.name:
            raise _as_error(ending)

    def _run_of(
        self, options: BudgetOptions, cell: str, budget: ResolvedBudget, sent: Sendable
    ) -> IsolatedRun:
        shell = self._shell
        order = Order(
            # In the place of the line that is taken off, so that lines keep their numbers.
            code=cell if cell.startswith("%%") else f"# %%h2q_budget\n{cell}",
            limit=budget.source,
            budget_bytes=budget.n_bytes,
            room_bytes=max(sent.left_bytes, budget.n_bytes),
            timeout_s=options.timeout_s,
            execution_count=shell.displayhook.prompt_count,
            colors=shell.colors,
            interactivity=shell.ast_node_interactivity,
        )
        return IsolatedRun(
            order,
            sent.copies,
            shell.user_ns,
            NotebookScreen(shell),
            lambda: self._guardian.headroom().free_bytes,
        )

    def _gauge_of(
        self, options: BudgetOptions, run: IsolatedRun, events: list[Event]
    ) -> CellGauge | None:
        if not options.gauge:
            return None
        gauge = CellGauge(
            run.live,
            self._guardian.config,
            frontend=front_end(self._shell, self._guardian.config.gauge),
            label=options.label,
            events=events,
            devices=tuple,
            alarm=self._alarm,
            on_stop=run.stop,
            on_raise=run.raise_budget,
        )
        gauge.start()
        return gauge

    def _bind(self, ran: Ran, sent: Sendable) -> Isolation:
        """Do to the kernel's names what the cell did to its copies."""
        back = ran.back
        assert back is not None
        values, left = dict(ran.values), dict(back.left)
        has_value, value = VALUE in values, values.pop(VALUE, None)
        for name, module in back.modules.items():
            try:
                values[name] = importlib.import_module(module)
            except Exception:  # whatever an import raises
                left[name] = f"module {module}"
        shell = self._shell
        with noted_interrupts(lambda: None):  # all of them, or none
            for name in back.deleted:
                shell.user_ns.pop(name, None)
            shell.push(values)
            if has_value:
                shell.displayhook.update_user_ns(value)
                shell.displayhook.fill_exec_result(value)
        shown = {VALUE: f"Out[{shell.displayhook.prompt_count}]"}
        return Isolation(
            sent=sent.held,
            sent_bytes=sent.copied_bytes,
            missing=_missing(ran, sent),
            back=tuple(values),
            back_bytes=sum(back.sizes),
            deleted=tuple(back.deleted),
            left=tuple(f"{shown.get(name, name)} ({kind})" for name, kind in left.items()),
        )


def _not_bound(ran: Ran, sent: Sendable) -> Isolation:
    ran.values.clear()
    release_memory()
    return Isolation(sent=sent.held, sent_bytes=sent.copied_bytes, missing=_missing(ran, sent))


def _missing(ran: Ran, sent: Sendable) -> tuple[str, ...]:
    return (*(f"{name} ({kind})" for name, kind in sent.copies.missing), *ran.missing)


def _told(ran: Ran, what: str) -> int:
    return int((ran.facts.ended or {}).get(what, 0))


def _line(ran: Ran, cell: str) -> SourceLine | None:
    number = line_in(ran.facts)
    lines = ["%%h2q_budget", *cell.split("\n")]
    if cell.startswith("%%") or not 1 < number <= len(lines):
        return None  # the lines of another magic's body are counted by that magic
    return SourceLine(number, lines[number - 1])


def _advice(ending: Ending, ran: Ran, budget: ResolvedBudget) -> tuple[str, ...]:
    peak = ran.seen.get("peak_bytes", 0)
    advice = advice_for(ending.status, ran.facts, peak, budget.n_bytes)
    return (advice,) if advice else ()


def _as_error(ending: Ending) -> BaseException:
    """The cell's error under its own name, told as it was told in the worker."""
    base = _BASES.get(ending.name, Exception)
    lines = list(ending.trace) or [f"{ending.name}: {ending.text}"]
    kind = type(ending.name, (base,), {"_render_traceback_": lambda error: lines})
    error: BaseException = kind(ending.text)
    return error
