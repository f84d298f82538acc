"""``MemorySafeModelLoader``: one model load under a budget, whole or not at all.

Covers the order of things; each thing has a module of its own. Needs no IPython: the names go into
whatever mapping is passed to ``load_into``.
"""

from __future__ import annotations

import builtins
import keyword
import os
import shutil
import time
from collections.abc import Callable, MutableMapping
from dataclasses import replace
from typing import Any

from h2q_notebook.errors import BadArgument
from h2q_notebook.guardian.admission import BudgetWatch
from h2q_notebook.load import sources
from h2q_notebook.load.cache import cache_root
from h2q_notebook.load.directory import inspect
from h2q_notebook.load.estimate import Estimate, estimate, rung_of, stored_dtype
from h2q_notebook.load.facts import ModelFacts
from h2q_notebook.load.gguf_cache import Conversion
from h2q_notebook.load.heap import give_back
from h2q_notebook.load.job import LoadJob
from h2q_notebook.load.ladder import LoadPlan, Room, Rung, plan
from h2q_notebook.load.outcome import LoadOutcome, Progress, ProgressCallback
from h2q_notebook.load.registry import ModelRegistry
from h2q_notebook.load.skeleton import TORCH_NAMES, import_torch
from h2q_notebook.load.stages import Stage, run_stages
from h2q_notebook.load.watch import MeteredWatch, WatchFactory
from h2q_notebook.readings.limits import read_headroom
from h2q_notebook.readings.process import read_process
from h2q_notebook.units import format_bytes, shorten

__all__ = ["DTYPES", "MemorySafeModelLoader", "check_name", "load_into", "tokenizer_name"]

DTYPES = ("auto", *TORCH_NAMES)


