"""From what was asked for to a plan: the checked order, the rungs of its model, the room there is.

Looks at directories, disks and free memory; the choice itself is ``ladder``'s.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from h2q_notebook.errors import BadArgument, LoadRefused
from h2q_notebook.load import sources
from h2q_notebook.load.directory import inspect
from h2q_notebook.load.estimate import stored_dtype
from h2q_notebook.load.facts import ModelFacts
from h2q_notebook.load.forms import Asked, Forms
from h2q_notebook.load.gguf_cache import Conversion
from h2q_notebook.load.history import History, Record, factor_of
from h2q_notebook.load.ladder import LoadPlan, Room, Rung, StepName, plan
from h2q_notebook.load.placement import find_device
from h2q_notebook.load.skeleton import TORCH_NAMES
from h2q_notebook.load.structures import Structures
from h2q_notebook.places import cache_root
from h2q_notebook.readings.limits import read_headroom
from h2q_notebook.units import shorten

__all__ = ["CONTEXT_TOKENS", "DTYPES", "Order", "Planner", "take_order"]

DTYPES = ("auto", *TORCH_NAMES)
_TELLING_BYTES = 256 << 20
CONTEXT_TOKENS = 4096
"""What run figures are for where nobody says."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked for, checked."""

    facts: ModelFacts
    asked: Asked
    steps: tuple[StepName, ...]
    task: str | None = None
    for_run: bool = False
    """A form must also have room to run, not only to be loaded."""

    @property
    def label(self) -> str:
        """The model's name for sentences."""
        facts = self.facts
        return os.path.basename(facts.shards[0].path if facts.kind == "gguf" else facts.path)


def take_order(
    source: str | os.PathLike[str],
    *,
    budget_bytes: int,
    dtype: str,
    device: str,
    ladder: Sequence[StepName],
    context_tokens: int | None,
    batch: int,
    task: str | None,
    weights: bool = True,
) -> Order:
    """Check what was asked for and look at the directory.

    Args:
        weights: False where a config alone will do; the others are those of
            ``MemorySafeModelLoader.load``.

    Raises:
        BadArgument: names the option that cannot be used.
        ModelRefused: as ``directory.inspect``.
    """
    if dtype not in DTYPES:
        raise BadArgument(f"--dtype: {shorten(dtype)!r} is not one of {', '.join(DTYPES)}")
    if budget_bytes < 1:
        raise BadArgument("--budget: must be more than 0 bytes; write for example 2GiB")
    if context_tokens is not None and context_tokens < 1:
        raise BadArgument("--context: must be at least 1 token; write for example 4096")
    if batch < 1:
        raise BadArgument("--batch: must be at least 1; write for example --batch 1")
    if not ladder:
        raise BadArgument("--ladder: names no step; write for example full,bf16,int8")
    place = find_device(device)
    facts = inspect(sources.resolve(source), weights=weights)
    asked = Asked(
        stored_dtype(facts) if dtype == "auto" else dtype,
        place,
        context_tokens or CONTEXT_TOKENS,
        batch,
    )
    return Order(facts, asked, tuple(ladder), task, context_tokens is not None)


class Planner:
    """The rungs of one ordered model, and the choice among them.

    Args:
        order: from ``take_order``.
        history: what loads on this machine took, by which load peaks are corrected.

    Raises:
        ModelRefused: transformers has no such model, or cannot read this GGUF.
    """

    def __init__(self, order: Order, history: History) -> None:
        self.order = order
        self._history = history
        self.facts = order.facts
        self.converts = False
        """Whether the model has to be converted (a GGUF) before it can be loaded."""
        if order.facts.kind == "gguf":
            conversion = Conversion(order.facts, order.asked.dtype)
            self.converts = not conversion.ready
            self.facts = conversion.preview() if self.converts else inspect(conversion.target)
        self.structures = Structures(self.facts, order.task)
        self.forms = Forms(
            self.structures,
            order.asked,
            disk_bytes=self._gguf_bytes if self.converts else lambda _: 0,
            count=order.for_run,
        )
        self._records = history.records()
        self._rungs: list[Rung] = []
        self._plain_peaks: dict[str, int] = {}
        self._rest = self.forms.rungs(order.steps)

    def rungs(self) -> Iterator[Rung]:
        """Every rung in order, corrected by what loads took here; each is worked out once."""
        yield from self._rungs
        for plain in self._rest:
            self._plain_peaks[plain.name] = plain.load_peak_bytes
            self._rungs.append(corrected(plain, self._records, self.facts.model_type))
            yield self._rungs[-1]

    def room(self, budget_bytes: int) -> Room:
        """What there is to take from now."""
        home = cache_root()
        while not home.exists():
            home = home.parent
        return Room(
            budget_bytes,
            read_headroom().free_bytes,
            shutil.disk_usage(home).free,
            self.order.for_run,
            self.order.asked.device.free_bytes,
        )

    def plan(self, budget_bytes: int) -> LoadPlan:
        """The first rung that fits.

        Raises:
            LoadRefused: none does.
        """
        return self._plan(self.room(budget_bytes))

    def plan_replacement(self, budget_bytes: int, freed_bytes: int) -> tuple[LoadPlan, bool]:
        """The plan beside an older model or, where that gives a better form, in its place.

        Args:
            budget_bytes: what the load may add while the old model stays.
            freed_bytes: what it would give back.

        Returns:
            The plan, and whether the old model has to go first.

        Raises:
            LoadRefused: no form fits even then.
        """
        room = self.room(budget_bytes)
        wider = replace(
            room,
            budget_bytes=budget_bytes + freed_bytes,
            cache_bytes=room.cache_bytes + freed_bytes,
        )
        alone = self._plan(wider)
        try:
            beside = self._plan(room)
        except LoadRefused:
            return alone, True
        return (alone, True) if alone.chosen < beside.chosen else (beside, False)

    def converted(self, target: os.PathLike[str]) -> Planner:
        """The same order for what a GGUF was converted to."""
        return Planner(replace(self.order, facts=inspect(target)), self._history)

    def remember(self, rung: Rung, peak_bytes: int) -> None:
        """Note what a load of *rung* took; small ones tell nothing about larger ones."""
        estimated_bytes = self._plain_peaks[rung.name]
        if estimated_bytes >= _TELLING_BYTES:
            self._history.record(
                self.facts.model_type,
                rung.name,
                estimated_bytes=estimated_bytes,
                measured_bytes=peak_bytes,
            )

    def _plan(self, room: Room) -> LoadPlan:
        tokens = self.order.asked.context_tokens
        return plan(self.rungs(), room, label=self.order.label, context_tokens=tokens)

    def _gguf_bytes(self, dtype: str) -> int:
        conversion = Conversion(self.order.facts, dtype)
        return 0 if conversion.ready else conversion.disk_bytes


def corrected(rung: Rung, records: Sequence[Record], model_type: str) -> Rung:
    """The rung with its load peak as this machine's loads have shown it."""
    factor = factor_of(records, model_type, rung.name)
    if factor == 1.0:
        return rung
    note = f"load peak x {factor:.2f}, as measured here before"
    return replace(
        rung,
        load_peak_bytes=round(rung.load_peak_bytes * factor),
        note=f"{rung.note}; {note}" if rung.note else note,
    )
