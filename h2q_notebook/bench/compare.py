"""Runs side by side: which cases differ, and whether that is more than luck.

Pure. Only runs of the same suite, template included, can be compared: one word of a prompt moves
results more than many a model does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from h2q_notebook.bench.outcome import BenchRun, Tally, tally_of
from h2q_notebook.bench.stats import Paired, mcnemar
from h2q_notebook.errors import BadArgument

__all__ = ["Column", "Comparison", "Contrast", "compare"]


@dataclass(frozen=True, slots=True)
class Column:
    """One run over the cases that all have."""

    run_id: str
    label: str
    scores: tuple[float, ...]
    """For each case the share of samples that passed."""
    tallies: dict[str, Tally]
    """For each category, and ``all``."""
    tokens_per_s: float | None
    peak_bytes: int
    noisy: bool
    status: str


@dataclass(frozen=True, slots=True)
class Contrast:
    """Two of the runs."""

    first: str
    second: str
    paired: Paired

    @property
    def sentence(self) -> str:
        """The verdict, and what it rests on."""
        one = self.paired
        counts = (
            f"{self.first} is better on {one.first_better} cases, {self.second} on "
            f"{one.second_better}; exact paired test p = {one.p_value:.3g}"
        )
        if not one.distinguishable:
            return f"not distinguishable: {counts}"
        better = self.first if one.first_better > one.second_better else self.second
        return f"{better} is better: {counts}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Runs of one suite."""

    suite: str
    case_ids: tuple[str, ...]
    categories: tuple[str, ...]
    columns: tuple[Column, ...]
    contrasts: tuple[Contrast, ...]
    """Each run against the first."""
    notes: tuple[str, ...]


def compare(runs: Sequence[BenchRun]) -> Comparison:
    """Lay runs side by side.

    Raises:
        BadArgument: fewer than two, or runs that cannot be compared; the sentence says why.
    """
    if len(runs) < 2:
        raise BadArgument("--compare: give at least two runs")
    if len({run.run_id for run in runs}) < len(runs):
        raise BadArgument("--compare: a run cannot be compared with itself")
    first = runs[0]
    for run in runs[1:]:
        _check_same_suite(first, run)
    common = set.intersection(*(set(run.scores()) for run in runs))
    cases = tuple(case for case in first.scores() if case in common)
    if not cases:
        raise BadArgument("--compare: the runs have no case in common yet")
    columns = tuple(_column(run, cases) for run in runs)
    contrasts = tuple(
        Contrast(columns[0].label, other.label, mcnemar(columns[0].scores, other.scores))
        for other in columns[1:]
    )
    categories = tuple(dict.fromkeys(one.category for one in first.cases if one.case_id in common))
    planned = int(first.manifest["suite"]["n_cases"])
    notes = [f"only the {len(cases)} of {planned} cases that all runs have are compared"]
    return Comparison(
        suite=first.suite,
        case_ids=cases,
        categories=categories,
        columns=columns,
        contrasts=contrasts,
        notes=(*(notes if len(cases) < planned else []), *_differences(runs)),
    )


def _check_same_suite(first: BenchRun, other: BenchRun) -> None:
    mine, theirs = first.manifest["suite"], other.manifest["suite"]
    if mine["hash"] == theirs["hash"]:
        return
    if mine["name"] != theirs["name"]:
        why = f"is of suite {theirs['name']}, {first.run_id} of {mine['name']}"
    else:
        why = (
            f"is of another form of {theirs['name']} (version {theirs['version']}, "
            f"{theirs['hash'][:8]}) than {first.run_id} (version {mine['version']}, "
            f"{mine['hash'][:8]}): its prompts or its graders differ"
        )
    raise BadArgument(f"--compare: run {other.run_id} {why}; such results say nothing together")


def _column(run: BenchRun, cases: Sequence[str]) -> Column:
    scores = run.scores()
    kept = [one for one in run.cases if one.case_id in set(cases)]
    tallies = {}
    for category in (*run.categories, "all"):
        chosen = [one for one in kept if category in ("all", one.category)]
        tallies[category] = tally_of(chosen)
    return Column(
        run_id=run.run_id,
        label=label_of(run),
        scores=tuple(scores[case] for case in cases),
        tallies=tallies,
        tokens_per_s=run.tokens_per_s,
        peak_bytes=run.peak_bytes,
        noisy=bool((run.manifest.get("noise") or {}).get("noisy")),
        status=run.status,
    )


def label_of(run: BenchRun) -> str:
    """A model, its form, and the end of the run's id, which tells two runs of it apart."""
    model = run.manifest["model"]
    rung = f" ({model['rung']})" if model.get("rung") else ""
    return f"{model.get('label', '?')}{rung} {run.run_id[-6:]}"


def _differences(runs: Sequence[BenchRun]) -> list[str]:
    """Settings in which the runs differ: a difference may be theirs, not the models'."""
    looked: dict[str, Callable[[BenchRun], Any]] = {
        "samples": lambda run: run.manifest["sampling"].get("samples"),
        "temperature": lambda run: run.manifest["sampling"].get("temperature"),
        "max_new_tokens": lambda run: run.manifest["sampling"].get("max_new_tokens"),
        "threads": lambda run: run.manifest.get("threads"),
        "dtype": lambda run: run.manifest["model"].get("dtype"),
        "chat template": lambda run: run.manifest["model"].get("chat_template_sha256"),
    }
    found = []
    for name, of in looked.items():
        values = [of(run) for run in runs]
        if len({str(one) for one in values}) > 1:
            told = "" if name == "chat template" else f" ({', '.join(str(v) for v in values)})"
            found.append(f"the runs differ in {name}{told}")
    noisy = [run.run_id for run in runs if (run.manifest.get("noise") or {}).get("noisy")]
    if noisy:
        found.append(f"measured on a busy machine, so speeds are too low: {', '.join(noisy)}")
    return found
