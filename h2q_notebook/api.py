"""What Python callers use beside the magics: ``h2q.load``, ``h2q.bench``, ``h2q.stop`` ...

``load`` and ``bench`` are public as ``h2q.load`` and ``h2q.bench`` alone: in the package these
names are rooms.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from h2q_notebook.bench.benching import BenchOrder
    from h2q_notebook.bench.outcome import BenchRun
    from h2q_notebook.bench.run import Step
    from h2q_notebook.load.ladder import StepName
    from h2q_notebook.load.outcome import LadderEstimate, LoadOutcome, ProgressCallback

__all__ = ["bench", "estimate", "load", "raise_budget", "stop"]


def stop() -> bool:
    """Stop the guarded cell that is running, from any thread.

    Returns:
        Whether there was one.
    """
    from h2q_notebook.notebook.session import current

    session = current()
    return session.stop() if session is not None else False


def raise_budget(size: str | int) -> int:
    """Give the running guarded cell more, from any thread.

    Args:
        size: what to add: bytes, or a spelling such as ``512MB``.

    Returns:
        The cell's new budget in bytes; 0 if no guarded cell is running.

    Raises:
        BadArgument: the size cannot be read.
    """
    from h2q_notebook.notebook.session import current
    from h2q_notebook.units import parse_bytes

    extra_bytes = parse_bytes(str(size))
    session = current()
    return session.raise_budget(extra_bytes) if session is not None else 0


def load(
    source: str | os.PathLike[str],
    *,
    budget: str | int | None = None,
    dtype: str = "auto",
    ladder: str | Sequence[str] | None = None,
    device: str = "cpu",
    context: int | None = None,
    batch: int = 1,
    task: str | None = None,
    progress: ProgressCallback | None = None,
) -> LoadOutcome:
    """Load a transformers model under a memory budget, with or without IPython.

    Args:
        source: a directory, a GGUF file, a hub name, ``h2q://tiny-deepseek``, ``h2q://smollm2``.
        budget: what the load may add: bytes or a spelling such as ``2GiB``; None takes what the
            machine can spare.
        dtype: ``auto`` (as stored), ``bf16``, ``fp16`` or ``fp32``.
        ladder: which forms may be tried, in order: ``"full,bf16,mapped,int8,int4,offload"`` (the
            default) or a part of it.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        context: also leave room to run a prompt of so many tokens.
        batch: how many such prompts at once.
        task: ``causal-lm``, ``seq2seq``, ``embeddings`` ...; None for what the config names.
        progress: called with each ``Progress``; an exception it raises ends the load.

    Returns:
        The model, its tokenizer and processor, the plan, and what they cost.

    Raises:
        BadArgument, ModelRefused, LoadRefused, LoadFailed, MissingExtra: one sentence each;
            nothing stays loaded.
        MemoryBudgetExceeded: the budget was passed; nothing stays loaded.
    """
    from h2q_notebook.load.loader import MemorySafeModelLoader

    return MemorySafeModelLoader(progress=progress).load(
        source,
        budget_bytes=_budget_bytes(budget),
        dtype=dtype,
        ladder=_steps(ladder),
        device=device,
        context_tokens=context,
        batch=batch,
        task=task,
    )


def estimate(
    source: str | os.PathLike[str],
    *,
    budget: str | int | None = None,
    dtype: str = "auto",
    ladder: str | Sequence[str] | None = None,
    device: str = "cpu",
    context: int = 4096,
    batch: int = 1,
    task: str | None = None,
) -> LadderEstimate:
    """What every form of a model would take, without loading it; a config.json alone will do.

    Args:
        source: as for ``load``; also a directory or a ``.json`` file with a config alone.
        budget: as for ``load``.
        dtype: as for ``load``.
        ladder: as for ``load``.
        device: as for ``load``.
        context: the prompt length in tokens that the run figures are for.
        batch: how many such prompts at once.
        task: as for ``load``.

    Returns:
        Every form with its bytes and whether it fits; ``chosen`` is the one a load would take.

    Raises:
        BadArgument, ModelRefused, MissingExtra: one sentence each.
    """
    from h2q_notebook.load.loader import MemorySafeModelLoader

    return MemorySafeModelLoader().estimate(
        source,
        budget_bytes=_budget_bytes(budget),
        dtype=dtype,
        ladder=_steps(ladder),
        device=device,
        context_tokens=context,
        batch=batch,
        task=task,
    )


def bench(
    model: Any,
    tokenizer: Any = None,
    *,
    suite: str = "h2q-15",
    samples: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    max_new_tokens: int | None = None,
    seed: int | None = None,
    preset: str | None = None,
    threads: int | None = None,
    budget: str | int | None = None,
    dtype: str = "auto",
    ladder: str | Sequence[str] | None = None,
    progress: Callable[[Step], None] | None = None,
) -> BenchRun:
    """Ask a model every case of a suite, judge its answers and keep them; with or without IPython.

    Args:
        model: a transformers model, a ``LoadOutcome``, or anything ``load`` takes (it is loaded
            for this run alone, under *budget*).
        tokenizer: the model's; not needed for the other two.
        suite: ``h2q-15``, ``addition-20``, ``humaneval``, or a .toml or .json file.
        samples: answers to each case (1).
        temperature: 0 is greedy (0).
        top_p: only the likeliest tokens that together have this probability (1).
        max_new_tokens: where an answer is cut (the suite's).
        seed: of the first answer; each further one has the next (0).
        preset: ``greedy`` or ``r1``; what is given beside it is laid over it.
        threads: that torch computes with, meanwhile.
        budget: as for ``load``.
        dtype: as for ``load``.
        ladder: as for ``load``.
        progress: called with each ``Step``.

    Returns:
        The run; it is also kept under Jupyter's data directory (or ``H2Q_DATA_DIR``).

    Raises:
        BadArgument, MissingExtra: one sentence each; nothing was run.
        BaseException: as raised by an interrupt; what was answered is kept.
    """
    from h2q_notebook.bench.benching import bench_model
    from h2q_notebook.bench.store import RunStore
    from h2q_notebook.notebook.benches import subject_of
    from h2q_notebook.places import data_root

    given = {"samples": samples, "temperature": temperature, "top_p": top_p, "seed": seed}
    sampling = {**given, "preset": preset, "max_new_tokens": max_new_tokens}
    budget_bytes = _budget_bytes(budget)
    order = _bench_order(suite, sampling, threads, budget_bytes)
    subject = subject_of(model, tokenizer, budget_bytes, dtype=dtype, ladder=_steps(ladder))
    watch = None if progress is None else (lambda run_id, title, earlier: progress)
    return bench_model(subject, order, RunStore(data_root()), watch)


def _bench_order(
    suite: str, sampling: dict[str, Any], threads: int | None, budget_bytes: int
) -> BenchOrder:
    from h2q_notebook.bench.benching import BenchOrder
    from h2q_notebook.bench.generation import sampling_of
    from h2q_notebook.bench.suite import load_suite

    return BenchOrder(
        suite=load_suite(suite),
        suite_source=suite,
        sampling=sampling_of(**sampling),
        threads=threads,
        budget_bytes=budget_bytes,
    )


def _budget_bytes(budget: str | int | None) -> int:
    from h2q_notebook.cell.options import resolve_budget
    from h2q_notebook.config.settings import MemorySafeConfig
    from h2q_notebook.readings.limits import read_headroom

    size = None if budget is None else str(budget)
    return resolve_budget(size, read_headroom(), MemorySafeConfig().safety_bytes).n_bytes


def _steps(ladder: str | Sequence[str] | None) -> tuple[StepName, ...]:
    from h2q_notebook.load.ladder import LADDER, parse_ladder

    if ladder is None:
        return LADDER
    return parse_ladder(ladder if isinstance(ladder, str) else ",".join(ladder))
