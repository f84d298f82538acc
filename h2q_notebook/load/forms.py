"""What every rung of the ladder would take for one model: exact bytes, and how they are got.

Plain forms are the skeleton's own bytes. Quantised ones are counted module by module, as they will
be stored: what cannot be quantised stays plain. Mapped ones take what their file cannot give.
Decides nothing (``ladder`` does) and reads no weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from h2q_notebook.load.estimate import READ_BYTES, Estimate, around_weights_bytes, curve, estimate
from h2q_notebook.load.kv_cache import size_of
from h2q_notebook.load.ladder import Kind, Rung, StepName
from h2q_notebook.load.mapped import can_map
from h2q_notebook.load.mapping import Filling
from h2q_notebook.load.placement import Device
from h2q_notebook.load.prices import prices
from h2q_notebook.load.probe import why_not
from h2q_notebook.load.quantised import block_rows
from h2q_notebook.load.structures import Structures
from h2q_notebook.load.swap import FORMS, plan_swaps
from h2q_notebook.places import cache_root
from h2q_notebook.units import format_bytes

__all__ = ["Asked", "Forms", "needs_conversion"]

_CPU = Device("cpu", None)

_MAPPABLE = 0.95
"""Below this share a file is converted rather than mapped as it is."""


@dataclass(frozen=True, slots=True)
class Asked:
    """In what form a model is wanted, and what for."""

    dtype: str
    """``fp32``, ``bf16`` or ``fp16``."""
    device: Device = _CPU
    context_tokens: int = 4096
    batch: int = 1


class Forms:
    """The rungs of one model.

    Args:
        structures: of the inspected directory, or of a config alone.
        asked: dtype, device, context and batch.
        disk_bytes: what a conversion to a dtype that comes before any load (of a GGUF) writes.
        count: count a pass over the prompt; else run figures are rough.
    """

    def __init__(
        self,
        structures: Structures,
        asked: Asked,
        *,
        disk_bytes: Callable[[str], int] = lambda _: 0,
        count: bool = False,
    ) -> None:
        self._structures = structures
        self._facts = structures.facts
        self._asked = asked
        self._disk_bytes = disk_bytes
        self._count = count
        self._figures: dict[str, Estimate] = {}
        self._on_cpu = asked.device.name == "cpu"

    def figures(self, dtype: str) -> Estimate:
        """The plain model in *dtype*."""
        if dtype not in self._figures:
            self._figures[dtype] = estimate(
                self._facts,
                dtype,
                context_tokens=self._asked.context_tokens,
                batch=self._asked.batch,
                count=self._count,
                skeleton=self._structures.skeleton(dtype),
            )
        return self._figures[dtype]

    def rungs(self, steps: Sequence[StepName]) -> Iterator[Rung]:
        """One rung for each step that means something for this model, in their order.

        Each is worked out when it is asked for: a load that fits in full looks no further.
        """
        has_half = False
        for step in steps:
            # From another half-precision type there is nothing to gain by bf16.
            if step in ("full", "bf16"):
                dtype = self._asked.dtype if step == "full" else "bf16"
                if step == "bf16" and has_half:
                    continue
                has_half = has_half or dtype != "fp32"
                rung = self._full(dtype)
            elif step in ("int8", "int4"):
                rung = self._quantised(step)
            else:
                rung = self._file_backed(step)
            speed, quality = prices(rung.kind)
            yield replace(
                rung,
                disk_bytes=rung.disk_bytes + self._disk_bytes(rung.dtype),
                speed=speed,
                quality=quality,
            )

    def curve(self, rung: Rung) -> tuple[tuple[int, int], ...]:
        """Run peaks of *rung* over contexts around the one asked for: tokens and bytes."""
        skeleton = self._structures.skeleton(rung.dtype)
        asked, longest = self._asked.context_tokens, _positions(skeleton.config)
        contexts = {max(asked // 4, 1), max(asked // 2, 1), asked, asked * 3 // 2, asked * 2}
        kept = sorted(one for one in contexts if one <= max(longest, asked))
        return curve(skeleton, rung.resident_bytes, kept, self._asked.batch)

    def _full(self, dtype: str) -> Rung:
        figures = self.figures(dtype)
        held = Rung(
            name=dtype,
            kind="full",
            dtype=dtype,
            resident_bytes=figures.weights_bytes,
            load_peak_bytes=figures.load_peak_bytes + self._library_bytes(dtype),
            run_peak_bytes=figures.run_peak_bytes,
        )
        if self._on_cpu:
            return held
        # Each tensor passes through memory on its way to the device.
        largest = max((one.n_bytes for one in self._fillings(dtype)), default=0)
        around = around_weights_bytes(self._facts, figures.weights_bytes)
        return replace(
            held,
            resident_bytes=around,
            load_peak_bytes=around + READ_BYTES + largest,
            run_peak_bytes=around,
            device_bytes=figures.weights_bytes,
        )

    def _quantised(self, kind: Kind) -> Rung:
        figures = self.figures("bf16")
        model = self._structures.skeleton("bf16").model
        saved = buffer = n_swapped = 0
        for name, form in plan_swaps(model, kind).items():
            module = model.get_submodule(name)
            weights = ("weight",) if hasattr(module, "weight") else ("gate_up_proj", "down_proj")
            for weight in (getattr(module, one) for one in weights):
                *lead, n_out, n_in = weight.shape
                stored, scale = FORMS[form].shapes(n_out, n_in)
                held = math.prod(lead) * (math.prod(stored) + 2 * math.prod(scale))
                saved += weight.numel() * weight.element_size() - held
                buffer = max(buffer, 4 * n_in * min(block_rows(n_in), n_out))
                n_swapped += 1
        problem = why_not(kind, "bf16", self._asked.device.name) or ""
        if not n_swapped:
            problem = "it has no layer that could be quantised"
        return Rung(
            name=kind,
            kind=kind,
            dtype="bf16",
            resident_bytes=figures.weights_bytes - saved,
            load_peak_bytes=figures.load_peak_bytes - saved + buffer,
            run_peak_bytes=figures.run_peak_bytes - saved,
            note=self._kept_plain(figures, saved),
            why_not=problem,
        )

    def _kept_plain(self, figures: Estimate, saved: int) -> str:
        embedding = dict(figures.weights_by_class)["embedding"]
        return f"embeddings ({format_bytes(embedding)}) and norms stay bf16" if saved else ""

    def _file_backed(self, kind: StepName) -> Rung:
        assert kind in ("mapped", "offload")
        dtype = self._asked.dtype
        figures = self.figures(dtype)
        around = around_weights_bytes(self._facts, figures.weights_bytes)
        held, disk, note = self._held_bytes(dtype, figures)
        peak = held + around + READ_BYTES * (2 if disk else 1)
        problem = ""
        if not self._on_cpu:
            problem = f"weights in a file are for the CPU, not for {self._asked.device.name}"
        elif held > figures.weights_bytes * (1 - _MAPPABLE):
            problem = "transformers converts its weights while they load, so they cannot stay there"
        return Rung(
            name=kind,
            kind=kind,
            dtype=dtype,
            resident_bytes=held,
            load_peak_bytes=peak,
            run_peak_bytes=figures.run_peak_bytes - figures.weights_bytes + held,
            mapped_bytes=figures.weights_bytes - held,
            disk_bytes=disk,
            note=note,
            why_not=problem,
        )

    def _held_bytes(self, dtype: str, figures: Estimate) -> tuple[int, int, str]:
        """Bytes that stay in memory, bytes to be written first, and a note on that."""
        where = f"once to {cache_root() / 'mapped'}"
        if not self._structures.has_weights:
            # Of a config alone: fused experts are what checkpoints keep apart.
            if dict(figures.weights_by_class)["experts"]:
                return 0, figures.weights_bytes, f"converted {where}"
            return 0, 0, ""
        fillings = self._fillings(dtype)
        if not needs_conversion(fillings):
            return sum(one.n_bytes for one in fillings if not can_map(one)), 0, ""
        held = sum(one.n_bytes for one in fillings if one.converts)
        converted = self._structures.converted(dtype)
        if converted.ready:
            return held, 0, "the converted form is there already"
        size = format_bytes(converted.disk_bytes)
        return held, converted.disk_bytes, f"{size} are written {where}"

    def _fillings(self, dtype: str) -> tuple[Filling, ...]:
        return self._structures.fillings(dtype) if self._structures.has_weights else ()

    def _library_bytes(self, dtype: str) -> int:
        """What transformers' own conversion of one parameter holds beside its result."""
        by_target: dict[str, int] = {}
        for one in self._fillings(dtype):
            if one.converts:
                by_target[one.target] = by_target.get(one.target, 0) + one.n_bytes
        return max(by_target.values(), default=0)


def _positions(config: Any) -> int:
    """The longest context the model was made for; a large number where it does not say."""
    return size_of(config, "max_position_embeddings", "n_positions", default=1 << 30)


def needs_conversion(fillings: Sequence[Filling]) -> bool:
    """Whether too little of a model could be mapped from the files it came in."""
    whole = sum(one.n_bytes for one in fillings)
    return sum(one.n_bytes for one in fillings if can_map(one)) < _MAPPABLE * whole
