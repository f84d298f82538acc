"""What one forward pass takes beside the weights, found without running it.

The model is run on fake tensors: they have shapes, dtypes and a device, and no memory. A dispatch
mode sees every storage come and go, so the highest sum of living ones is what a real pass holds
at its worst moment. On the meta device this would be wrong: attention takes its mathematical path
there, with all scores at once (511 instead of 131 MiB for a dense model at 2048 tokens).

Three things a storage does not show were found by reading the process's peak around every
operation of real passes (torch 2.13, CPU), and are added here:

- ``bmm`` in half precision copies a transposed second matrix. That is the output layer whenever
  it sees the last token only, and so a copy of it (94 MiB for 32000 x 1536 in bf16).
- ``_safe_softmax`` makes a mask of one byte a score.
- oneDNN compiles a kernel for every shape of a half-precision product, 0.5 to 0.64 MB each, and
  keeps the last 1024. A mixture of experts makes hundreds of shapes, one for each number of
  tokens that an expert gets. In fp32 there are none.
"""

from __future__ import annotations

import inspect
import logging
import math
import weakref
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from h2q_notebook.load.quiet import quiet
from h2q_notebook.load.skeleton import Skeleton, torch_dtype

__all__ = ["RunBytes", "count_run", "distinct_loads", "run_and_count"]

KERNEL_BYTES = 600_000
"""One compiled product; measured 501 to 637 kB over shapes from 64 x 64 to 7168 x 4096."""

_KERNELS_KEPT = 1024
"""oneDNN's default for ONEDNN_PRIMITIVE_CACHE_CAPACITY."""

_GROUPED = "aten._grouped_mm.default"
_PRODUCTS = ("aten.mm.default", "aten.addmm.default", "aten.bmm.default", "aten.baddbmm.default")


@dataclass(frozen=True, slots=True)
class RunBytes:
    """One pass over a prompt, without the weights."""

    peak_bytes: int
    """All living tensors at the worst moment, the cache among them."""
    cache_bytes: int
    """What the key/value cache holds when it is over."""
    kernel_bytes: int
    """Compiled kernels, which stay."""

    @property
    def compute_bytes(self) -> int:
        """What is needed beside weights and cache."""
        return max(self.peak_bytes - self.cache_bytes, 0) + self.kernel_bytes


