"""The bench of a notebook: which model is meant, what is shown, and how a run ends.

Covers what ``%h2q_bench`` asks for. What a run is, ``benching`` and the room ``bench`` know.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from h2q_notebook.bench.store import RunStore
from h2q_notebook.cell.options import ResolvedBudget, resolve_budget
from h2q_notebook.errors import BadArgument, BenchInterrupted
from h2q_notebook.guardian.guardian import MemoryGuardian
from h2q_notebook.guardian.reclaim import release_memory
from h2q_notebook.notebook.gauges import front_end
from h2q_notebook.notebook.loads import Loads, Publish
from h2q_notebook.places import data_root
from h2q_notebook.units import shorten

if TYPE_CHECKING:
    from h2q_notebook.bench.benching import Subject
    from h2q_notebook.bench.outcome import BenchRun
    from h2q_notebook.load.ladder import StepName
    from h2q_notebook.load.outcome import ProgressCallback

__all__ = ["BenchOptions", "Benches", "subject_of"]

_DEFAULT_SUITE = "h2q-15"


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """What the magic asks for, parsed."""

    model: str | None = None
    suite: str | None = None
    samples: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_new_tokens: int | None = None
    seed: int | None = None
    preset: str | None = None
    threads: int | None = None
    budget: str | None = None
    dtype: str = "auto"
    ladder: Sequence[StepName] | None = None
    resume: str | None = None

    def sampling(self) -> dict[str, Any]:
        """Keywords of ``sampling_of``."""
        return {
            "preset": self.preset,
            "samples": self.samples,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_new_tokens": self.max_new_tokens,
            "seed": self.seed,
        }


class Benches:
    """The runs of one kernel.

    Args:
        shell: the IPython shell.
        guardian: of the session.
        loads: the models that were loaded.
        publish: shows a bundle with its metadata.
    """

    def __init__(
        self,
        shell: Any,
        guardian: MemoryGuardian,
        loads: Loads,
        publish: Publish,
    ) -> None:
        self._shell = shell
        self._guardian = guardian
        self._loads = loads
        self._publish = publish

    @property
    def store(self) -> RunStore:
        """Where results are; asked for anew, as the environment may have changed."""
        return RunStore(data_root(self._guardian.config.data_dir))

    # -- running ------------------------------------------------------------------------------

    def run(self, options: BenchOptions) -> BenchRun:
        """Run a suite on a model.

        Raises:
            H2QError: one sentence; an interrupted run is kept and the sentence names it.
        """
        from h2q_notebook.bench.benching import BenchOrder
        from h2q_notebook.bench.generation import sampling_of
        from h2q_notebook.bench.suite import load_suite

        options, resumed = self._resumed(options)
        source = options.suite or _DEFAULT_SUITE
        suite = load_suite(source)
        sampling = sampling_of(**options.sampling())
        budget = self._budget(options.budget)
        order = BenchOrder(
            suite=suite,
            suite_source=source,
            sampling=sampling,
            threads=options.threads,
            budget_bytes=budget.n_bytes,
            resume=resumed,
        )
        subject, borrowed = self._subject(options, budget.n_bytes)
        try:
            return self._run(subject, order)
        finally:
            del subject
            if not borrowed:
                release_memory()

    def _run(self, subject: Subject, order: Any) -> BenchRun:
        from h2q_notebook.bench.benching import bench_model
        from h2q_notebook.views.bench_live import BenchLive

        shown: list[BenchLive] = []
        begun = ""

        def watch(run_id: str, title: str, earlier: Any) -> BenchLive:
            nonlocal begun
            begun = run_id
            shown.append(BenchLive(front_end(self._shell), title, earlier=earlier))
            return shown[0]

        try:
            return bench_model(subject, order, self.store, watch)
        except KeyboardInterrupt:
            if self._guardian.armed:
                raise  # the stop of the guarded cell around us
            if not begun:
                raise BenchInterrupted("interrupted before the first case") from None
            run = self.store.load(begun)
            self.show(run)
            raise BenchInterrupted(
                f"interrupted after {run.total} of {run.planned} answers, which are kept; "
                f"%h2q_bench --resume {begun[-6:]} goes on"
            ) from None
        finally:
            for one in shown:
                one.close()

    def _resumed(self, options: BenchOptions) -> tuple[BenchOptions, str | None]:
        """Options of a run to go on with: its own, the model perhaps under another name."""
        if options.resume is None:
            return options, None
        given = [name for name, value in options.sampling().items() if value is not None]
        if given or options.suite:
            name = (given or ["suite"])[0].replace("_", "-")
            raise BadArgument(f"--resume: a run goes on as it was begun; leave --{name} out")
        run = self.store.load(options.resume)
        asked, model = run.manifest["sampling"], run.manifest["model"]
        fresh = BenchOptions(
            model=options.model or model.get("source"),
            suite=run.manifest["suite"].get("source", run.suite),
            **{name: asked.get(name) for name in options.sampling()},
            threads=options.threads or run.manifest.get("threads"),
            budget=options.budget,
            dtype=model.get("asked_dtype", options.dtype),
            ladder=options.ladder or model.get("asked_ladder"),
        )
        return fresh, run.run_id

    def _budget(self, size: str | None) -> ResolvedBudget:
        room, config = self._guardian.headroom(), self._guardian.config
        return resolve_budget(size, room, config.safety_bytes)

    # -- which model --------------------------------------------------------------------------

    def _subject(self, options: BenchOptions, budget_bytes: int) -> tuple[Subject, bool]:
        """The model, and whether it was there before."""
        name = options.model or self._only_model()
        found = self._shell.user_ns.get(name) if name.isidentifier() else None
        if found is not None and hasattr(found, "generate"):
            return self._from_notebook(name, found), True
        if found is not None:
            raise BadArgument(
                f"{name} is a {type(found).__name__}, no model; give the name of one, or a path"
            )
        if name.isidentifier() and not Path(name).exists():
            raise self._no_such_model(name)
        return self._loaded(name, budget_bytes, options), False

    def _loaded(self, source: str, budget_bytes: int, options: BenchOptions) -> Subject:
        from h2q_notebook.views.progress import LoadProgress

        progress = LoadProgress(front_end(self._shell), shorten(source, 60))
        try:
            return subject_of(
                source, None, budget_bytes, dtype=options.dtype, ladder=options.ladder,
                progress=progress,
            )  # fmt: skip
        finally:
            progress.close()

    def _only_model(self) -> str:
        names = [one.name for one, bound in self._loads.bound() if bound]
        if "model" in self._shell.user_ns and "model" not in names:
            names.append("model")
        if len(names) == 1:
            return names[0]
        told = f"there are {', '.join(names)}" if names else "none is loaded"
        raise BadArgument(f"%h2q_bench: which model? {told}; give a name or h2q://tiny-deepseek")

    def _no_such_model(self, name: str) -> BadArgument:
        from h2q_notebook.load.sources import OWN

        known = [one.name for one, bound in self._loads.bound() if bound]
        near = get_close_matches(name, [*known, *OWN, *(one[6:] for one in OWN)], 1, 0.4)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join([*known, *OWN])}"
        return BadArgument(
            f"model: no model {shorten(name)!r} in the notebook and no such path; {hint}"
        )

    def _from_notebook(self, name: str, model: Any) -> Subject:
        from h2q_notebook.bench.benching import Subject
        from h2q_notebook.load.binding import companion_name

        loaded = next(
            (one for one, bound in self._loads.bound() if bound and one.name == name), None
        )
        about: dict[str, Any] = {"label": name, "source": name, "name_or_path": model.name_or_path}
        if loaded is not None:
            about |= {"rung": loaded.rung, "resident_bytes": loaded.resident_bytes}
        tokenizer = self._shell.user_ns.get(companion_name(name, "tokenizer"))
        return Subject(model, tokenizer, about)

    # -- what there is ------------------------------------------------------------------------

    def show(self, run: BenchRun) -> None:
        """Show one run."""
        from h2q_notebook.views import bench_report

        self._publish(bench_report.bundle(run), {"h2q": bench_report.metadata(run)})

    def list(self) -> None:
        """Show all runs."""
        from h2q_notebook.views import bench_report

        self._publish(bench_report.listing(self.store.list()), {})

    def compare(self, names: Sequence[str]) -> None:
        """Show runs side by side, with a plot where there can be one.

        Raises:
            BadArgument: a run is not there, or they cannot be compared.
        """
        from h2q_notebook.bench.compare import compare
        from h2q_notebook.views import bench_report

        found = compare([self.store.load(name) for name in names])
        self._publish(bench_report.comparison(found), {})
        if front_end(self._shell) in ("widgets", "html"):
            from h2q_notebook.views.bench_plots import comparison_figure

            self._publish_figure(comparison_figure(found))

    def ways_of_loading(self, source: str, budget: str | None = None, dtype: str = "auto") -> None:
        """Load a model in every way there is, each in a fresh process, and show what each took.

        Args:
            source: anything that can be loaded.
            budget: what each may take; more ends it.
            dtype: as for a load.

        Raises:
            H2QError: the model cannot be found, or is refused.
        """
        from h2q_notebook.bench.ways import compare_ways
        from h2q_notebook.load.directory import inspect
        from h2q_notebook.load.ladder import LADDER
        from h2q_notebook.load.one_load import THEIRS
        from h2q_notebook.load.sources import resolve
        from h2q_notebook.views import ways_report

        path = resolve(source)
        inspect(path)  # refused before any process is started
        room = self._budget(budget)

        def command(way: str) -> list[str]:
            one = [sys.executable, "-m", "h2q_notebook.load.one_load", way.removeprefix("h2q ")]
            return [*one, str(path), dtype, str(room.n_bytes)]

        found = compare_ways(
            source,
            [*THEIRS, *(f"h2q {step}" for step in LADDER)],
            command,
            budget_bytes=room.n_bytes,
            tell=lambda text: print(f"h2q bench · loading {source}: {text}"),
        )
        self._publish(ways_report.bundle(found), {"h2q": ways_report.metadata(found)})
        if front_end(self._shell) in ("widgets", "html"):
            self._publish_figure(ways_report.figure(found))

    def _publish_figure(self, figure: Any) -> None:
        from IPython import display as ipython_display

        show: Any = ipython_display.display
        show(figure)

    def export(self, name: str, kind: str) -> Path:
        """Write the answers of a run to a file in the working directory.

        Args:
            name: the run.
            kind: ``csv`` or ``parquet``.

        Returns:
            The file.

        Raises:
            BadArgument: no such run, or the file cannot be written.
        """
        from h2q_notebook.bench.export import export

        return export(self.store.load(name), kind, Path.cwd())


def subject_of(
    model: Any,
    tokenizer: Any,
    budget_bytes: int,
    *,
    dtype: str = "auto",
    ladder: Sequence[StepName] | None = None,
    progress: ProgressCallback | None = None,
) -> Subject:
    """A model as it is, a finished load, or a source that is loaded for a run alone.

    Raises:
        H2QError: as a load.
    """
    from h2q_notebook.bench.benching import Subject
    from h2q_notebook.load.ladder import LADDER
    from h2q_notebook.load.loader import MemorySafeModelLoader
    from h2q_notebook.load.outcome import LoadOutcome

    if hasattr(model, "generate"):
        name = str(getattr(model, "name_or_path", "") or type(model).__name__)
        return Subject(model, tokenizer, {"label": Path(name).name, "source": name})
    outcome, source = model, None
    if not isinstance(model, LoadOutcome):
        source = str(model)
        outcome = MemorySafeModelLoader(progress=progress).load(
            source, budget_bytes=budget_bytes, dtype=dtype, ladder=tuple(ladder or LADDER)
        )
    about = {
        "label": source or Path(outcome.facts.path).name,
        "source": source or str(outcome.facts.path),
        "rung": outcome.plan.rung.name,
        "asked_dtype": dtype,
        "asked_ladder": list(ladder) if ladder else None,
        "resident_bytes": outcome.resident_bytes,
        "mapped_bytes": outcome.mapped_bytes,
        "load_peak_bytes": outcome.peak_bytes,
    }
    return Subject(outcome.model, tokenizer or outcome.tokenizer, about)
