"""Weights in eight bits: one scale a row, multiplied by torch's own CPU kernel.

The kernel is half private, so it is tried once on a small layer; where it is absent or wrong, and
for tensors that are not bf16 on the CPU, weights are dequantised for each multiplication. It does
not check shapes: with 33 columns it read beyond its memory (torch 2.13), so ``suits`` does.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from h2q_notebook.load.quantised import QuantisedExperts, QuantisedLinear, make_module

__all__ = ["INT8", "Int8Form", "kernel_works", "quantise_rows"]


def quantise_rows(rows: Any) -> tuple[Any, Any]:
    """Symmetric eight bits: every value within half a scale of ``int8 * scale``.

    Args:
        rows: floating point, ``[n_out, n_in]``.

    Returns:
        int8 of the same shape, and a bf16 scale ``[n_out]``.
    """
    import torch

    weight = torch.empty(rows.shape, dtype=torch.int8, device=rows.device)
    scale = torch.empty(rows.shape[0], dtype=torch.bfloat16, device=rows.device)
    INT8.quantise_into(rows.to(torch.float32, copy=True), 0, weight, scale)
    return weight, scale


class Int8Form:
    """See ``quantised.Form``."""

    kind = "int8"

    def suits(self, n_out: int, n_in: int) -> bool:
        """Columns in 32s: multiples of 8 were sound on AVX2; wider vectors have longer steps."""
        return n_out > 0 and n_in > 0 and n_in % 32 == 0

    def shapes(self, n_out: int, n_in: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """One byte a value, one scale a row."""
        return (n_out, n_in), (n_out,)

    def quantise_into(self, rows: Any, first_row: int, weight: Any, scale: Any) -> None:
        """As ``quantise_rows``; the scale is rounded to bf16 first, so that this adds no error."""
        import torch

        end = first_row + len(rows)
        low, high = torch.aminmax(rows, dim=1)
        rounded = torch.maximum(high, -low).div_(127).to(torch.bfloat16)
        # A row of zeros must not divide by zero.
        rounded.clamp_(min=torch.finfo(torch.bfloat16).tiny)
        scale[first_row:end] = rounded
        # A scale that was rounded down makes 127.3 of the largest value.
        rows.div_(rounded.float().unsqueeze(1)).round_().clamp_(-127, 127)
        weight[first_row:end] = rows

    def multiply(self, rows: Any, weight: Any, scale: Any) -> Any:
        """By the kernel; dequantised where that cannot be (other dtypes, devices, gradients)."""
        import torch

        if _for_kernel(rows, weight, scale) and kernel_works():
            return torch._weight_int8pack_mm(rows.contiguous(), weight, scale)
        return torch.nn.functional.linear(rows, self.dequantise(weight, scale, rows.dtype))

    def dequantise(self, weight: Any, scale: Any, dtype: Any) -> Any:
        """In *dtype*."""
        return weight.to(dtype) * scale.to(dtype).unsqueeze(1)


INT8 = Int8Form()


def _for_kernel(rows: Any, weight: Any, scale: Any) -> bool:
    import torch

    return (
        rows.dtype == scale.dtype == torch.bfloat16
        and rows.device.type == weight.device.type == "cpu"
        and len(rows) > 0
        and not (rows.requires_grad and torch.is_grad_enabled())
    )


@lru_cache(maxsize=1)
def kernel_works() -> bool:
    """Whether the kernel multiplies a small layer as the dequantised one does; tried once."""
    import torch

    random = torch.Generator().manual_seed(0)
    weight, scale = quantise_rows(torch.randn(48, 64, generator=random))
    reference = INT8.dequantise(weight, scale, torch.float32)
    try:
        for n_rows in (1, 5):
            x = torch.randn(n_rows, 64, generator=random).to(torch.bfloat16)
            got = torch._weight_int8pack_mm(x, weight, scale).float()
            right = x.float() @ reference.T
            if not bool((got - right).abs().max() <= right.abs().max() / 64):
                return False
    except (AttributeError, NotImplementedError, RuntimeError):
        return False
    return True


@lru_cache(maxsize=1)
def _classes() -> dict[str, type]:
    return {
        "Int8Linear": make_module("Int8Linear", __name__, QuantisedLinear, INT8),
        "Int8Experts": make_module("Int8Experts", __name__, QuantisedExperts, INT8),
    }


def __getattr__(name: str) -> Any:
    """``Int8Linear`` and ``Int8Experts``, made when first asked for: they need torch."""
    if name in ("Int8Linear", "Int8Experts"):
        return _classes()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
