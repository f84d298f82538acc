"""Which modules of a model are quantised, and putting quantised ones in their place.

Linear layers and fused experts of transformers' plain pattern. Left as they are: everything else,
tied layers, layers that the model keeps in fp32, odd shapes, and parameters that transformers
builds by a conversion other than stacking experts. Fills nothing: ``quantising`` does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from h2q_notebook.load import int4, int8
from h2q_notebook.load.quantised import Form, is_quantised, scale_name

__all__ = ["FORMS", "finish", "make_class", "plan_swaps", "swap_modules"]

FORMS: dict[str, Form] = {"int8": int8.INT8, "int4": int4.INT4}

_PATTERN = {
    "has_gate": True, "has_bias": False, "is_transposed": False, "is_concatenated": True,
    "has_post_expert_norm": False,
}  # fmt: skip
"""What transformers' decorator notes on experts of the plain pattern."""


def plan_swaps(model: Any, kind: str) -> dict[str, str]:
    """The modules to replace, by name, with the form of each.

    Args:
        model: a plain one, on meta or not.
        kind: ``int8`` or ``int4``; what does not suit int4, and an untied lm_head, becomes int8.
    """
    import torch

    stays = _stays(model)
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    found: dict[str, str] = {}
    for name, module in model.named_modules():
        if type(module) is torch.nn.Linear:
            weights = {"weight": module.weight}
        elif _are_plain_experts(module):
            weights = {"gate_up_proj": module.gate_up_proj, "down_proj": module.down_proj}
        else:
            continue
        if not name or any(stays(f"{name}.{one}") for one in weights):
            continue
        kinds = ("int8",) if kind == "int8" or module is head else ("int4", "int8")
        shapes = [tuple(weight.shape[-2:]) for weight in weights.values()]
        for one in kinds:
            if all(FORMS[one].suits(*shape) for shape in shapes):
                found[name] = one
                break
    return found


def swap_modules(model: Any, kind: str) -> tuple[str, ...]:
    """Replace them in place; real weights are quantised, on meta there is nothing to do.

    Returns:
        The names of the replaced modules.
    """
    plan = plan_swaps(model, kind)
    for name, one in plan.items():
        original = model.get_submodule(name)
        room = {"int8": int8, "int4": int4}[one]
        suffix = "Linear" if hasattr(original, "weight") else "Experts"
        quantised = getattr(room, one.capitalize() + suffix)(original)
        quantised.train(original.training)
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, quantised)
    return tuple(plan)


def make_class(model_class: Any, kind: str) -> Any:
    """A class for ``from_pretrained(None, config=..., state_dict=...)``; see ``finish``."""

    def init(self: Any, config: Any, *args: Any, **more: Any) -> None:
        model_class.__init__(self, config, *args, **more)
        swap_modules(self, kind)

    # The same name and module: transformers looks at both.
    members = {"__init__": init, "__module__": model_class.__module__}
    return type(model_class.__name__, (model_class,), members)


def finish(model: Any, model_class: Any) -> None:
    """Make a loaded model one of *model_class*, whose ``state_dict`` has plain weights."""
    for module in model.modules():
        if is_quantised(module):
            module.h2q_exports = True
            for name in module.names:
                # transformers lets every float parameter that it sets have gradients.
                getattr(module, scale_name(name)).requires_grad_(False)
    model.__class__ = model_class


def _are_plain_experts(module: Any) -> bool:
    known = all(getattr(module, name, None) is value for name, value in _PATTERN.items())
    if not known or set(dict(module.named_parameters())) != {"gate_up_proj", "down_proj"}:
        return False
    up, down = module.gate_up_proj.shape, module.down_proj.shape
    return len(up) == len(down) == 3 and tuple(down) == (up[0], up[2], up[1] // 2)


def _stays(model: Any) -> Any:
    """A test of parameter names: tied, kept in fp32, or converted in a way of its own."""
    tied: dict[str, str] = getattr(model, "all_tied_weights_keys", None) or {}
    names = {*tied, *tied.values()}
    kept = [
        *(getattr(model, "_keep_in_fp32_modules", None) or ()),
        *(getattr(model, "_keep_in_fp32_modules_strict", None) or ()),
    ]
    patterns = [name.replace("*", ".*") for name in kept]
    patterns += _converted(model)
    pattern = re.compile("|".join(f"(?:{one})" for one in patterns)) if patterns else None
    return lambda name: name in names or bool(pattern and pattern.search(name))


def _converted(model: Any) -> Iterator[str]:
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import Concatenate, MergeModulelist, WeightConverter

    if not hasattr(model, "config"):
        return
    for entry in get_model_conversion_mapping(model):
        if isinstance(entry, WeightConverter) and not all(
            isinstance(step, (MergeModulelist, Concatenate)) for step in entry.operations
        ):
            yield from entry.target_patterns
