"""One run of a bench from a model to a stored result, with or without a notebook.

Covers the order of things and how a run ends. Notebooks, names and displays are ``benches``'.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from h2q_notebook.bench.about import about_machine, about_model, about_suite, load_average
from h2q_notebook.bench.generation import (
    ModelGenerator,
    Sampling,
    default_threads,
    use_threads,
)
from h2q_notebook.bench.noise import Busy, idle_cores, judge_noise, read_busy
from h2q_notebook.bench.outcome import BenchRun, CaseResult
from h2q_notebook.bench.run import Step, run_cases
from h2q_notebook.bench.store import RunStore, RunWriter
from h2q_notebook.bench.suite import Suite
from h2q_notebook.errors import BadArgument

__all__ = ["BenchOrder", "Subject", "bench_model"]

_MAX_THREADS = 1024


@dataclass(frozen=True, slots=True)
class Subject:
    """The model to be benched."""

    model: Any
    tokenizer: Any
    about: Mapping[str, Any]
    """``label``, ``source`` and, where h2q loaded it, ``rung`` and bytes."""


@dataclass(frozen=True, slots=True)
class BenchOrder:
    """What a run is to do.

    Raises:
        BadArgument: a number of threads that cannot be.
    """

    suite: Suite
    suite_source: str
    sampling: Sampling = field(default_factory=Sampling)
    threads: int | None = None
    """None for as many as there are idle processors."""
    budget_bytes: int | None = None
    resume: str | None = None
    """The id of a run to go on with."""

    def __post_init__(self) -> None:
        if self.threads is not None and not 1 <= self.threads <= _MAX_THREADS:
            raise BadArgument(f"--threads: {self.threads} is outside 1 to {_MAX_THREADS}")


def bench_model(
    subject: Subject,
    order: BenchOrder,
    store: RunStore,
    watch: Callable[[str, str, tuple[CaseResult, ...]], Callable[[Step], None]] | None = None,
) -> BenchRun:
    """Run a suite on a model; every answer is on the disk before the next begins.

    Args:
        subject: the model.
        order: what to do.
        store: where it is kept.
        watch: given the run's id, a title and the answers there are already, makes what is told
            each step.

    Returns:
        The complete run.

    Raises:
        BadArgument: the model cannot be asked, or the run cannot be gone on with.
        BaseException: an interrupt or a stop; the run is marked incomplete first.
    """
    generator = ModelGenerator(subject.model, subject.tokenizer, order.sampling)
    threads = order.threads or default_threads(idle_cores())
    about = _about(subject, order, generator, threads)
    earlier: tuple[CaseResult, ...] = ()
    if order.resume is None:
        writer = store.create(about)
    else:
        _check_same_model(store.load(order.resume), about)
        writer, run = store.reopen(order.resume)
        earlier = run.cases
    label = f"h2q bench · {order.suite.name} · {about['model']['label']}"
    tell = watch(writer.run_id, label, earlier) if watch is not None else _nobody
    with _Ending(writer, store, threads) as ending, use_threads(threads):
        generator.warm_up()
        ending.began = read_busy()
        run_cases(
            order.suite,
            order.sampling,
            generator,
            writer.add,
            already={(one.case_id, one.sample) for one in earlier},
            tell=tell,
        )
        ending.status = "complete"
    return store.load(writer.run_id)


def _nobody(step: Step) -> None:
    """Told, and silent."""


class _Ending:
    """However a run ends, its manifest says so."""

    def __init__(self, writer: RunWriter, store: RunStore, threads: int) -> None:
        self._writer, self._store, self._threads = writer, store, threads
        self.status = "incomplete"
        self.began: Busy | None = None

    def __enter__(self) -> _Ending:
        return self

    def __exit__(self, *unused: object) -> None:
        more: dict[str, Any] = {"load_average_after": load_average()}
        if self.began is not None:
            cores = os.cpu_count() or 1
            noise = judge_noise(self.began, read_busy(), threads=self._threads, cores=cores)
            more["noise"] = noise.as_dict()
        run = self._store.load(self._writer.run_id)
        more["summary"] = {
            "passed": run.passed,
            "total": run.total,
            "strict_passed": run.strict_passed,
            "tokens_per_s": run.tokens_per_s,
            "peak_bytes": run.peak_bytes,
            "categories": {
                name: {"passed": t.passed, "total": t.total, "wilson_95": t.interval}
                for name in run.categories
                for t in (run.tally(name),)
            },
        }
        if self.status == "complete":
            self._writer.end("complete", **more)
        else:
            with suppress(OSError):  # what ended the run is more important
                self._writer.end("incomplete", **more)


def _about(
    subject: Subject, order: BenchOrder, generator: ModelGenerator, threads: int
) -> dict[str, Any]:
    notes = []
    if not generator.has_template:
        notes.append(
            "the tokenizer has no chat template, so prompts were given as plain text; a base model "
            "goes on with a text rather than answering it"
        )
    limit = order.sampling.max_new_tokens or order.suite.max_new_tokens
    return {
        "suite": about_suite(order.suite, order.suite_source),
        "sampling": {**order.sampling.as_dict(), "max_new_tokens": limit},
        "model": about_model(subject.model, subject.tokenizer, subject.about),
        "threads": threads,
        "budget_bytes": order.budget_bytes,
        "environment": about_machine(),
        "load_average_before": load_average(),
        "notes": notes,
    }


def _check_same_model(run: BenchRun, about: Mapping[str, Any]) -> None:
    """Answers of two models in one run would say nothing.

    Raises:
        BadArgument: names what differs.
    """
    if run.manifest["suite"]["hash"] != about["suite"]["hash"]:
        raise BadArgument(f"--resume: the suite has changed since run {run.run_id} was begun")
    mine, theirs = about["model"], run.manifest["model"]
    for name in ("class", "n_parameters", "dtype", "files", "chat_template_sha256", "rung"):
        if mine.get(name) != theirs.get(name):
            what = "weights" if name == "files" else name
            raise BadArgument(
                f"--resume: run {run.run_id} was begun with another model ({what} differ); "
                f"it was {theirs.get('label')}"
            )
