"""Loading, estimating and unloading for a notebook: names, outputs and what is shown.

Covers what the magics ask for. What a load is, the room ``load`` knows.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from h2q_notebook.cell.options import ResolvedBudget, resolve_budget
from h2q_notebook.cell.shell_refs import drop_traceback_refs
from h2q_notebook.config.settings import MemorySafeConfig
from h2q_notebook.errors import BadArgument, LoadFailed, LoadRefused, MemoryBudgetExceeded
from h2q_notebook.guardian.guardian import MemoryGuardian
from h2q_notebook.guardian.reclaim import clear_exception, release_memory
from h2q_notebook.load.holders import holders
from h2q_notebook.load.ladder import LADDER, StepName
from h2q_notebook.load.registry import LoadedModel, ModelRegistry
from h2q_notebook.notebook.gauges import front_end
from h2q_notebook.policy.layers import Ledger
from h2q_notebook.units import MIB, format_bytes, shorten

if TYPE_CHECKING:
    from h2q_notebook.load.outcome import LoadOutcome

__all__ = ["LoadOptions", "Loads", "Publish", "ledger_of"]

_LAST = ("_", "__", "___")
Publish = Callable[[dict[str, str], dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What a magic asks for, parsed."""

    source: str
    name: str = "model"
    budget: str | None = None
    """As typed; None takes what the machine can spare."""
    dtype: str = "auto"
    ladder: tuple[StepName, ...] = LADDER
    device: str | None = None
    """None for the setting ``device``."""
    context_tokens: int | None = None
    batch: int = 1
    task: str | None = None
    replace: bool = False

    def shared(self, config: MemorySafeConfig) -> dict[str, Any]:
        """Keywords that loads and estimates have in common."""
        return {
            "dtype": self.dtype,
            "ladder": self.ladder,
            "device": self.device or config.device,
            "batch": self.batch,
            "task": self.task,
        }


