"""Which form of a model to load: the ladder of rungs, and the first of them that fits.

Pure: no I/O, no clock, no torch. What each rung takes is ``forms``' knowledge, what there is to
take from is passed in as ``Room``. Anonymous memory is judged against the budget; file-backed
weights, which the system may drop and read again, against what it can keep cached.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from h2q_notebook.errors import BadArgument, LoadRefused
from h2q_notebook.units import MIB, format_bytes, shorten

__all__ = [
    "LADDER",
    "Kind",
    "LoadPlan",
    "Room",
    "Rung",
    "StepName",
    "Verdict",
    "judge",
    "parse_ladder",
    "plan",
    "refusal",
]

Kind = Literal["full", "mapped", "int8", "int4", "offload"]
StepName = Literal["full", "bf16", "mapped", "int8", "int4", "offload"]

LADDER: tuple[StepName, ...] = get_args(StepName)
"""The default order: exact forms first, then smaller ones, then slow ones."""

_ALIASES = {"nf4": "int4", "disk": "offload", "mmap": "mapped", "bfloat16": "bf16"}


@dataclass(frozen=True, slots=True)
class Rung:
    """One form in which the model could be loaded. Bytes."""

    name: str
    """The dtype for plain forms (``fp32``, ``bf16``, ``fp16``), else the kind."""
    kind: Kind
    dtype: str
    """``fp32``, ``bf16`` or ``fp16``: what is computed in."""
    resident_bytes: int
    """Anonymous memory held once it is loaded."""
    load_peak_bytes: int
    run_peak_bytes: int
    """Anonymous memory while a prompt is processed: weights, cache and compute."""
    mapped_bytes: int = 0
    """File-backed weights; the system may drop them and read them again."""
    disk_bytes: int = 0
    """What a one-time conversion would write to the cache folder."""
    device_bytes: int = 0
    """On an accelerator."""
    speed: str = ""
    """In words, with where the figure comes from."""
    quality: str = ""
    note: str = ""
    why_not: str = ""
    """Why this rung cannot be used here at all; "" if it can."""


@dataclass(frozen=True, slots=True)
class Room:
    """What there is to take from. Bytes."""

    budget_bytes: int
    """What the load may add in anonymous memory."""
    cache_bytes: int
    """What the machine has free, and so can keep of mapped files."""
    disk_bytes: int
    """Free in h2q's cache folder."""
    for_run: bool = False
    """Whether a rung must have room to process a prompt as well."""
    device_bytes: int | None = None
    """Free on the device; None where that is the CPU."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A rung, and whether it fits."""

    rung: Rung
    fits: bool
    why: str


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """Every rung that was looked at with its verdict, and the one that is taken."""

    verdicts: tuple[Verdict, ...]
    chosen: int
    """Index into ``verdicts``."""
    budget_bytes: int
    context_tokens: int
    reason: str

    @property
    def rung(self) -> Rung:
        """The rung that is taken."""
        return self.verdicts[self.chosen].rung


def parse_ladder(text: str) -> tuple[StepName, ...]:
    """Read ``--ladder``: names of steps in order, separated by commas.

    Accepted: ``full``, ``bf16``, ``mapped`` (also ``mmap``), ``int8``, ``int4`` (also ``nf4``),
    ``offload`` (also ``disk``); case and blanks do not matter.

    Raises:
        BadArgument: empty, an unknown name, or one given twice.
    """
    steps: list[StepName] = []
    for part in text.split(","):
        name = part.strip().lower()
        name = _ALIASES.get(name, name)
        if name not in LADDER:
            near = difflib.get_close_matches(name, LADDER, n=1)
            hint = f"did you mean {near[0]}?" if near else f"the steps are {', '.join(LADDER)}"
            raise BadArgument(f"--ladder: {shorten(part.strip())!r} is no step; {hint}")
        if name in steps:
            raise BadArgument(f"--ladder: {name} is given twice; name each step once")
        steps.append(name)
    return tuple(steps)


def judge(rung: Rung, room: Room) -> Verdict:
    """Whether one rung fits, and why."""
    need_bytes = _need_bytes(rung, room)
    need = format_bytes(need_bytes)
    if need_bytes > rung.load_peak_bytes:
        need += " to run"
    over = need_bytes - room.budget_bytes
    if rung.why_not:
        return Verdict(rung, False, rung.why_not)
    if over > 0:
        return Verdict(rung, False, f"needs {need}, {format_bytes(over)} too much")
    if room.device_bytes is not None and rung.device_bytes > room.device_bytes:
        wanted, free = format_bytes(rung.device_bytes), format_bytes(room.device_bytes)
        return Verdict(rung, False, f"needs {wanted} on the device, {free} are free")
    if rung.disk_bytes > room.disk_bytes:
        wanted, free = format_bytes(rung.disk_bytes), format_bytes(room.disk_bytes)
        return Verdict(rung, False, f"its converted form needs {wanted} of disk, {free} are free")
    uncached = rung.mapped_bytes + rung.load_peak_bytes - room.cache_bytes
    if rung.kind == "mapped" and uncached > 0:
        why = f"{format_bytes(uncached)} of its weights would not stay in memory"
        return Verdict(rung, False, why)
    why = f"needs {need} of {format_bytes(room.budget_bytes)}"
    if rung.mapped_bytes:
        why += f", {format_bytes(rung.mapped_bytes)} stay file-backed"
    return Verdict(rung, True, why)


def _need_bytes(rung: Rung, room: Room) -> int:
    return max(rung.load_peak_bytes, rung.run_peak_bytes if room.for_run else 0)


def plan(rungs: Iterable[Rung], room: Room, *, label: str, context_tokens: int = 2048) -> LoadPlan:
    """Take the first rung that fits; those after it are not asked for.

    Args:
        rungs: in order of preference, at least one.
        room: what there is to take from.
        label: the model's name, for the sentences.
        context_tokens: the context that ``Rung.run_peak_bytes`` was computed for.

    Raises:
        LoadRefused: none fits; names the nearest and the budget it needs.
    """
    verdicts: list[Verdict] = []
    for rung in rungs:
        verdict = judge(rung, room)
        if verdict.fits:
            reason = f"{rung.name} fits: {verdict.why}"
            if verdicts:
                passed = ", ".join(f"{v.rung.name} ({v.why})" for v in verdicts)
                reason += f"; passed over: {passed}"
            taken = (*verdicts, verdict)
            return LoadPlan(taken, len(verdicts), room.budget_bytes, context_tokens, reason)
        verdicts.append(verdict)
    raise LoadRefused(refusal(verdicts, room, label))


def refusal(verdicts: Sequence[Verdict], room: Room, label: str) -> str:
    """One sentence for a model of which no form fits: the nearest, and what it needs."""
    usable = [verdict.rung for verdict in verdicts if not verdict.rung.why_not]
    over = [rung for rung in usable if _need_bytes(rung, room) > room.budget_bytes]
    budget = format_bytes(room.budget_bytes)
    if not over:
        reasons = "; ".join(f"{verdict.rung.name}: {verdict.why}" for verdict in verdicts)
        return f"{label} cannot be loaded in any form of the ladder: {reasons}"
    nearest = min(over, key=lambda rung: _need_bytes(rung, room))
    need_bytes = _need_bytes(nearest, room)
    # Rounded up to whole MiB, so that typing the number back is enough.
    enough_mib = -(-need_bytes // MIB)
    return (
        f"{label} does not fit the budget of {budget}: the smallest form, {nearest.name}, needs "
        f"{format_bytes(need_bytes)}; give --budget {enough_mib}MiB, free memory, or "
        "choose a smaller model"
    )