def count_run(skeleton: Skeleton, context_tokens: int, batch: int = 1) -> RunBytes | None:
    """Count one prefill on fake tensors.

    Args:
        skeleton: its config and class are taken; it is left as it is.
        context_tokens: length of each prompt.
        batch: prompts at once.

    Returns:
        None where the pass cannot be made without values or without other inputs than token ids.
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    default = torch.get_default_dtype()
    # It logs a page for every operation it cannot fake, before it raises.
    log = logging.getLogger("torch._subclasses.fake_tensor")
    was_disabled, log.disabled = log.disabled, True
    try:
        with quiet(), FakeTensorMode(allow_non_fake_inputs=True):
            torch.set_default_dtype(torch_dtype(skeleton.dtype))
            try:
                model = skeleton.model_class(skeleton.config).eval()
            finally:
                torch.set_default_dtype(default)
            model.tie_weights()
            # As a load leaves it; with gradients torch folds the output layer's product otherwise.
            model.requires_grad_(False)
            ids = torch.zeros((batch, context_tokens), dtype=torch.long)
            return run_and_count(model, ids)
    except Exception:
        # Whatever a foreign model does to a fake tensor is no error of the user's: there is a
        # formula for those. A stop or an interrupt is no Exception and goes on.
        return None
    finally:
        log.disabled = was_disabled


def run_and_count(model: Any, ids: Any) -> RunBytes:
    """Count one real or fake prefill.

    Args:
        model: on the CPU, or fake.
        ids: token ids ``[batch, tokens]``.

    Raises:
        ValueError: the model takes no token ids.
    """
    import torch

    takes = inspect.signature(model.forward).parameters
    if model.main_input_name != "input_ids" or "input_ids" not in takes:
        raise ValueError("takes no token ids")
    inputs: dict[str, Any] = {"input_ids": ids}
    if "use_cache" in takes:
        inputs["use_cache"] = True
    if "logits_to_keep" in takes:
        inputs["logits_to_keep"] = 1
    if "decoder_input_ids" in takes and model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids[:, :1]
    with torch.no_grad(), _make_ledger(model) as ledger:
        answer = model(**inputs)
    cache = getattr(answer, "past_key_values", None)
    held = {one._cdata: one.nbytes() for one in _storages(cache)}
    return RunBytes(ledger.peak_bytes, sum(held.values()), ledger.kernel_bytes())


def distinct_loads(n_experts: int, mean_tokens: float) -> float:
    """How many different numbers of tokens *n_experts* experts get.

    Loads are taken as geometrically distributed, as an unbalanced router gives them. On random
    weights (256 experts in all) 129 were measured for a mean of 64 tokens and 179 for 256; this
    gives 126 and 204. A balanced router makes fewer.

    Args:
        n_experts: experts of one shape, over all layers.
        mean_tokens: tokens times experts a token, by experts of a layer.
    """
    if mean_tokens <= 0 or n_experts <= 0:
        return 0.0
    stay = mean_tokens / (1 + mean_tokens)
    total, share = 0.0, 1 - stay
    for _ in range(min(int(20 * mean_tokens) + 1, 200_000)):
        total += 1 - (1 - share) ** n_experts
        share *= stay
    return total


def _make_ledger(model: Any) -> Any:
    """A dispatch mode; a function of its own because torch is imported late."""
    from torch._subclasses.fake_tensor import FakeTensor
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    mode: Any = TorchDispatchMode

    class Ledger(_Counting, mode):  # type: ignore[misc]
        def __init__(self) -> None:
            mode.__init__(self)
            _Counting.__init__(self, model)

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            name = str(func)
            if name == _GROUPED and isinstance(args[0], FakeTensor):
                # torch's own shape rule takes bf16 alone, though the CPU multiplies every dtype.
                result = args[0].new_empty((args[0].shape[0], args[1].shape[-1]))
            else:
                result = func(*args, **(kwargs or {}))
            self.note(name, args, tree_leaves(result))
            return result

    return Ledger()


class _Counting:
    """Bytes of living storages, and shapes of products."""

    def __init__(self, model: Any) -> None:
        import torch

        self.peak_bytes = self._live_bytes = 0
        own = (*model.parameters(), *model.buffers())
        self._seen = {one.untyped_storage()._cdata for one in own}
        self._shapes: set[Any] = set()
        self._experts: Counter[Any] = Counter()
        self._half = (torch.bfloat16, torch.float16)

    def note(self, name: str, args: Any, results: list[Any]) -> None:
        """One operation has been done."""
        import torch

        for one in results:
            if isinstance(one, torch.Tensor):
                self._add(one.untyped_storage())
        self.peak_bytes = max(self.peak_bytes, self._live_bytes + self._hidden_bytes(name, args))

    def kernel_bytes(self) -> int:
        """What oneDNN has compiled, if half-precision products are its own here."""
        if not _onednn_multiplies_halves():
            return 0
        kernels = float(len(self._shapes))
        for (n_experts, rows, _), layers in self._experts.items():
            kernels += distinct_loads(n_experts * layers, rows / n_experts)
        return int(min(kernels, _KERNELS_KEPT) * KERNEL_BYTES)

    def _add(self, storage: Any) -> None:
        key = storage._cdata
        if key in self._seen:
            return
        n_bytes = storage.nbytes()
        self._seen.add(key)
        self._live_bytes += n_bytes
        weakref.finalize(storage, self._drop, key, n_bytes)

    def _drop(self, key: int, n_bytes: int) -> None:
        self._live_bytes -= n_bytes
        self._seen.discard(key)

    def _hidden_bytes(self, name: str, args: Any) -> int:
        """What the operation takes and gives back before it returns."""
        if name == "aten._safe_softmax.default":
            return int(args[0].numel())
        if name == _GROUPED and args[0].dtype in self._half:
            rows, shape = args[0].shape[0], tuple(args[1].shape)
            self._experts[shape[0], rows, shape[1:]] += 1
        if name not in _PRODUCTS or args[-1].dtype not in self._half:
            return 0
        left, right = args[-2], args[-1]
        self._shapes.add((tuple(left.shape), tuple(right.shape)))
        copies = name == "aten.bmm.default" and not right.is_contiguous()
        return math.prod(right.shape) * right.element_size() if copies else 0


def _onednn_multiplies_halves() -> bool:
    import torch

    onednn: Any = torch.backends.mkldnn
    try:
        return bool(onednn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):
        return False


def _storages(node: Any, depth: int = 0) -> Iterator[Any]:
    """Storages of every tensor in a cache, whatever its layers keep."""
    import torch

    if isinstance(node, torch.Tensor):
        # An empty view still keeps the whole it was cut from.
        yield node.untyped_storage()
    elif isinstance(node, dict):
        for one in node.values():
            yield from _storages(one, depth + 1)
    elif isinstance(node, (list, tuple)):
        for one in node:
            yield from _storages(one, depth + 1)
    elif hasattr(node, "__dict__") and depth < 6:
        yield from _storages(vars(node), depth + 1)
