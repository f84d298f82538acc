"""One load: convert if need be, structure, weights, optimise, validate.

Covers what is done to one model in one form. Which model, in which form and whether at all is
``loader``'s.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from h2q_notebook.errors import ModelRefused
from h2q_notebook.load.answers import probe
from h2q_notebook.load.companions import companions
from h2q_notebook.load.facts import ModelFacts
from h2q_notebook.load.forms import needs_conversion
from h2q_notebook.load.heap import give_back, prompt_returns
from h2q_notebook.load.ladder import Rung
from h2q_notebook.load.lazy import ReadSource, Source
from h2q_notebook.load.mapped import MappedSource
from h2q_notebook.load.offload import stream_layers
from h2q_notebook.load.quantising import QuantisedSource
from h2q_notebook.load.quiet import quiet
from h2q_notebook.load.reading import PieceReader
from h2q_notebook.load.skeleton import torch_dtype
from h2q_notebook.load.stages import Stage
from h2q_notebook.load.structures import Structures
from h2q_notebook.load.swap import finish, make_class, plan_swaps
from h2q_notebook.load.watch import Watch
from h2q_notebook.units import format_bytes, shorten

__all__ = ["LoadJob"]

_SYNC = "HF_DEACTIVATE_ASYNC_LOAD"
_ENVIRONMENT = threading.Lock()
_REPORTS = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")


class LoadJob:
    """One load in progress; ``model``, ``tokenizer``, ``processor`` and ``notes`` are its result.

    Args:
        structures: of an inspected safetensors directory.
        rung: the form to load.
        device: a torch device.
        watch: asked before each tensor and at every piece.
        on_bytes: told the bytes of each piece.
        keep_bytes: how much of an offloaded model's layers may stay in memory.
    """

    def __init__(
        self,
        structures: Structures,
        rung: Rung,
        device: str,
        watch: Watch,
        on_bytes: Callable[[int], None],
        *,
        keep_bytes: int = 0,
    ) -> None:
        self._structures = structures
        self._facts = structures.facts
        self._rung = rung
        self._device = device
        self._watch = watch
        self._on_bytes = on_bytes
        self._keep_bytes = keep_bytes
        self._source: Source | None = None
        self._file_backed = rung.kind in ("mapped", "offload")
        self._swaps: dict[str, str] = {}
        self.converted = False
        """Whether a mappable form was written first."""
        self.task = ""
        self.model: Any = None
        self.tokenizer: Any = None
        self.processor: Any = None
        self.notes: list[str] = []

    def conversion_bytes(self) -> int:
        """What has to be written before the weights can be mapped; 0 where nothing has."""
        if not self._file_backed or not needs_conversion(self._structures.fillings(self._dtype)):
            return 0
        converted = self._structures.converted(self._dtype)
        return 0 if converted.ready else converted.disk_bytes

    def conversion(self) -> Sequence[Stage]:
        """The stage that writes the mappable form, if there is one to write."""
        n_bytes = self.conversion_bytes()
        if not n_bytes:
            return ()
        converted = self._structures.converted(self._dtype)

        def run() -> None:
            converted.run(self._watch, self._on_bytes)
            self.converted = True
            self.notes.append(
                f"a form that can be mapped was written once to {converted.folder} "
                f"({format_bytes(n_bytes)}); later loads start from there"
            )

        return (Stage("convert", run, converted.undo),)

    def stages(self) -> Sequence[Stage]:
        """The stages after a conversion, each with its undo."""
        return (
            Stage("structure", self._structure, self._drop_structure),
            Stage("weights", self._weights, self._drop_model),
            Stage("optimise", self._optimise, self._drop_companions),
            Stage("validate", self._validate, self._drop_model),
        )

    @property
    def _dtype(self) -> str:
        return self._rung.dtype

    def _structure(self) -> None:
        """Everything that can be refused before a weight is read."""
        _second_opinion(self._facts)
        skeleton = self._structures.skeleton(self._dtype)
        fillings = self._structures.fillings(self._dtype)
        self.task = skeleton.task
        if self._file_backed:
            facts, unchecked = self._facts, True
            if needs_conversion(fillings):
                facts, fillings = self._structures.converted(self._dtype).mappable()
                unchecked = False
            reader = PieceReader(facts, self._watch, self._on_bytes)
            self._source = MappedSource(
                fillings, facts, reader, self._on_bytes, unchecked=unchecked
            )
            return
        reader = PieceReader(self._facts, self._watch, self._on_bytes)
        if self._rung.kind == "full":
            self._source = ReadSource(fillings, reader)
            return
        self._swaps = plan_swaps(skeleton.model, self._rung.kind)
        try:
            self._source = QuantisedSource(fillings, reader, self._swaps)
        except BaseException:
            reader.close()
            raise

    def _drop_structure(self) -> None:
        if self._source is not None:
            self._source.close()
        self._source = None
        self._structures.drop()

    def _weights(self) -> None:
        skeleton, source = self._structures.skeleton(self._dtype), self._source
        assert source is not None, "the structure stage comes first"
        model_class = skeleton.model_class
        quantised = self._rung.kind in ("int8", "int4")
        maker = make_class(model_class, self._rung.kind) if quantised else model_class
        placement = {} if self._device == "cpu" else {"device_map": {"": self._device}}
        with prompt_returns(), _one_by_one(), quiet():
            self.model, info = maker.from_pretrained(
                None,
                config=skeleton.config,
                state_dict=source,
                dtype=torch_dtype(self._dtype),
                output_loading_info=True,
                **placement,
            )
        for field in _REPORTS:
            if info.get(field):
                first = shorten(str(sorted(map(str, info[field]))[0]), 160)
                raise ModelRefused(
                    f"{os.path.basename(self._facts.shards[0].path)}: transformers reports "
                    f"{field}: {first}; config.json belongs to another model"
                )
        if quantised:
            finish(self.model, model_class)
        self._drop_structure()

    def _drop_model(self) -> None:
        self.model = None

    def _optimise(self) -> None:
        """Ready to use: no gradients, its own generation settings, name, tokenizer, processor."""
        model = self.model
        model.eval()
        model.requires_grad_(False)
        # An empty list here would make save_pretrained write fused experts under names that no
        # other program knows; without it transformers derives the hub's layout again.
        if hasattr(model, "_weight_conversions"):
            del model._weight_conversions
        model.name_or_path = model.config._name_or_path = self._facts.path
        found = companions(self._facts, model.config)
        if found.generation_config is not None and model.can_generate():
            model.generation_config = found.generation_config
        self.tokenizer, self.processor = found.tokenizer, found.processor
        self.notes += found.notes
        if self._rung.kind == "offload":
            streamed = stream_layers(model, self._keep_bytes)
            self.notes.append(
                f"{format_bytes(streamed)} of its layers are read from disk again at every pass"
                if streamed
                else "all of its layers fit, so none is read again at every pass"
            )
        self._watch.check()

    def _drop_companions(self) -> None:
        self.tokenizer = self.processor = None
        self.notes.clear()

    def _validate(self) -> None:
        """A model that answers: nothing left on meta, finite values on a probe."""
        for name, tensor in (*self.model.named_parameters(), *self.model.named_buffers()):
            if tensor.device.type == "meta":
                raise ModelRefused(
                    f"{self._facts.model_type}: parameter {shorten(name)!r} got no weights; "
                    "the directory is incomplete"
                )
        with quiet():
            note = probe(self.model, self.task)
        # The last question is asked in here: what ends the load after its stages is not undone.
        self._watch.check()
        give_back(collect=False)
        if note:
            self.notes.append(note)


def _second_opinion(facts: ModelFacts) -> None:
    """Safetensors' own view of the headers, beside ours; mappings that are closed at once."""
    from safetensors import safe_open

    for shard in facts.shards:
        try:
            with safe_open(shard.path, framework="pt"):
                pass
        except Exception as error:
            raise ModelRefused(
                f"{os.path.basename(shard.path)}: safetensors refuses its header "
                f"({shorten(str(error), 160)}); fetch it again"
            ) from None


@contextmanager
def _one_by_one() -> Iterator[None]:
    """Load without transformers' thread pool, which reads ahead without bound.

    The variable is process-wide, so loads take turns here.
    """
    with _ENVIRONMENT:
        before = os.environ.get(_SYNC)
        os.environ[_SYNC] = "1"
        try:
            yield
        finally:
            if before is None:
                os.environ.pop(_SYNC, None)
            else:
                os.environ[_SYNC] = before
