"""What comes beside a model: tokenizer (with its chat template), processor, generation settings.

From files of the model's own directory only, which ``side_files`` has looked through: nothing is
fetched and no code of the directory runs. What is absent, or needs a library that is not installed,
costs a note and never the model, which by then has cost far more.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from h2q_notebook.errors import H2QError
from h2q_notebook.load.facts import ModelFacts
from h2q_notebook.load.quiet import quiet
from h2q_notebook.load.safe_json import read_object
from h2q_notebook.units import MIB, shorten

__all__ = ["Companions", "companions"]


@dataclass(frozen=True, slots=True)
class Companions:
    """What was found."""

    tokenizer: Any | None = None
    processor: Any | None = None
    """A processor, image processor or feature extractor, whichever the model has."""
    generation_config: Any | None = None
    notes: tuple[str, ...] = ()


def companions(facts: ModelFacts, config: Any) -> Companions:
    """Load what a model's directory holds beside its weights.

    Args:
        facts: the inspected directory.
        config: the model's config; the one in the directory is not read again.
    """
    notes: list[str] = []
    with quiet():
        processor = _processor(facts, config, notes) if facts.has_processor else None
        tokenizer = getattr(processor, "tokenizer", None)
        if tokenizer is None and facts.has_tokenizer:
            tokenizer = _tokenizer(facts, config, notes)
        generation = _generation_config(facts, notes)
    if tokenizer is None and processor is None and not notes:
        wants = "processor" if _takes_pictures_or_sound(config) else "tokenizer"
        notes.append(f"the directory has no {wants}; only the model was bound")
    return Companions(tokenizer, processor, generation, tuple(notes))


def _tokenizer(facts: ModelFacts, config: Any, notes: list[str]) -> Any | None:
    from transformers import AutoTokenizer

    return _attempt([AutoTokenizer], "tokenizer", facts, notes, config=config)


def _processor(facts: ModelFacts, config: Any, notes: list[str]) -> Any | None:
    from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoProcessor

    settings = _settings(facts)
    ways: list[Any] = []
    # A whole processor is made around a tokenizer. Without one transformers invents an empty one,
    # and where it has no processor class it hides which library the parts would have needed.
    if facts.has_tokenizer and ("processor_class" in settings or _has_processor_class(config)):
        ways.append(AutoProcessor)
    if "feature_extractor_type" in settings and "image_processor_type" not in settings:
        ways.append(AutoFeatureExtractor)
    else:
        ways += [AutoImageProcessor, AutoFeatureExtractor]
    return _attempt(ways, "processor", facts, notes, config=config)


def _generation_config(facts: ModelFacts, notes: list[str]) -> Any | None:
    if not os.path.exists(os.path.join(facts.path, "generation_config.json")):
        return None
    from transformers import GenerationConfig

    return _attempt([GenerationConfig], "generation config", facts, notes)


def _attempt(
    ways: list[Any], what: str, facts: ModelFacts, notes: list[str], **more: Any
) -> Any | None:
    """From the first class that works; else a note with the first one's reason.

    Classes, not their methods: where pillow is absent, transformers' placeholder for one raises as
    soon as its ``from_pretrained`` is looked up.
    """
    reason = ""
    if more:
        more["trust_remote_code"] = False
    for way in ways:
        try:
            return way.from_pretrained(facts.path, local_files_only=True, **more)
        except (H2QError, MemoryError):
            raise
        except Exception as error:
            first_line = str(error).strip().partition("\n")[0]
            reason = reason or f"{type(error).__name__}: {shorten(first_line, 160)}"
    notes.append(f"the directory's {what} could not be loaded ({reason}); the model works without")
    return None


def _settings(facts: ModelFacts) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in ("preprocessor_config.json", "processor_config.json"):
        path = os.path.join(facts.path, name)
        if os.path.exists(path):
            found |= read_object(path, name, max_bytes=64 * MIB)
    return found


def _has_processor_class(config: Any) -> bool:
    return _known(config, "processing_auto", "PROCESSOR_MAPPING_NAMES")


def _takes_pictures_or_sound(config: Any) -> bool:
    return _known(config, "feature_extraction_auto", "FEATURE_EXTRACTOR_MAPPING_NAMES") or _known(
        config, "image_processing_auto", "IMAGE_PROCESSOR_MAPPING_NAMES"
    )


def _known(config: Any, module: str, names: str) -> bool:
    # The names, not the mapping: where pillow or torchvision is absent, transformers puts
    # placeholders in the mapping's place, and in the module's own once that was tried.
    try:
        table = getattr(import_module(f"transformers.models.auto.{module}"), names)
    except (ImportError, AttributeError):
        return False
    return config.model_type in table
