"""The four stages of one load: structure, weights, optimise, validate.

Covers what is done to one model. Which model, in which form and whether at all is ``loader``'s.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from h2q_notebook.errors import ModelRefused
from h2q_notebook.load.facts import ModelFacts
from h2q_notebook.load.heap import give_back, prompt_returns
from h2q_notebook.load.lazy import ReadSource, Source
from h2q_notebook.load.mapping import map_weights
from h2q_notebook.load.reading import PieceReader
from h2q_notebook.load.skeleton import Skeleton, build_skeleton, torch_dtype
from h2q_notebook.load.stages import Stage
from h2q_notebook.load.watch import Watch
from h2q_notebook.units import shorten

__all__ = ["LoadJob"]

_SYNC = "HF_DEACTIVATE_ASYNC_LOAD"
_ENVIRONMENT = threading.Lock()
_PROBE_TOKENS = 4


class LoadJob:
    """One load in progress; ``model``, ``tokenizer`` and ``notes`` are its result.

    Args:
        facts: an inspected safetensors directory.
        dtype: ``fp32``, ``bf16`` or ``fp16``.
        device: a torch device.
        watch: asked before each tensor and at every piece.
        on_bytes: told the bytes of each piece.
    """

    def __init__(
        self,
        facts: ModelFacts,
        dtype: str,
        device: str,
        watch: Watch,
        on_bytes: Callable[[int], None],
    ) -> None:
        self._facts = facts
        self._dtype = dtype
        self._device = device
        self._watch = watch
        self._on_bytes = on_bytes
        self._skeleton: Skeleton | None = None
        self._source: Source | None = None
        self.model: Any = None
        self.tokenizer: Any = None
        self.notes: list[str] = []

    def stages(self) -> Sequence[Stage]:
        """The stages in order, each with its undo."""
        return (
            Stage("structure", self._structure, self._drop_structure),
            Stage("weights", self._weights, self._drop_model),
            Stage("optimise", self._optimise, self._drop_tokenizer),
            Stage("validate", self._validate, self._drop_model),
        )

    def _structure(self) -> None:
        """Everything that can be refused before a weight is read."""
        from safetensors import safe_open

        for shard in self._facts.shards:
            try:
                # safetensors' own opinion, beside ours; a mapping that is closed at once.
                with safe_open(shard.path, framework="pt"):
                    pass
            except Exception as error:
                raise ModelRefused(
                    f"{os.path.basename(shard.path)}: safetensors refuses its header "
                    f"({shorten(str(error), 160)}); fetch it again"
                ) from None
        self._skeleton = build_skeleton(self._facts, self._dtype)
        fillings = map_weights(self._facts, self._skeleton)
        reader = PieceReader(self._facts, self._watch, self._on_bytes)
        self._source = ReadSource(fillings, reader)

    def _drop_structure(self) -> None:
        if self._source is not None:
            self._source.close()
        self._source = self._skeleton = None

    def _weights(self) -> None:
        skeleton, source = self._skeleton, self._source
        assert skeleton is not None, "the structure stage comes first"
        placement = {} if self._device == "cpu" else {"device_map": {"": self._device}}
        with prompt_returns(), _one_by_one():
            self.model, info = skeleton.model_class.from_pretrained(
                None,
                config=skeleton.config,
                state_dict=source,
                dtype=torch_dtype(self._dtype),
                output_loading_info=True,
                **placement,
            )
        for field in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
            if info.get(field):
                first = shorten(str(sorted(map(str, info[field]))[0]), 160)
                raise ModelRefused(
                    f"{os.path.basename(self._facts.shards[0].path)}: transformers reports "
                    f"{field}: {first}; config.json belongs to another model"
                )
        self._drop_structure()

    def _drop_model(self) -> None:
        self.model = None

    def _optimise(self) -> None:
        """Ready to use: no gradients, its own generation settings, name and tokenizer."""
        model, where = self.model, Path(self._facts.path)
        model.eval()
        model.requires_grad_(False)
        # An empty list here would make save_pretrained write fused experts under names that no
        # other program knows; without it transformers derives the hub's layout again.
        if hasattr(model, "_weight_conversions"):
            del model._weight_conversions
        model.name_or_path = model.config._name_or_path = str(where)
        if (where / "generation_config.json").exists():
            from transformers import GenerationConfig

            model.generation_config = GenerationConfig.from_pretrained(
                str(where), local_files_only=True
            )
        if self._facts.has_tokenizer:
            from transformers import AutoTokenizer

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.tokenizer = AutoTokenizer.from_pretrained(
                    str(where), trust_remote_code=False, local_files_only=True
                )
        else:
            self.notes.append("the directory has no tokenizer; only the model was bound")
        self._watch.check()
        give_back()

    def _drop_tokenizer(self) -> None:
        self.tokenizer = None
        self.notes.clear()

    def _validate(self) -> None:
        """A model that answers: nothing left on meta, finite logits on a probe."""
        import torch

        for name, tensor in (*self.model.named_parameters(), *self.model.named_buffers()):
            if tensor.device.type == "meta":
                raise ModelRefused(
                    f"{self._facts.model_type}: parameter {shorten(name)!r} got no weights; "
                    "the directory is incomplete"
                )
        n_tokens = min(_PROBE_TOKENS, int(self.model.config.get_text_config().vocab_size))
        ids = torch.arange(n_tokens, device=self.model.device).unsqueeze(0)
        with torch.no_grad():
            logits = self.model(input_ids=ids, use_cache=False).logits
        self._watch.check()
        if not bool(torch.isfinite(logits).all()):
            hint = "; try --dtype bf16" if self._dtype == "fp16" else ""
            raise ModelRefused(
                f"{self._facts.model_type}: the model's answer to a probe is not finite in "
                f"{self._dtype}{hint}"
            )


@contextmanager
def _one_by_one() -> Iterator[None]:
    """Load without transformers' thread pool (it reads ahead without bound), bars and loading logs.

    The variable is process-wide, so loads take turns here.
    """
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging

    with _ENVIRONMENT:
        before = os.environ.get(_SYNC)
        bars = logging.is_progress_bar_enabled()
        level = logging.get_verbosity()
        os.environ[_SYNC] = "1"
        logging.disable_progress_bar()
        logging.set_verbosity_error()
        try:
            yield
        finally:
            logging.set_verbosity(level)
            if bars:
                logging.enable_progress_bar()
            if before is None:
                os.environ.pop(_SYNC, None)
            else:
                os.environ[_SYNC] = before
