"""Does a loaded model answer? One tiny forward for each task, and its answer must be finite.

Inputs are made from the config alone, so that neither tokenizer nor processor is needed: four
token ids, decoder ids beside them where there is a decoder, a picture of the config's size. Audio
models and whatever else wants inputs of its own kind are not run: their weights are looked at and
the caller gets a note that says so.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from h2q_notebook.errors import ModelRefused
from h2q_notebook.units import shorten

__all__ = ["probe"]

_N_TOKENS = 4
_ANY_SIDE = 64
"""Pixels a side where the config names no size, as for convolutional networks."""
_MAX_VALUES = 4 << 20
"""The largest picture: 1024 x 1024 in colour, and one more channel."""

# A failing forward of these is the model's fault; of any other, perhaps of the inputs made up here.
_TEXT = {
    "causal-lm", "seq2seq", "masked-lm", "sequence-classification", "token-classification",
    "question-answering", "multiple-choice", "next-sentence-prediction",
}  # fmt: skip
# A model with such a token takes text alone, and a picture only where its ids have that token.
_PICTURE_TOKENS = ("image_token_id", "image_token_index")


def probe(model: Any, task: str) -> str | None:
    """Ask a loaded model one tiny question.

    Args:
        model: on its device, in eval mode.
        task: one of ``classes.TASKS``.

    Returns:
        None if it answered; else a note on why only its weights were looked at.

    Raises:
        ModelRefused: the answer, or a weight, is not finite.
    """
    import torch

    kind = model.config.model_type
    inputs = _inputs(model, task)
    why = "needs inputs that cannot be made from its config" if inputs is None else ""
    if inputs is not None:
        try:
            with torch.no_grad():
                answer = model(**inputs)
        except Exception as error:
            if task in _TEXT:
                raise
            why = f"did not take the probe's inputs ({type(error).__name__})"
        else:
            if not all(_finite(tensor) for tensor in _tensors(answer)):
                what = f"is not finite in {_dtype_and_hint(model)}"
                raise ModelRefused(f"{kind}: the model's answer to a probe {what}")
            return None
    for name, tensor in model.named_parameters():
        if tensor.device.type != "meta" and not _finite(tensor):
            raise ModelRefused(
                f"{kind}: parameter {shorten(name)!r} is not finite in {_dtype_and_hint(model)}"
            )
    return f"the model {why}, so its weights were checked and no answer was asked for"


def _inputs(model: Any, task: str) -> dict[str, Any] | None:
    """Keyword arguments of one forward; None where they cannot be made up."""
    import torch

    takes = inspect.signature(model.forward).parameters
    # An offloaded model says meta, and its hooks bring inputs where they are needed.
    device = model.device if model.device.type != "meta" else torch.device("cpu")
    main = model.main_input_name
    if main not in ("input_ids", "pixel_values") or main not in takes:
        return None
    inputs: dict[str, Any] = {"use_cache": False} if "use_cache" in takes else {}
    if main == "input_ids":
        ids = _token_ids(model.config)
        if ids is None:
            return None
        shape = (1, 2, -1) if task == "multiple-choice" else (1, -1)
        inputs["input_ids"] = torch.tensor(ids, device=device).expand(shape)
        if "decoder_input_ids" in takes and model.config.is_encoder_decoder:
            start = getattr(model.config, "decoder_start_token_id", None)
            first = torch.tensor([[start or 0]], device=device)
            # A classifier over a decoder feeds it the text itself.
            classifies = task.endswith("classification") or task == "question-answering"
            inputs["decoder_input_ids"] = None if classifies else first
    optional = any(hasattr(model.config, name) for name in _PICTURE_TOKENS)
    if main == "pixel_values" or ("pixel_values" in takes and not optional):
        picture = _picture(model, device)
        if picture is None:
            return None
        inputs["pixel_values"] = picture
    return inputs


def _token_ids(config: Any) -> list[int] | None:
    """Four ordinary ids: none that stands for a picture, a sound, padding or an end."""
    try:
        text = config.get_text_config()
    except ValueError:  # two texts, and no telling which
        return None
    size = getattr(text, "vocab_size", None)
    if not isinstance(size, int):
        return None
    special = {
        value
        for part in (config, text)
        for name, value in part.to_dict().items()
        if name.endswith(("_token_id", "_token_index")) and isinstance(value, int)
    }
    ids = [number for number in range(min(size, 64)) if number not in special][:_N_TOKENS]
    if len(ids) < _N_TOKENS:
        ids = list(range(min(size, _N_TOKENS)))
    end = getattr(config, "eos_token_id", None)
    # Bart's and T5's classifiers read their answer at the end token.
    if config.is_encoder_decoder and isinstance(end, int) and 0 <= end < size:
        ids[-1] = end
    return ids


def _picture(model: Any, device: Any) -> Any:
    """A ramp from -1 to 1; None where the config's size is unclear or no picture's."""
    import torch

    config = getattr(model.config, "vision_config", None) or model.config
    side = getattr(config, "image_size", None) or _ANY_SIDE
    sides = list(side) if isinstance(side, (list, tuple)) else [side, side]
    shape = [1, getattr(config, "num_channels", 3), *sides]
    if len(sides) != 2 or not all(isinstance(one, int) and one > 0 for one in shape):
        return None
    n_values = shape[1] * shape[2] * shape[3]
    if n_values > _MAX_VALUES:
        return None
    ramp = torch.linspace(-1, 1, n_values, dtype=torch.float32)
    return ramp.reshape(shape).to(device=device, dtype=model.dtype)


def _tensors(answer: Any) -> Iterator[Any]:
    """The tensors of an answer; caches and other objects are none."""
    import torch

    if isinstance(answer, torch.Tensor):
        yield answer
    elif isinstance(answer, dict):
        for value in answer.values():
            yield from _tensors(value)
    elif isinstance(answer, (list, tuple)):
        for value in answer:
            yield from _tensors(value)


def _finite(tensor: Any) -> bool:
    import torch

    if not tensor.is_floating_point():
        return True
    # The sum is the cheapest pass that NaN and infinity survive; only a suspicion costs more.
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def _dtype_and_hint(model: Any) -> str:
    name = str(model.dtype).removeprefix("torch.")
    short = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}.get(name, name)
    return f"{short}; try --dtype bf16" if short == "fp16" else short
