"""One Session per kernel: the only place where everything meets.

Covers when a cell is guarded, what is shown and where, and what is kept. Every decision about
memory is made elsewhere.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from h2q_notebook.cell.lifecycle import GuardedCell
from h2q_notebook.cell.options import BudgetOptions
from h2q_notebook.cell.outcome import CellOutcome, Event
from h2q_notebook.cell.past import CellMemory, cell_key
from h2q_notebook.config.settings import MemorySafeConfig
from h2q_notebook.errors import H2QError
from h2q_notebook.guardian.events import EventLog
from h2q_notebook.guardian.guardian import MemoryGuardian
from h2q_notebook.guardian.kernel import KernelGuard
from h2q_notebook.notebook import displays
from h2q_notebook.notebook.benches import Benches
from h2q_notebook.notebook.configuring import LiveSettings
from h2q_notebook.notebook.exporting import TextfileExport
from h2q_notebook.notebook.gauges import CellGauge, KernelGauge, front_end
from h2q_notebook.notebook.isolating import Isolations
from h2q_notebook.notebook.keeping import NotebookEffects
from h2q_notebook.notebook.loads import Loads
from h2q_notebook.notebook.machine import Machine, growth_words
from h2q_notebook.notebook.overview import overview
from h2q_notebook.notebook.starting import Starts
from h2q_notebook.notebook.telling import ServerFile, connection_file, kernel_id_of
from h2q_notebook.places import data_root
from h2q_notebook.policy.expectation import warning
from h2q_notebook.readings.figures import DeathNote, Figures
from h2q_notebook.readings.limits import read_headroom
from h2q_notebook.units import MIB, format_bytes
from h2q_notebook.views import status as status_view
from h2q_notebook.views import summary

__all__ = ["Session", "current"]

_GREW_BETWEEN_BYTES = 64 * MIB
_UNGUARDED = ("%h2q_", "%%h2q_", "%load_ext", "%reload_ext", "%unload_ext")
_CEILING_ONLY = BudgetOptions(quiet=True)
_session: Session | None = None


def current() -> Session | None:
    """The session of this kernel, if the extension is loaded."""
    return _session


class Session:
    """Holds configuration, guardian, history and views of one kernel.

    Args:
        shell: the IPython shell.
        read_options: the options a cell asks for on its first line; None if it has no such line.
            May raise H2QError.
        transformer: the input transformer that takes that line off.
        config: settings.
    """

    def __init__(
        self,
        shell: Any,
        read_options: Callable[[str], BudgetOptions | None],
        transformer: Callable[[list[str]], list[str]],
        config: MemorySafeConfig | None = None,
    ) -> None:
        self.shell = shell
        self._read_options = read_options
        self._transformer = transformer
        given = {} if config is None else dataclasses.asdict(config)
        self.settings = LiveSettings(shell, given, self._say)
        self.config = self.settings.config
        self.settings.listen(self._reconfigure)
        self.guardian = MemoryGuardian(self.config)
        self.default: BudgetOptions | None = None
        self.history: deque[CellOutcome] = deque(maxlen=self.config.history_length)
        self.loads = Loads(shell, self.guardian, self._publish, self._pressed)
        self.benches = Benches(shell, self.guardian, self.loads, self._publish)
        self.events = EventLog(lambda: self.config.event_log, lambda: self.config.event_log_bytes)
        self.keeper = KernelGuard(
            lambda: self.config,
            self.guardian.used_bytes,
            read_headroom,
            NotebookEffects(
                shell.user_ns, self._say, self.guardian.used_bytes, self.loads.models.models
            ),
            self.events,
            on_look=self._look,
        )
        self.starts = Starts(shell.user_ns, self.guardian, self.keeper, self.loads, self._publish)
        self._ended: Counter[str] = Counter()
        file = connection_file()
        self._export = TextfileExport(
            lambda: self.config, self._figures, self._say, kernel_id_of(file)
        )
        self._server_file = ServerFile(self._figures, file)
        self._predecessor: DeathNote | None = None
        self._machine = Machine()
        self._past = CellMemory(lambda: data_root(self.config.data_dir))
        self.isolated = Isolations(shell, self.guardian, self._past, self._machine.alarm, self._say)
        self._key = ""
        self._cell: GuardedCell | None = None
        self._gauge: CellGauge | None = None
        self._kernel_gauge: KernelGauge | None = None
        self._depth = 0
        self._used_at_end: int | None = None
        self._in_kernel = type(shell).__module__.startswith("ipykernel.")

    # -- life ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Register events and the transformer, start the watcher."""
        global _session
        self.guardian.start()
        self.shell.input_transformers_cleanup.insert(0, self._transformer)
        self.keeper.start()
        self._predecessor = self._server_file.start()
        if self.in_a_cell:
            self._tell_of_predecessor()
        displays.register(self.shell)
        self.shell.events.register("pre_run_cell", self._before)
        self.shell.events.register("post_run_cell", self._after)
        _session = self

    def close(self) -> None:
        """Undo everything that ``start`` did."""
        global _session
        self.kernel_gauge(on=False)
        self.keeper.close()
        self.settings.close()
        self._server_file.close()
        displays.forget(self.shell)
        self.shell.events.unregister("pre_run_cell", self._before)
        self.shell.events.unregister("post_run_cell", self._after)
        self.shell.input_transformers_cleanup.remove(self._transformer)
        if self._cell is not None:  # unloaded from inside a guarded cell
            self._cell.abandon()
            self._cell = None
        self.guardian.close()
        _session = None

    def _reconfigure(self, config: MemorySafeConfig) -> None:
        """New settings, from any thread; a running cell keeps what it began with."""
        self.config = self.guardian.config = config

    def _look(self, now_s: float) -> None:
        """At each look of the kernel's guard, in its thread."""
        self.settings.poll(now_s)
        self._follow_room()
        self._export.poll(now_s)
        self._server_file.poll(now_s)

    def _follow_room(self) -> None:
        """Others took memory that the running cell was promised: it cannot have it any more."""
        cell = self._cell
        if cell is None:
            return
        spare = read_headroom().free_bytes - self.config.safety_bytes // 4
        lowered = self.guardian.follow_room(max(spare, 0))
        live = self.guardian.live()
        if lowered and live is not None:
            text = f"the machine has less: limit {format_bytes(lowered)}"
            cell.events.append(Event(round(live.t_s, 2), live.used_bytes, text, "warn"))

    def _pressed(self) -> str:
        """Why no model should be loaded now."""
        return self._machine.reason_to_wait(self.keeper, self.config.clean_at)

    def _figures(self) -> Figures:
        kernel, models, live = self.keeper.view(), self.loads.models.models(), self.guardian.live()
        latest = self.events.last(1)
        return Figures(
            used_bytes=kernel.used_bytes,
            limit_bytes=kernel.limit_bytes,
            state=kernel.state,
            n_models=len(models),
            model_bytes=sum(one.resident_bytes for one in models),
            cells=dict(self._ended),
            events=self.events.counts(),
            budget_bytes=0 if live is None else live.budget_bytes,
            last_event=latest[0].kind if latest else "",
            last_event_at_s=latest[0].at_s if latest else 0.0,
            pid=os.getpid(),
        )

    def _tell_of_predecessor(self) -> None:
        """How the kernel before this one ended, where the server found it out; once."""
        note, self._predecessor = self._predecessor, None
        if note is not None:
            at = time.strftime("%H:%M:%S", time.localtime(note.at_s))
            self.events.add("death", f"the kernel before this one: {note.text}")
            self._say(f"h2q: this notebook's last kernel died at {at}: {note.text}")

    @property
    def in_a_cell(self) -> bool:
        """Whether what is printed now has a cell to appear under; a terminal always has a place."""
        return not self._in_kernel or bool(self.shell.get_parent())

    # -- cells --------------------------------------------------------------------------------

    @property
    def last(self) -> CellOutcome | None:
        """The last guarded cell."""
        return self.history[-1] if self.history else None

    def set_default(self, options: BudgetOptions | None) -> None:
        """Guard every following cell like this; None guards only cells that ask for it."""
        self.default = options
        if options is None:
            self._say("h2q: cells run unguarded again, unless they ask with %%h2q_budget")
        else:
            self._say(f"h2q: every cell has a budget now ({options.size or 'what is free'})")

    def run_guarded(self, source: str) -> None:
        """Run a cell through the shell; for callers that bypass the input transformer."""
        self.shell.run_cell(source)

    def probe(self, options: BudgetOptions, cell: str) -> None:
        """Run *cell* on copies in another process, and show what it took (may raise H2QError)."""
        from h2q_notebook.notebook.probing import probe_cell

        probe_cell(self.shell, self.guardian, self._past, self._publish, options, cell)

    def _options_for(self, raw_cell: str) -> BudgetOptions | None:
        asked = self._read_options(raw_cell)
        if asked is not None:
            return asked
        text = raw_cell.strip()
        if not text or text.startswith(_UNGUARDED):
            return None
        if self.default is None and self.config.max_bytes is not None:
            return _CEILING_ONLY  # the ceiling is the kernel's: no cell is left outside it
        return self.default

    def _before(self, info: Any) -> None:
        raw_cell = info.raw_cell or ""
        self._tell_of_predecessor()
        if self._cell is not None:
            if self._cell.thread_id == threading.get_ident():
                self._depth += 1  # run_cell inside a guarded cell: the outer budget covers it
            elif raw_cell.lstrip().startswith("%%h2q_budget"):
                self._say("h2q: another cell is being guarded; this one runs without a budget")
            return
        self._tell_growth_between()
        try:
            options = self._options_for(raw_cell)
        except H2QError:
            return  # the line was left in the cell, and its magic tells
        if options is None:
            return
        cell = GuardedCell(self.shell, self.guardian, self.config, options)
        losses = self.guardian.watcher_losses
        try:
            cell.begin(raw_cell, info.transformed_cell)
        except H2QError as error:
            self._say(f"h2q: this cell runs unguarded: {error}")
            return
        self._cell, self._depth = cell, 0
        self._key = cell_key(raw_cell)
        if why := warning(self._past.past(self._key), cell.budget.n_bytes):
            self._say(f"h2q: {why}")
        if self.guardian.watcher_losses > losses:
            self._say("h2q: the watcher process had been ended from outside; a new one is running")
        if options.gauge:
            self._gauge = CellGauge(
                self.guardian.live,
                self.config,
                frontend=front_end(self.shell, self.config.gauge),
                label=options.label,
                events=cell.events,
                devices=self.guardian.devices,
                alarm=self._machine.alarm,
                on_stop=self.stop if options.on_overrun != "warn" else None,
                on_raise=self.raise_budget,
            )
            self._gauge.start()

    def _after(self, result: Any) -> None:
        self._keep_isolated()
        cell = self._cell
        if cell is None:
            self._used_at_end = self.guardian.used_bytes()
            return
        if cell.thread_id != threading.get_ident():
            return
        if self._depth:
            self._depth -= 1
            return
        gauge, self._gauge = self._gauge, None
        try:
            outcome = cell.finish(result, give_back_sigint=not self._in_kernel)
        except Exception as error:
            if gauge is not None:
                gauge.finish({"text/plain": "h2q: no report"}, {})
            self._say(f"h2q: could not report on this cell: {type(error).__name__}: {error}")
            return
        finally:
            self._cell = None
        self._keep(self._key, outcome)
        self._show(outcome, cell.options, gauge)

    def _keep(self, key: str, outcome: CellOutcome) -> None:
        self.history.append(outcome)
        self._past.record(key, outcome)
        self._ended[outcome.status] += 1
        self._used_at_end = self.guardian.used_bytes()

    def _keep_isolated(self) -> None:
        for one in self.isolated.take():
            self._keep(one.key, one.outcome)
            self._show(one.outcome, one.options, one.gauge)

    def _show(self, outcome: CellOutcome, options: BudgetOptions, gauge: CellGauge | None) -> None:
        bundle = summary.bundle(outcome, chart=gauge is not None and gauge.shown)
        metadata = summary.metadata(outcome)
        if gauge is not None and gauge.finish(bundle, metadata):
            return
        if not options.quiet or outcome.ended_early or outcome.status == "warned":
            self._publish(bundle, metadata)

    def _publish(self, bundle: dict[str, str], metadata: dict[str, Any]) -> None:
        if self._in_kernel:
            self.shell.display_pub.publish(data=bundle, metadata=metadata)
        else:
            print(bundle["text/plain"], file=sys.stderr)

    def _say(self, text: str) -> None:
        print(text, file=sys.stderr)

    def _tell_growth_between(self) -> None:
        """Memory that grew while no cell ran (a thread left behind) is seen and told."""
        before, self._used_at_end = self._used_at_end, None
        if before is None:
            return
        grown = self.guardian.used_bytes() - before
        if grown > _GREW_BETWEEN_BYTES:
            self._say(f"h2q: {growth_words(grown)}")

    # -- what buttons and Python callers use ------------------------------------------------------

    def stop(self) -> bool:
        """Stop the running guarded cell; from any thread."""
        return self.isolated.stop() or self.guardian.request_stop()

    def raise_budget(self, extra_bytes: int) -> int:
        """Give the running cell *extra_bytes* more; from any thread. The new budget in bytes."""
        isolated = self.isolated.raise_budget(extra_bytes)
        budget = isolated or self.guardian.raise_limit(extra_bytes)
        cell, live = self._cell, self.guardian.live()
        if budget and cell is not None and live is not None:
            text = f"+{format_bytes(extra_bytes)}"
            cell.events.append(Event(round(live.t_s, 2), live.used_bytes, text, "info"))
        return budget

    # -- views --------------------------------------------------------------------------------

    def show_status(self) -> None:
        """Show memory, layers, lines of defence, models, names, events and settings."""
        default = self._options_for("pass")
        view = overview(
            self.guardian,
            self.keeper,
            self.events,
            self.config,
            self.settings.origins,
            self.loads.models.models(),
            self._machine.words(),
            self.shell.user_ns,
            tuple(self.history),
            None if default is None else (default.size or "what is free"),
        )
        self._publish(status_view.bundle(view), {})

    def kernel_gauge(self, *, on: bool) -> None:
        """Show or end the gauge of the whole kernel."""
        gauge, self._kernel_gauge = self._kernel_gauge, None
        if gauge is not None:
            gauge.finish()
        if on:
            room = self.guardian.headroom()
            self._kernel_gauge = KernelGauge(
                self.guardian.used_bytes,
                room.free_bytes,
                self.config,
                devices=self.guardian.devices,
                alarm=self._machine.alarm,
                frontend=front_end(self.shell, self.config.gauge),
            )
            self._kernel_gauge.start()
