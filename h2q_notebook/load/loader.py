"""``MemorySafeModelLoader``: one model load under a budget, whole or not at all.

Covers the order of things; each thing has a module of its own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import partial

from h2q_notebook.errors import LoadRefused
from h2q_notebook.guardian.admission import BudgetWatch
from h2q_notebook.load.gguf_cache import Conversion
from h2q_notebook.load.heap import give_back
from h2q_notebook.load.history import History
from h2q_notebook.load.job import LoadJob
from h2q_notebook.load.ladder import LADDER, LoadPlan, Rung, StepName, judge
from h2q_notebook.load.outcome import LadderEstimate, LoadOutcome, ProgressCallback
from h2q_notebook.load.planning import CONTEXT_TOKENS, DTYPES, Order, Planner, take_order
from h2q_notebook.load.reporting import Reporter
from h2q_notebook.load.skeleton import import_torch
from h2q_notebook.load.stages import Stage, run_stages
from h2q_notebook.load.watch import MeteredWatch, WatchFactory
from h2q_notebook.readings.process import read_process
from h2q_notebook.units import format_bytes

__all__ = ["DTYPES", "MemorySafeModelLoader"]


class MemorySafeModelLoader:
    """Loads transformers models under a budget.

    Args:
        watch_factory: makes the watch of each load from an absolute limit and a reading of use.
        progress: told how far a load has come; an exception it raises ends the load.
        read_used: reads the use of this process, in bytes.
        clock: seconds, monotonic.
        history: remembers what loads took; None for the one in h2q's cache.
    """

    def __init__(
        self,
        *,
        watch_factory: WatchFactory = BudgetWatch,
        progress: ProgressCallback | None = None,
        read_used: Callable[[], int] = lambda: read_process().used_bytes,
        clock: Callable[[], float] = time.monotonic,
        history: History | None = None,
    ) -> None:
        self._history = history or History()
        self._watch_factory = watch_factory
        self._progress = progress
        self._read_used = read_used
        self._clock = clock

    def estimate(
        self,
        source: str | os.PathLike[str],
        *,
        budget_bytes: int,
        dtype: str = "auto",
        device: str = "cpu",
        ladder: Sequence[StepName] = LADDER,
        context_tokens: int = CONTEXT_TOKENS,
        batch: int = 1,
        task: str | None = None,
    ) -> LadderEstimate:
        """What every form of a model would take, and which of them a load would choose.

        Args:
            source: as for ``load``; also a directory or file with a config alone.
            budget_bytes: what a load might add.
            dtype: as for ``load``.
            device: as for ``load``.
            ladder: as for ``load``.
            context_tokens: the length of the prompt that the run figures are for.
            batch: how many such prompts at once.
            task: as for ``load``.

        Raises:
            BadArgument: a mistake in the arguments, or no such directory.
            ModelRefused: the directory is malformed, hostile or unsupported.
        """
        order = take_order(
            source, budget_bytes=budget_bytes, dtype=dtype, device=device, ladder=ladder,
            context_tokens=context_tokens, batch=batch, task=task, weights=False,
        )  # fmt: skip
        planner = Planner(order, self._history)
        room, rungs = planner.room(budget_bytes), tuple(planner.rungs())
        try:
            chosen = planner.plan(budget_bytes)
            index, reason = chosen.chosen, chosen.reason
        except LoadRefused as refused:
            index, reason = None, str(refused)
        dtypes = dict.fromkeys(rung.dtype for rung in rungs)
        shown = rungs[index] if index is not None else _smallest(rungs)
        return LadderEstimate(
            label=order.label,
            facts=planner.facts,
            figures=tuple(planner.forms.figures(one) for one in dtypes),
            verdicts=tuple(judge(rung, room) for rung in rungs),
            chosen=index,
            reason=reason,
            budget_bytes=budget_bytes,
            context_tokens=context_tokens,
            batch=batch,
            curve=planner.forms.curve(shown),
            notes=order.facts.notes,
        )

    def load(
        self,
        source: str | os.PathLike[str],
        *,
        budget_bytes: int,
        dtype: str = "auto",
        device: str = "cpu",
        ladder: Sequence[StepName] = LADDER,
        context_tokens: int | None = None,
        batch: int = 1,
        task: str | None = None,
        make_room: Callable[[], None] | None = None,
        replaceable_bytes: int = 0,
    ) -> LoadOutcome:
        """Load a model, or leave no trace of having tried.

        Args:
            source: a directory, a ``.gguf`` file, a hub name or an ``h2q://`` name.
            budget_bytes: what the load may add to what this process uses now.
            dtype: ``auto`` (as stored), ``bf16``, ``fp16`` or ``fp32``; where it does not fit,
                the next form on the ladder is taken instead and the plan says so.
            device: ``cpu``, ``cuda``, ``cuda:1``, ``mps`` or ``auto``.
            ladder: which forms may be tried, in which order (see ``ladder.parse_ladder``).
            context_tokens: a form must also have room to process a prompt of this length; None
                looks at the load alone.
            batch: how many such prompts at once.
            task: ``causal-lm``, ``seq2seq``, ``embeddings`` ... (``classes.TASKS``); None for
                what the config names.
            make_room: frees a model that is being replaced; called at most once, and only where
                a better form of the new one fits then. The limit stays where it is.
            replaceable_bytes: how much that would free.

        Raises:
            BadArgument: a mistake in the arguments, or no such directory.
            ModelRefused: the directory is malformed, hostile or unsupported.
            LoadRefused: no form of the model fits the budget.
            LoadFailed: something broke half-way; it was undone.
            MemoryBudgetExceeded: the budget was passed; the load was undone.
        """
        order = take_order(
            source, budget_bytes=budget_bytes, dtype=dtype, device=device, ladder=ladder,
            context_tokens=context_tokens, batch=batch, task=task,
        )  # fmt: skip
        import_torch()  # before the baseline: 200 MiB of libraries are not the model's
        import transformers.modeling_utils  # noqa: F401

        # Free pages that the heap still holds would hide what the load takes.
        give_back(collect=False)
        baseline_bytes = self._read_used()
        reporter = Reporter(self._progress, self._clock, baseline_bytes)
        inner = self._watch_factory(baseline_bytes + budget_bytes, self._read_used)
        watch = MeteredWatch(inner, self._read_used, reporter.note_use)
        one = _Load(
            order, budget_bytes, watch, reporter, self._read_used, self._clock, self._history
        )
        return one.run(make_room, replaceable_bytes)


def _smallest(rungs: Sequence[Rung]) -> Rung:
    usable = [rung for rung in rungs if not rung.why_not] or list(rungs)
    return min(usable, key=lambda rung: rung.run_peak_bytes)


class _Load:
    """One load from its order to its outcome."""

    def __init__(
        self,
        order: Order,
        budget_bytes: int,
        watch: MeteredWatch,
        reporter: Reporter,
        read_used: Callable[[], int],
        clock: Callable[[], float],
        history: History,
    ) -> None:
        self._history = history
        self._order = order
        self._budget_bytes = budget_bytes
        self._watch = watch
        self._reporter = reporter
        self._read_used = read_used
        self._clock = clock
        self._began_s = clock()
        self._baseline_bytes = watch.highest_bytes
        self._notes = list(order.facts.notes)
        self._converted = False

    def run(self, make_room: Callable[[], None] | None, replaceable_bytes: int) -> LoadOutcome:
        """All of it; the reporter hears how it ended."""
        ended = "failed"
        try:
            planner = self._planner()
            chosen = (
                planner.plan(self._budget_bytes)
                if make_room is None
                else self._plan_replacement(planner, make_room, replaceable_bytes)
            )
            job = self._load(planner, chosen)
            ended = "done"
        finally:
            self._reporter.begin(ended)
        peak_bytes = max(self._watch.highest_bytes - self._baseline_bytes, 0)
        if not (job.converted or self._converted):
            planner.remember(chosen.rung, peak_bytes)
        return LoadOutcome(
            model=job.model,
            tokenizer=job.tokenizer,
            facts=planner.facts,
            plan=chosen,
            peak_bytes=peak_bytes,
            resident_bytes=max(self._read_used() - self._baseline_bytes, 0),
            duration_s=self._clock() - self._began_s,
            notes=(*self._notes, *job.notes),
            mapped_bytes=chosen.rung.mapped_bytes,
            device_bytes=chosen.rung.device_bytes,
            processor=job.processor,
            task=job.task,
        )

    def _planner(self) -> Planner:
        """The rungs; a GGUF that fits in one of them is converted first, once per dtype."""
        planner = Planner(self._order, self._history)
        if not planner.converts:
            return planner
        rung = planner.plan(self._budget_bytes).rung
        conversion = Conversion(self._order.facts, rung.dtype)
        if not conversion.ready:
            self._converted = True
            self._reporter.expect(conversion.disk_bytes)
            do = partial(conversion.run, self._watch, self._reporter.add)
            self._run_stages([Stage("convert", do, conversion.undo)])
            self._notes.append(
                f"the GGUF was converted once to {conversion.target} "
                f"({format_bytes(conversion.disk_bytes)} on disk); later loads start from there"
            )
        return planner.converted(conversion.target)

    def _plan_replacement(
        self, planner: Planner, make_room: Callable[[], None], replaceable_bytes: int
    ) -> LoadPlan:
        chosen, goes_first = planner.plan_replacement(self._budget_bytes, replaceable_bytes)
        if not goes_first:
            self._notes.append("the old model stayed until the new one was ready")
            return chosen
        make_room()
        give_back()
        limit_bytes = self._baseline_bytes + self._budget_bytes
        chosen = planner.plan(limit_bytes - self._read_used())
        self._notes.append(f"the old model was freed first: {chosen.rung.name} needed its room")
        return chosen

    def _load(self, planner: Planner, chosen: LoadPlan) -> LoadJob:
        job = LoadJob(
            planner.structures,
            chosen.rung,
            self._order.asked.device.name,
            self._watch,
            self._reporter.add,
            keep_bytes=max(chosen.budget_bytes - chosen.rung.load_peak_bytes, 0),
        )
        for stages in (job.conversion(), job.stages()):
            self._reporter.expect(planner.facts.stored_bytes)
            self._run_stages(stages)
        return job

    def _run_stages(self, stages: Sequence[Stage]) -> None:
        run_stages(stages, label=self._order.label, on_stage=self._reporter.begin)
