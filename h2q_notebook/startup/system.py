"""``MemorySafeStartupSystem``: everything in order, and back in reverse where a layer fails.

preflight -> guardian -> model -> pipeline -> validation. Each layer is timed and weighed; after a
failure, and after ``stop``, nothing of it is left: no memory, thread, process or file.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from h2q_notebook.config.settings import MemorySafeConfig
from h2q_notebook.errors import BadArgument, LoadFailed
from h2q_notebook.guardian.events import EventLog
from h2q_notebook.guardian.guardian import MemoryGuardian
from h2q_notebook.guardian.kernel import KernelGuard
from h2q_notebook.guardian.reclaim import release_memory
from h2q_notebook.guardian.reclaimers import RECLAIMERS, clean
from h2q_notebook.readings.limits import read_headroom
from h2q_notebook.readings.process import read_process
from h2q_notebook.startup.layered import LayerReport, StartupReport, Step, run_steps, undo_steps
from h2q_notebook.startup.pipeline import TextPipeline
from h2q_notebook.startup.preflight import look
from h2q_notebook.units import MIB, format_bytes

__all__ = ["MemorySafeStartupSystem", "ModelHolder"]

_WORKING_BYTES = 512 * MIB
"""Working budget of a pipeline where the settings name none."""
_PROBE = "Hello"
_PROBE_TOKENS = 4


class ModelHolder(Protocol):
    """Loads a model and lets it go; the notebook's binds names, a script's does not."""

    def load(self, source: str) -> tuple[Any, Any, str]:
        """The model, its tokenizer, and what is to be told."""

    def unload(self) -> None:
        """Let go of what was loaded; does nothing where nothing was."""


class _PlainHolder:
    """For scripts."""

    def __init__(self, guardian: MemoryGuardian) -> None:
        self._guardian = guardian

    def load(self, source: str) -> tuple[Any, Any, str]:
        from h2q_notebook.cell.options import resolve_budget
        from h2q_notebook.load.loader import MemorySafeModelLoader

        config = self._guardian.config
        budget = resolve_budget(None, self._guardian.headroom(), config.safety_bytes)
        outcome = MemorySafeModelLoader().load(
            source, budget_bytes=budget.n_bytes, device=config.device
        )
        told = f"{type(outcome.model).__name__} ({outcome.plan.rung.name})"
        return outcome.model, outcome.tokenizer, told

    def unload(self) -> None:
        """Nothing is held here."""


class _Printing:
    """What the kernel's guard does in a script; nobody's threads are ended there."""

    def say(self, text: str) -> None:
        import sys

        print(text, file=sys.stderr)

    def clean(self) -> str:
        return clean(lambda: read_process().used_bytes)

    def offer(self) -> str:
        return ""

    def calm(self) -> None:
        RECLAIMERS.calm()

    def stop(self) -> str:
        return ""


class MemorySafeStartupSystem:
    """Starts and stops the whole of h2q around a model.

    Args:
        config: settings; None for the defaults.
        guardian: one that is there already; None makes one.
        keeper: as for *guardian*, the guard of the whole kernel.
        holder: loads the model; None for a plain load.
        clock: seconds, monotonic.

    Example:
        >>> system = MemorySafeStartupSystem()
        >>> report = system.start("h2q://tiny-deepseek")
        >>> system.pipeline("What is 17 + 25?")
        'Answer: 42'
        >>> system.stop().ok
        True
    """

    def __init__(
        self,
        config: MemorySafeConfig | None = None,
        *,
        guardian: MemoryGuardian | None = None,
        keeper: KernelGuard | None = None,
        holder: ModelHolder | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.guardian = guardian or MemoryGuardian(config or MemorySafeConfig())
        self._keeper = keeper or KernelGuard(
            lambda: self.guardian.config,
            self.guardian.used_bytes,
            read_headroom,
            _Printing(),
            EventLog(),
        )
        self._holder: ModelHolder = holder or _PlainHolder(self.guardian)
        self._clock = clock
        self._began_guard = False
        self._source: str | None = None
        self._model: Any = None
        self._tokenizer: Any = None
        self._pipeline: TextPipeline | None = None
        self._running: list[Step] = []

    @property
    def running(self) -> bool:
        """Whether it was started and not stopped."""
        return bool(self._running)

    @property
    def pipeline(self) -> TextPipeline:
        """The function that answers.

        Raises:
            BadArgument: no model was started.
        """
        if self._pipeline is None:
            raise BadArgument("no pipeline: start one with a model, as in %h2q_start MODEL")
        return self._pipeline

    def start(self, model: str | None = None) -> StartupReport:
        """Start all layers, or none.

        Args:
            model: anything that can be loaded; None starts the guard alone.

        Returns:
            The report; ``ok`` is False where a layer failed and all was undone.

        Raises:
            BadArgument: it is running already.
            BaseException: an interrupt or a stop, after all was undone.
        """
        if self._running:
            raise BadArgument("it is running already; %h2q_stop or %h2q_restart")
        steps = self.steps(model)
        report = run_steps(steps, lambda: read_process().used_bytes, self._clock)
        if report.ok:
            self._running, self._source = steps, model
        elif report.error is not None and not isinstance(report.error, Exception):
            raise report.error
        return report

    def steps(self, model: str | None) -> list[Step]:
        """The layers of a start, in order; tests put failing ones in their places."""
        steps = [
            Step(
                "preflight",
                lambda: look(
                    read_headroom(), model=model is not None, devices=self.guardian.devices()
                ).words(),
            ),
            Step("guardian", self._start_guard, self._undo_guard),
        ]
        if model is not None:
            steps += [
                Step("model", lambda: self._load(model), self._unload),
                Step("pipeline", self._make_pipeline, self._drop_pipeline),
                Step("validation", self._validate),
            ]
        return steps

    def stop(self) -> StartupReport:
        """Undo all layers, the last one first.

        Raises:
            BadArgument: it is not running.
        """
        if not self._running:
            raise BadArgument("nothing is running; %h2q_start starts it")
        steps, self._running = self._running, []
        before, began_s = read_process().used_bytes, self._clock()
        undo_steps(steps)
        self._stop_guard()  # also one that was there before the start
        release_memory()
        freed = before - read_process().used_bytes
        told = f"{format_bytes(max(freed, 0))} given back"
        layers = [LayerReport(step.name, "undone") for step in reversed(steps)]
        layers.append(LayerReport("memory", "undone", told, self._clock() - began_s, -freed))
        return StartupReport(tuple(layers), ok=True)

    def restart(self) -> StartupReport:
        """Stop and start with the same model; what else the notebook holds stays.

        Raises:
            BadArgument: it is not running.
        """
        source = self._source
        self.stop()
        return self.start(source)

    # -- layers -------------------------------------------------------------------------------

    def _start_guard(self) -> str:
        self._began_guard = self.guardian.watcher_kind == "off"
        self.guardian.start()
        self._keeper.start()
        view = self._keeper.view()
        kinds = {"process": "a process of its own", "thread": "a thread"}
        how = kinds.get(self.guardian.watcher_kind, "nothing")
        return f"watched by {how}; ceiling {format_bytes(view.limit_bytes)} ({view.source})"

    def _undo_guard(self) -> None:
        """After a failure: a guard that was there before the start stays."""
        if self._began_guard:
            self._stop_guard()

    def _stop_guard(self) -> None:
        self._keeper.close()
        self.guardian.close()

    def _load(self, source: str) -> str:
        self._model, self._tokenizer, told = self._holder.load(source)
        return told

    def _unload(self) -> None:
        self._model = self._tokenizer = None
        self._holder.unload()
        release_memory()

    def _make_pipeline(self) -> str:
        mb = self.guardian.config.working_memory_mb
        working_bytes = _WORKING_BYTES if mb is None else int(mb * MIB)
        self._pipeline = TextPipeline(
            self._model, self._tokenizer, working_bytes, self.guardian.used_bytes
        )
        return f"answers within {format_bytes(working_bytes)}"

    def _drop_pipeline(self) -> None:
        self._pipeline = None

    def _validate(self) -> str:
        began_s = self._clock()
        text = self.pipeline(_PROBE, max_new_tokens=_PROBE_TOKENS, thoughts=True)
        if not isinstance(text, str):
            raise LoadFailed("the model did not answer")
        return f"{_PROBE_TOKENS} tokens in {(self._clock() - began_s) * 1000:.0f} ms"
