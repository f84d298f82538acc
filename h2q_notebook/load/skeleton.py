"""The model's structure without its weights: config, class and a skeleton on torch's meta device.

Nothing is read from the directory again: the config is built from what was inspected. The
skeleton takes no memory for weights, whatever the model's size.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from typing import Any

from h2q_notebook.errors import MissingExtra, ModelRefused
from h2q_notebook.load.facts import ModelFacts
from h2q_notebook.units import shorten

__all__ = ["TORCH_NAMES", "Skeleton", "build_skeleton", "import_torch", "torch_dtype"]

TORCH_NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True, slots=True)
class Skeleton:
    """A model on the meta device, with what it was made from."""

    config: Any
    model_class: Any
    model: Any
    dtype: str


def import_torch() -> Any:
    """torch, once transformers is there too.

    Raises:
        MissingExtra: either is not installed.
    """
    for name in ("torch", "transformers"):
        try:
            __import__(name)
        except ImportError:
            raise MissingExtra(name, "models") from None
    import torch

    return torch


def torch_dtype(dtype: str) -> Any:
    """The torch dtype of ``fp32``, ``bf16`` or ``fp16``."""
    return getattr(import_torch(), TORCH_NAMES[dtype])


def build_skeleton(facts: ModelFacts, dtype: str) -> Skeleton:
    """Build the structure of an inspected model in one dtype.

    Raises:
        ModelRefused: transformers has no such model, or cannot build one from this config.
        MissingExtra: torch or transformers is not installed.
    """
    torch = import_torch()
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

    if facts.model_type not in CONFIG_MAPPING:
        raise ModelRefused(
            f"config.json: model_type {shorten(facts.model_type)!r} is not known to the installed "
            "transformers; update transformers or use another model"
        )
    try:
        config = CONFIG_MAPPING[facts.model_type].from_dict(json.loads(facts.config_json))
    except Exception as error:
        raise _unbuildable(facts, error) from None
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ModelRefused(
            f"config.json: model_type {shorten(facts.model_type)!r} is no text-generating model; "
            "this version loads causal language models only"
        )
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    if isinstance(model_class, (list, tuple)):
        model_class = model_class[0]
    wanted = torch_dtype(dtype)
    config.dtype = wanted
    default = torch.get_default_dtype()
    try:
        # Half-precision defaults make the same buffers and parameters as from_pretrained does.
        torch.set_default_dtype(wanted)
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = model_class(config)
        model.tie_weights()
    except Exception as error:
        raise _unbuildable(facts, error) from None
    finally:
        torch.set_default_dtype(default)
    return Skeleton(config, model_class, model.eval(), dtype)


def _unbuildable(facts: ModelFacts, error: Exception) -> ModelRefused:
    return ModelRefused(
        f"config.json: transformers cannot build a {shorten(facts.model_type)} model from it "
        f"({type(error).__name__}: {shorten(str(error), 160)}); correct the config"
    )
