"""Weights that pass through memory: mapped layers are paged out again once they were used.

Without this a model larger than the memory is read by the system's own rule, least recently used
first, which for layers used in a circle drops each one just before it is needed. Here as many
layers as there is room for stay, the others are asked for ahead and paged out behind.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["stream_layers"]

_WILLNEED, _PAGEOUT = 3, 21
_PAGE = 4096

Span = tuple[int, int]
Advise = Callable[[Sequence[Span], int], None]


def _advise(spans: Sequence[Span], advice: int) -> None:
    """Best effort: an old kernel or a foreign file leaves the pages to the system."""
    libc = ctypes.CDLL(None)
    for first, n_bytes in spans:
        libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(n_bytes), advice)


def stream_layers(model: Any, keep_bytes: int, *, advise: Advise = _advise) -> int:
    """Hang hooks on the model's repeated layers so that only some of them stay in memory.

    PAGEOUT, not DONTNEED: a page somebody wrote to is kept (in swap), a clean one is dropped.

    Args:
        model: with mapped weights.
        keep_bytes: how much may stay.
        advise: tells the system about spans of memory; (address, bytes) each.

    Returns:
        How many bytes of layers are streamed at every pass.
    """
    layers = _layers(model)
    spans = [_spans(layer) for layer in layers]
    sizes = [sum(n_bytes for _, n_bytes in one) for one in spans]
    streamed: list[int] = []
    left = keep_bytes - max(sizes, default=0)  # the one that is just in use
    for index, size in enumerate(sizes):
        left -= size
        if left < 0:
            streamed.append(index)
    for place, index in enumerate(streamed):
        following = spans[streamed[(place + 1) % len(streamed)]]
        layers[index].register_forward_pre_hook(_ahead(following, advise))
        layers[index].register_forward_hook(_behind(spans[index], advise))
    return sum(sizes[index] for index in streamed)


def _ahead(spans: Sequence[Span], advise: Advise) -> Callable[..., None]:
    def hook(module: Any, args: Any) -> None:
        advise(spans, _WILLNEED)

    return hook


def _behind(spans: Sequence[Span], advise: Advise) -> Callable[..., None]:
    def hook(module: Any, args: Any, output: Any) -> None:
        advise(spans, _PAGEOUT)

    return hook


def _layers(model: Any) -> list[Any]:
    """The longest list of layers the model has."""
    import torch

    lists = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList)]
    return list(max(lists, key=_n_parameters)) if lists else []


def _n_parameters(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _spans(layer: Any) -> list[Span]:
    """Whole pages of each parameter; the ones at its edges may belong to a neighbour."""
    spans = []
    for parameter in layer.parameters():
        first = -(-parameter.data_ptr() // _PAGE) * _PAGE
        n_bytes = (parameter.data_ptr() + parameter.nbytes - first) // _PAGE * _PAGE
        if n_bytes > 0:
            spans.append((first, n_bytes))
    return spans