class MemorySafeModelLoader:
    """Loads causal language models under a budget.

    Args:
        watch_factory: makes the watch of each load from an absolute limit and a reading of use.
        progress: told how far a load has come; an exception it raises ends the load.
        read_used: reads the use of this process, in bytes.
        clock: seconds, monotonic.
        context_tokens: the prompt length that the run estimate is for.
    """

    def __init__(
        self,
        *,
        watch_factory: WatchFactory = BudgetWatch,
        progress: ProgressCallback | None = None,
        read_used: Callable[[], int] = lambda: read_process().used_bytes,
        clock: Callable[[], float] = time.monotonic,
        context_tokens: int = 2048,
    ) -> None:
        self._watch_factory = watch_factory
        self._progress = progress
        self._read_used = read_used
        self._clock = clock
        self._context_tokens = context_tokens

    def plan(
        self, source: str | os.PathLike[str], *, budget_bytes: int, dtype: str = "auto"
    ) -> tuple[ModelFacts, LoadPlan]:
        """What ``load`` would do, without loading (a GGUF is judged by its count of values).

        Raises:
            BadArgument, ModelRefused, LoadRefused: as ``load``.
        """
        facts = self._inspect(source, budget_bytes, dtype)
        if facts.kind == "gguf":
            return facts, self._plan_gguf(facts, budget_bytes, dtype)
        return facts, self._plan(facts, budget_bytes, dtype)

    def load(
        self,
        source: str | os.PathLike[str],
        *,
        budget_bytes: int,
        dtype: str = "auto",
        device: str = "cpu",
    ) -> LoadOutcome:
        """Load a model, or leave no trace of having tried.

        Args:
            source: a directory, a ``.gguf`` file, a hub name or ``h2q://smollm2``.
            budget_bytes: what the load may add to what this process uses now.
            dtype: ``auto`` (as stored), ``bf16``, ``fp16`` or ``fp32``; where it does not fit,
                bf16 is taken instead and the plan says so.
            device: a torch device.

        Raises:
            BadArgument: a mistake in the arguments, or no such directory.
            ModelRefused: the directory is malformed, hostile or unsupported.
            LoadRefused: no form of the model fits the budget.
            LoadFailed: something broke half-way; it was undone.
            MemoryBudgetExceeded: the budget was passed; the load was undone.
        """
        facts = self._inspect(source, budget_bytes, dtype)
        import_torch()  # before the baseline: 200 MiB of libraries are not the model's
        import transformers.modeling_utils  # noqa: F401

        began_s, baseline_bytes = self._clock(), self._read_used()
        inner = self._watch_factory(baseline_bytes + budget_bytes, self._read_used)
        reporter = _Reporter(self._progress, self._clock, baseline_bytes)
        watch = MeteredWatch(inner, self._read_used, reporter.note_use)
        notes = list(facts.notes)
        ended = "failed"
        try:
            if facts.kind == "gguf":
                rung = self._plan_gguf(facts, budget_bytes, dtype).rung
                conversion = Conversion(facts, rung.dtype, watch, reporter.add)
                notes += self._convert(conversion, _label(facts), reporter)
                facts = inspect(conversion.target)
            chosen = self._plan(facts, budget_bytes, dtype)
            reporter.expect(facts.stored_bytes)
            job = LoadJob(facts, chosen.rung.dtype, device, watch, reporter.add)
            run_stages(job.stages(), label=_label(facts), on_stage=reporter.begin)
            ended = "done"
        finally:
            reporter.end(ended)
        give_back(collect=False)
        watch.check()
        return LoadOutcome(
            model=job.model,
            tokenizer=job.tokenizer,
            facts=facts,
            plan=chosen,
            peak_bytes=max(watch.highest_bytes - baseline_bytes, 0),
            resident_bytes=max(self._read_used() - baseline_bytes, 0),
            duration_s=self._clock() - began_s,
            notes=(*notes, *job.notes),
        )

    def _inspect(self, source: str | os.PathLike[str], budget_bytes: int, dtype: str) -> ModelFacts:
        if dtype not in DTYPES:
            raise BadArgument(f"--dtype: {shorten(dtype)!r} is not one of {', '.join(DTYPES)}")
        if budget_bytes < 1:
            raise BadArgument("--budget: must be more than 0 bytes; write for example 2GiB")
        return inspect(sources.resolve(source))

    def _plan(self, facts: ModelFacts, budget_bytes: int, dtype: str) -> LoadPlan:
        rungs = [rung_of(figures) for figures in self._estimates(facts, dtype)]
        return plan(
            rungs, _room(budget_bytes), label=_label(facts), context_tokens=self._context_tokens
        )

    def _estimates(self, facts: ModelFacts, dtype: str) -> list[Estimate]:
        asked = stored_dtype(facts) if dtype == "auto" else dtype
        ladder = [asked] if asked != "fp32" else ["fp32", "bf16"]
        return [estimate(facts, one, context_tokens=self._context_tokens) for one in ladder]

    def _plan_gguf(self, facts: ModelFacts, budget_bytes: int, dtype: str) -> LoadPlan:
        asked = stored_dtype(facts) if dtype == "auto" else dtype
        ladder = [asked] if asked != "fp32" else ["fp32", "bf16"]
        rungs = []
        for one in ladder:
            n_bytes = facts.n_values * (4 if one == "fp32" else 2)
            rungs.append(Rung(one, "full", one, n_bytes, n_bytes, n_bytes, note="by count"))
        return plan(
            rungs, _room(budget_bytes), label=_label(facts), context_tokens=self._context_tokens
        )

    def _convert(self, conversion: Conversion, label: str, reporter: _Reporter) -> list[str]:
        """A GGUF becomes a cached safetensors directory, once per dtype; what to tell about it."""
        if conversion.ready:
            return []
        reporter.expect(conversion.disk_bytes)
        stage = Stage("convert", conversion.run, conversion.undo)
        run_stages([stage], label=label, on_stage=reporter.begin)
        return [
            f"the GGUF was converted once to {conversion.target} "
            f"({format_bytes(conversion.disk_bytes)} on disk); later loads start from there"
        ]