class Loads:
    """The models of one kernel.

    Args:
        shell: the IPython shell.
        guardian: of the session; a load inside a guarded cell is stopped with that cell.
        publish: shows a bundle with its metadata.
        pressed: why no model should be loaded now, in words; "" where nothing is against it.
    """

    def __init__(
        self,
        shell: Any,
        guardian: MemoryGuardian,
        publish: Publish,
        pressed: Callable[[], str] = str,
    ) -> None:
        self._shell = shell
        self._guardian = guardian
        self._publish = publish
        self._pressed = pressed
        self.models = ModelRegistry()

    # -- loading --------------------------------------------------------------------------------

    def load(self, options: LoadOptions) -> None:
        """Load a model, bind it in the user's namespace, and show what it took.

        Raises:
            H2QError: nothing was loaded and no name has changed, except that a model which had to
                be freed first (``--replace``) is gone; the sentence says so.
        """
        from h2q_notebook.load.binding import check_name
        from h2q_notebook.views import load_report

        check_name(options.name)
        old = _OldModel(self, options.name) if options.replace else None
        if (why := self._pressed()) and not (old is not None and old.n_bytes):
            raise LoadRefused(f"{why}; free memory first: %h2q_status tells what holds it")
        budget = self._budget(options.budget)
        try:
            outcome = self._load(options, budget, old)
        except (MemoryBudgetExceeded, KeyboardInterrupt) as error:
            if self._guardian.armed:
                raise  # the stop of the guarded cell around us
            clear_exception(error)
            release_memory()
            why = str(error) if isinstance(error, MemoryBudgetExceeded) else "interrupted"
            raise LoadFailed(f"{why}; the load was undone{_left(options.name, old)}") from None
        except LoadRefused as error:
            if old is None and self.models.get(options.name) is not None:
                text = f"{error}; --replace would free the {options.name} loaded before it"
                raise LoadRefused(text) from None
            raise
        self._publish(
            load_report.bundle(outcome, name=options.name, budget=budget.source),
            {"h2q": load_report.metadata(outcome)},
        )

    def _load(
        self, options: LoadOptions, budget: ResolvedBudget, old: _OldModel | None
    ) -> LoadOutcome:
        from h2q_notebook.load.binding import load_into
        from h2q_notebook.load.loader import MemorySafeModelLoader
        from h2q_notebook.views.progress import LoadProgress

        progress = LoadProgress(front_end(self._shell), shorten(options.source, 60))
        more: dict[str, Any] = {}
        if old is not None and old.n_bytes:
            more = {"make_room": old.free, "replaceable_bytes": old.n_bytes}
        try:
            return load_into(
                self._shell.user_ns,
                options.source,
                budget_bytes=budget.n_bytes,
                name=options.name,
                loader=MemorySafeModelLoader(progress=progress),
                registry=self.models,
                context_tokens=options.context_tokens,
                **options.shared(self._guardian.config),
                **more,
            )
        finally:
            progress.close()

    def estimate(self, options: LoadOptions) -> None:
        """Show what every form of a model would take.

        Raises:
            H2QError: the model or an option cannot be used.
        """
        from h2q_notebook.load.loader import MemorySafeModelLoader
        from h2q_notebook.views import estimate_report

        tokens = options.context_tokens
        more: dict[str, Any] = {} if tokens is None else {"context_tokens": tokens}
        told = MemorySafeModelLoader().estimate(
            options.source,
            budget_bytes=self._budget(options.budget).n_bytes,
            **options.shared(self._guardian.config),
            **more,
        )
        self._publish(estimate_report.bundle(told), {"h2q": estimate_report.metadata(told)})

    # -- what is loaded --------------------------------------------------------------------------

    def show_models(self) -> None:
        """Show every model that was loaded and lives."""
        from h2q_notebook.views import models

        self._publish(models.bundle(self.bound()), {})

    def unload(
        self, name: str | None = None, *, idle_s: float | None = None, everything: bool = False
    ) -> None:
        """Take models out of the notebook, give their memory back, and tell who keeps one.

        Args:
            name: of one model.
            idle_s: every model that was not used for so long.
            everything: every model.

        Raises:
            BadArgument: there is no such model.
        """
        from h2q_notebook.views import models

        chosen = self._choose(name, idle_s, everything)
        before_bytes = self._guardian.used_bytes()
        for one in chosen:
            self.unbind(one.name)
        drop_traceback_refs(self._shell, None)
        release_memory()
        freed_bytes = before_bytes - self._guardian.used_bytes()
        kept = {one.name: self._who_holds(one.name) for one in chosen}
        self._publish(models.unloaded(chosen, kept, freed_bytes), {})

    def _choose(
        self, name: str | None, idle_s: float | None, everything: bool
    ) -> tuple[LoadedModel, ...]:
        if sum((name is not None, idle_s is not None, everything)) != 1:
            raise BadArgument("%h2q_unload: give one of NAME, --idle TIME or --all")
        living = self.models.models()
        if idle_s is not None:
            return tuple(one for one in living if one.idle_s >= idle_s)
        if everything:
            return living
        chosen = tuple(one for one in living if one.name == name)
        if not chosen:
            names = ", ".join(one.name for one in living) or "none"
            raise BadArgument(
                f"%h2q_unload: no model was loaded as {shorten(str(name))!r}; there is {names}"
            )
        return chosen

    def bound(self) -> tuple[tuple[LoadedModel, bool], ...]:
        """Every living model, and whether its name still stands for it."""
        names = self._shell.user_ns
        return tuple(
            (one, names.get(one.name) is self.models.get(one.name)) for one in self.models.models()
        )

    def unbind(self, name: str) -> None:
        """Take a model and its companions away from every name and output of the notebook."""
        gone = [self.models.get(name), *self.models.companions(name)]
        marks = {id(one) for one in gone if one is not None}
        namespace = self._shell.user_ns
        for names in (namespace, self._shell.user_ns_hidden):
            for key in [key for key, value in names.items() if id(value) in marks]:
                if key in _LAST:
                    names[key] = ""
                else:
                    del names[key]
        outputs = namespace.get("_oh", {})
        for number in [number for number, value in outputs.items() if id(value) in marks]:
            del outputs[number]
        hook = self._shell.displayhook
        for last in _LAST:
            if id(getattr(hook, last, None)) in marks:
                setattr(hook, last, "")

    def _who_holds(self, name: str) -> tuple[str, ...] | None:
        """None where the model is gone."""
        gc.collect()
        model = self.models.get(name)
        return None if model is None else holders(model, self._shell.user_ns)

    def _budget(self, size: str | None) -> ResolvedBudget:
        config = self._guardian.config
        budget = resolve_budget(size, self._guardian.headroom(), config.safety_bytes)
        room = ledger_of(self.models.models()).room("model", config.model_bytes, budget.n_bytes)
        if room == budget.n_bytes:
            return budget
        what = f"model_memory_limit_mb leaves {format_bytes(room)}"
        if room < MIB:
            raise LoadRefused(f"{what} beside what is loaded; unload a model or raise the limit")
        return ResolvedBudget(room, what)


def ledger_of(models: Sequence[LoadedModel]) -> Ledger:
    """What models were promised; the registry holds them weakly, so one that is gone gave back."""
    return Ledger().keep("model", {one.name: one.resident_bytes for one in models})


class _OldModel:
    """What a name stood for before ``--replace``."""

    def __init__(self, loads: Loads, name: str) -> None:
        self._loads = loads
        self._name = name
        known = {one.name: one for one in loads.models.models()}
        ours = loads._shell.user_ns.get(name) is loads.models.get(name)
        self.n_bytes = known[name].resident_bytes if ours and name in known else 0
        self.freed = False

    def free(self) -> None:
        """Let it go; the loader calls this once, and only where it must."""
        self._loads.unbind(self._name)
        self.freed = True


def _left(name: str, old: _OldModel | None) -> str:
    if old is not None and old.freed:
        return f", but the old {name} had been freed for it (--replace) and is gone"
    return " and no name has changed"
