"""The model's structure without its weights: config, class and a skeleton on torch's meta device.

Nothing is read from the directory again: the config is built from what was inspected. The
skeleton takes no memory for weights, whatever the model's size, and every parameter and buffer has
the dtype ``from_pretrained`` gives it (some models keep routers or norms in fp32).
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from h2q_notebook.errors import H2QError, MissingExtra, ModelRefused
from h2q_notebook.load.classes import choose
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
    task: str = "causal-lm"
    """One of ``classes.TASKS``."""


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


def build_skeleton(
    facts: ModelFacts,
    dtype: str,
    *,
    task: str | None = None,
    prepare: Callable[[Any], None] | None = None,
) -> Skeleton:
    """Build the structure of an inspected model in one dtype.

    Args:
        facts: from ``directory.inspect``.
        dtype: ``fp32``, ``bf16`` or ``fp16``.
        task: which of the model's classes; None for the one its config names.
        prepare: applied to the model on the meta device before its weights are tied.

    Raises:
        BadArgument: the model has no such task.
        ModelRefused: transformers has no such model, or cannot build one from this config.
        MissingExtra: torch or transformers is not installed.
    """
    torch = import_torch()
    from transformers import CONFIG_MAPPING

    if facts.model_type not in CONFIG_MAPPING:
        raise ModelRefused(
            f"config.json: model_type {shorten(facts.model_type)!r} is not known to the installed "
            "transformers; update transformers or use another model"
        )
    default = torch.get_default_dtype()
    try:
        config = CONFIG_MAPPING[facts.model_type].from_dict(json.loads(facts.config_json))
        choice = choose(config, task)
        wanted = torch_dtype(dtype)
        _set_dtype(config, wanted)
        # Half-precision defaults make the same buffers and parameters as from_pretrained does.
        torch.set_default_dtype(wanted)
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = choice.model_class(config)
        _keep_in_fp32(model, wanted)
        if prepare is not None:
            prepare(model)
        model.tie_weights()
    except H2QError:
        raise
    except Exception as error:
        raise _unbuildable(facts, error) from None
    finally:
        torch.set_default_dtype(default)
    return Skeleton(config, choice.model_class, model.eval(), dtype, choice.task)


def _set_dtype(config: Any, wanted: Any) -> None:
    """As ``from_pretrained`` does: the parts of a composite model take the dtype of the whole."""
    config.dtype = wanted
    for name in config.sub_configs:
        part = getattr(config, name, None)
        if part is not None:
            part.dtype = wanted


def _keep_in_fp32(model: Any, wanted: Any) -> None:
    """Give the parameters a model never keeps in half precision the dtype they will have."""
    import torch

    names: list[str] = []
    if wanted is torch.float16:
        names += model._keep_in_fp32_modules or ()
    if wanted in (torch.float16, torch.bfloat16):
        names += model._keep_in_fp32_modules_strict or ()
    if not names:
        return
    # Patterns with a glob's star, searched anywhere in the name: transformers' own rule.
    pattern = re.compile("|".join(name.replace("*", ".*") for name in names))
    for name, tensor in model.state_dict(keep_vars=True).items():
        if tensor.is_floating_point() and pattern.search(name):
            tensor.data = tensor.data.to(torch.float32)


def _unbuildable(facts: ModelFacts, error: Exception) -> ModelRefused:
    return ModelRefused(
        f"config.json: transformers cannot build a {shorten(facts.model_type)} model from it "
        f"({type(error).__name__}: {shorten(str(error), 160)}); correct the config"
    )
