"""Which transformers class a config gets: one of its own auto-class mappings decides.

A config's text never becomes a name that is looked up: ``architectures`` only chooses between
classes that a mapping gives for this type of config. Every task the mappings know has one name
here. Covers the choice only; ``skeleton`` builds.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

from h2q_notebook.errors import BadArgument, ModelRefused
from h2q_notebook.units import shorten

__all__ = ["TASKS", "Choice", "choose", "tasks_of"]

# Read in this order when ``architectures`` is matched, so pretraining, whose mapping repeats the
# language models' classes, comes last.
TASKS: dict[str, tuple[str, ...]] = {
    "causal-lm": ("CAUSAL_LM",),
    "seq2seq": ("SEQ_TO_SEQ_CAUSAL_LM",),
    "masked-lm": ("MASKED_LM",),
    "sequence-classification": ("SEQUENCE_CLASSIFICATION",),
    "token-classification": ("TOKEN_CLASSIFICATION",),
    "question-answering": ("QUESTION_ANSWERING",),
    "multiple-choice": ("MULTIPLE_CHOICE",),
    "next-sentence-prediction": ("NEXT_SENTENCE_PREDICTION",),
    "image-text-to-text": ("IMAGE_TEXT_TO_TEXT",),
    "multimodal-lm": ("MULTIMODAL_LM",),
    "speech-to-text": ("SPEECH_SEQ_2_SEQ", "CTC", "RNNT", "TDT"),
    "text-to-speech": ("TEXT_TO_SPECTROGRAM", "TEXT_TO_WAVEFORM"),
    "audio-classification": ("AUDIO_CLASSIFICATION",),
    "audio-frame-classification": ("AUDIO_FRAME_CLASSIFICATION",),
    "audio-xvector": ("AUDIO_XVECTOR",),
    "image-classification": ("IMAGE_CLASSIFICATION",),
    "zero-shot-image-classification": ("ZERO_SHOT_IMAGE_CLASSIFICATION",),
    "image-segmentation": (
        "IMAGE_SEGMENTATION", "SEMANTIC_SEGMENTATION", "INSTANCE_SEGMENTATION",
        "UNIVERSAL_SEGMENTATION",
    ),
    "mask-generation": ("MASK_GENERATION",),
    "object-detection": ("OBJECT_DETECTION",),
    "zero-shot-object-detection": ("ZERO_SHOT_OBJECT_DETECTION",),
    "depth-estimation": ("DEPTH_ESTIMATION",),
    "normal-estimation": ("NORMAL_ESTIMATION",),
    "pointmap-estimation": ("POINTMAP_ESTIMATION",),
    "pose-estimation": ("POSE_ESTIMATION",),
    "image-matting": ("IMAGE_MATTING",),
    "text-recognition": ("TEXT_RECOGNITION",),
    "table-recognition": ("TABLE_RECOGNITION",),
    "retrieval": ("RETRIEVAL",),
    "image-to-image": ("IMAGE_TO_IMAGE",),
    "masked-image-modeling": ("MASKED_IMAGE_MODELING",),
    "keypoint-detection": ("KEYPOINT_DETECTION",),
    "keypoint-matching": ("KEYPOINT_MATCHING",),
    "video-classification": ("VIDEO_CLASSIFICATION",),
    "visual-question-answering": ("VISUAL_QUESTION_ANSWERING",),
    "document-question-answering": ("DOCUMENT_QUESTION_ANSWERING",),
    "table-question-answering": ("TABLE_QUESTION_ANSWERING",),
    "time-series-prediction": ("TIME_SERIES_PREDICTION",),
    "embeddings": ("", "TEXT_ENCODING"),
    "backbone": ("BACKBONE",),
    "pretraining": ("PRETRAINING",),
}  # fmt: skip
"""Each task and the mappings that serve it: ``X`` stands for ``MODEL_FOR_X_MAPPING``, "" for
``MODEL_MAPPING`` (the base model). A mapping the installed transformers lacks counts as empty."""

# What pipelines, model cards and people call them.
_ALIASES = {
    "text-generation": "causal-lm",
    "text2text-generation": "seq2seq",
    "summarization": "seq2seq",
    "translation": "seq2seq",
    "fill-mask": "masked-lm",
    "text-classification": "sequence-classification",
    "ner": "token-classification",
    "feature-extraction": "embeddings",
    "image-feature-extraction": "embeddings",
    "sentence-similarity": "embeddings",
    "automatic-speech-recognition": "speech-to-text",
    "text-to-audio": "text-to-speech",
}


@dataclass(frozen=True, slots=True)
class Choice:
    """A task, and the class that does it."""

    task: str
    """One of ``TASKS``."""
    model_class: Any


def choose(config: Any, task: str | None = None) -> Choice:
    """Choose the class for a config.

    Args:
        config: of a class of transformers.
        task: one of ``TASKS`` or a pipeline's name for it; None for what ``architectures`` names,
            else the causal language model, else the base model.

    Raises:
        BadArgument: the model has no such task; names those it has.
        ModelRefused: no mapping has a class for this config.
    """
    if task is not None:
        return _asked(config, task)
    named = _named(config)
    first: dict[str, Any] = {}
    for name in TASKS:
        classes = _classes(config, name)
        for one in classes:
            if one.__name__ == named:
                return Choice(name, one)
        if classes:
            first[name] = classes[0]
    for name in ("causal-lm", "embeddings", *first):
        if name in first:
            return Choice(name, first[name])
    raise ModelRefused(
        f"config.json: transformers has no model for model_type {shorten(config.model_type)!r} "
        "alone; give the directory of the whole model it is a part of"
    )


def tasks_of(config: Any) -> tuple[str, ...]:
    """The tasks a model of this config can be loaded for."""
    return tuple(name for name in TASKS if _classes(config, name))


def _asked(config: Any, task: str) -> Choice:
    wanted = task.strip().lower().replace("_", "-")
    wanted = _ALIASES.get(wanted, wanted)
    classes = _classes(config, wanted) if wanted in TASKS else ()
    if not classes:
        own = tasks_of(config)
        near = difflib.get_close_matches(wanted, own, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise BadArgument(
            f"--task: {shorten(task)!r} is no task of a {shorten(config.model_type)} model; "
            f"{hint}it has {', '.join(own) or 'none'}"
        )
    named = _named(config)
    return Choice(wanted, next((one for one in classes if one.__name__ == named), classes[0]))


def _named(config: Any) -> str | None:
    names = getattr(config, "architectures", None)
    first = names[0] if isinstance(names, (list, tuple)) and names else None
    return first if isinstance(first, str) else None


def _classes(config: Any, task: str) -> tuple[Any, ...]:
    """The classes of one task for this config, the usual one first."""
    from transformers.models.auto import modeling_auto

    found: list[Any] = []
    for kind in TASKS[task]:
        name = f"MODEL_FOR_{kind}_MAPPING" if kind else "MODEL_MAPPING"
        mapping = getattr(modeling_auto, name, None)
        # ``get`` imports this model's own module only, never the other few hundred.
        classes = None if mapping is None else mapping.get(type(config), None)
        if classes is not None:
            found += classes if isinstance(classes, (list, tuple)) else [classes]
    return tuple(found)