class _Reporter:
    """Turns bytes and stages into ``Progress``, at most 20 times a second."""

    _EVERY_S = 0.05

    def __init__(
        self, callback: ProgressCallback | None, clock: Callable[[], float], baseline_bytes: int
    ) -> None:
        self._callback = callback
        self._clock = clock
        self._baseline_bytes = baseline_bytes
        self._used_bytes = baseline_bytes
        self._stage = "inspect"
        self._done = self._total = 0
        self._began_s = self._told_s = clock()

    def expect(self, total_bytes: int) -> None:
        self._done, self._total, self._began_s = 0, total_bytes, self._clock()

    def begin(self, stage: str) -> None:
        self._stage = stage
        self._tell()

    def add(self, n_bytes: int) -> None:
        self._done += n_bytes
        if self._clock() - self._told_s >= self._EVERY_S:
            self._tell()

    def note_use(self, used_bytes: int) -> None:
        self._used_bytes = used_bytes

    def end(self, stage: str) -> None:
        self._stage = stage
        self._tell()

    def _tell(self) -> None:
        if self._callback is None:
            return
        self._told_s = self._clock()
        passed_s = max(self._told_s - self._began_s, 1e-6)
        rate = self._done / passed_s
        left = max(self._total - self._done, 0)
        self._callback(
            Progress(
                stage=self._stage,
                done_bytes=self._done,
                total_bytes=self._total,
                rate_bytes_per_s=rate,
                eta_s=left / rate if rate > 0 else None,
                used_bytes=max(self._used_bytes - self._baseline_bytes, 0),
            )
        )


def _room(budget_bytes: int) -> Room:
    """What there is to take from now."""
    home = cache_root()
    while not home.exists():
        home = home.parent
    return Room(budget_bytes, read_headroom().free_bytes, shutil.disk_usage(home).free)


def _label(facts: ModelFacts) -> str:
    return os.path.basename(facts.shards[0].path if facts.kind == "gguf" else facts.path)


def check_name(name: str) -> str:
    """A name the model may be bound to.

    Raises:
        BadArgument: not an identifier, a keyword, a builtin, or with a leading underscore.
    """
    shown = shorten(name)
    if not name.isidentifier() or keyword.iskeyword(name):
        raise BadArgument(f"--as: {shown!r} is not a name Python can bind; write for example model")
    if name.startswith("_"):
        raise BadArgument(f"--as: {shown!r} begins with an underscore, as IPython's own names do")
    if hasattr(builtins, name):
        raise BadArgument(f"--as: {shown!r} would hide Python's own {shown}; choose another name")
    return name


def tokenizer_name(name: str) -> str:
    """The name its tokenizer gets: ``tokenizer`` for ``model``, else ``<name>_tokenizer``."""
    return "tokenizer" if name == "model" else f"{name}_tokenizer"


def load_into(
    namespace: MutableMapping[str, Any],
    source: str | os.PathLike[str],
    *,
    budget_bytes: int,
    name: str = "model",
    dtype: str = "auto",
    device: str = "cpu",
    loader: MemorySafeModelLoader | None = None,
    registry: ModelRegistry | None = None,
) -> LoadOutcome:
    """Load a model and bind it, and its tokenizer, only once all has succeeded.

    Args:
        namespace: gets *name* and, where the model has one, ``tokenizer_name(name)``.
        source: as for ``MemorySafeModelLoader.load``.
        budget_bytes: what the load may add.
        name: the ``--as`` name.
        dtype: as for ``load``.
        device: as for ``load``.
        loader: a loader of your own; None for a plain one.
        registry: remembers the model weakly.

    Raises:
        BaseException: as ``load``; the namespace is untouched then.
    """
    check_name(name)
    outcome = (loader or MemorySafeModelLoader()).load(
        source, budget_bytes=budget_bytes, dtype=dtype, device=device
    )
    names = {name: outcome.model}
    if outcome.tokenizer is not None:
        names[tokenizer_name(name)] = outcome.tokenizer
    namespace.update(names)
    outcome = replace(outcome, names=tuple(names))
    if registry is not None:
        registry.add(name, outcome.model, resident_bytes=outcome.resident_bytes, plan=outcome.plan)
    return outcome
