"""Weights in four bits: scale and zero for 32 values, multiplied by torch's own CPU kernel.

The packed layout belongs to the kernel and differs between processors, so nothing here reads it:
dequantising multiplies the identity. That is slow, and meant for ``save_pretrained`` and for the
odd tensor that is not bf16 on the CPU. Without the kernel there is no such form.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from h2q_notebook.load.quantised import QuantisedExperts, QuantisedLinear, make_module

__all__ = ["GROUP", "INT4", "Int4Form", "kernel_works", "quantise_groups"]

GROUP = 32
"""Values that share a scale and a zero."""


def quantise_groups(rows: Any) -> tuple[Any, Any]:
    """Asymmetric four bits: every value within half a scale of ``(q - 8) * scale + zero``.

    Args:
        rows: floating point, ``[n_out, n_in]``, n_in a multiple of 32.

    Returns:
        int32 from 0 to 15 of the same shape, and bf16 scales and zeros ``[n_in / 32, n_out, 2]``.
    """
    import torch

    return _groups(rows.to(torch.float32, copy=True))


class Int4Form:
    """See ``quantised.Form``."""

    kind = "int4"

    def suits(self, n_out: int, n_in: int) -> bool:
        """Whole groups, and rows in 16s: the kernel refuses others."""
        return n_out > 0 and n_in > 0 and n_in % GROUP == 0 and n_out % 16 == 0

    def shapes(self, n_out: int, n_in: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Two values a byte; scale and zero for each group of each row."""
        return (n_out, n_in // 2), (n_in // GROUP, n_out, 2)

    def quantise_into(self, rows: Any, first_row: int, weight: Any, scale: Any) -> None:
        """As ``quantise_groups``, then packed; blocks of 64 rows pack as the whole matrix does."""
        import torch

        end = first_row + len(rows)
        values, scales = _groups(rows)
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(values, 1)
        weight[first_row:end] = packed.view(torch.int8)
        scale[:, first_row:end] = scales

    def multiply(self, rows: Any, weight: Any, scale: Any) -> Any:
        """By the kernel, in bf16: rounding *rows* to it costs far less than four bits did."""
        import torch

        gradients = rows.requires_grad and torch.is_grad_enabled()
        if gradients or not len(rows) or rows.device.type != "cpu":
            plain = self.dequantise(weight, scale, rows.dtype)
            return torch.nn.functional.linear(rows, plain)
        return _kernel(rows.to(torch.bfloat16), weight, scale).to(rows.dtype)

    def dequantise(self, weight: Any, scale: Any, dtype: Any) -> Any:
        """In *dtype*, by multiplying the identity block by block."""
        import torch

        n_out, n_in = weight.shape[0], weight.shape[1] * 2
        plain = torch.empty((n_out, n_in), dtype=dtype, device=weight.device)
        if weight.device.type == "meta":
            return plain
        weight, scale = weight.cpu(), scale.to("cpu", torch.bfloat16)
        step = 512
        for first in range(0, n_in, step):
            count = min(step, n_in - first)
            # Only the groups that the block touches would be enough, but the layout is not ours.
            some = torch.zeros((count, n_in), dtype=torch.bfloat16)
            some.view(-1)[first :: n_in + 1].fill_(1)
            plain[:, first : first + count] = _kernel(some, weight, scale).T
        return plain


INT4 = Int4Form()


def _groups(rows: Any) -> tuple[Any, Any]:
    """The values and scales of fp32 *rows*, which are overwritten."""
    import torch

    n_out, n_in = rows.shape
    groups = rows.view(n_out, n_in // GROUP, GROUP)
    low, high = torch.aminmax(groups, dim=2)
    # With zero inside the range the zero point is at most 8 scales, and its rounding harmless.
    low, high = low.clamp_(max=0), high.clamp_(min=0)
    scale = ((high - low) / 15).to(torch.bfloat16)
    scale.clamp_(min=torch.finfo(torch.bfloat16).tiny)
    zero = (low + 8 * scale.float()).to(torch.bfloat16)
    groups.sub_(zero.float().unsqueeze(2)).div_(scale.float().unsqueeze(2))
    values = groups.round_().add_(8).clamp_(0, 15).view(n_out, n_in).to(torch.int32)
    return values, torch.stack((scale, zero), 2).transpose(0, 1).contiguous()


def _kernel(rows: Any, weight: Any, scale: Any) -> Any:
    import torch

    # Stored as int8: some models cast their input to a weight's dtype unless it is that one.
    packed = weight.view(torch.uint8)
    return torch.ops.aten._weight_int4pack_mm_for_cpu(
        rows.contiguous(), packed, GROUP, scale.to(torch.bfloat16)
    )


@lru_cache(maxsize=1)
def kernel_works() -> bool:
    """Whether the kernel multiplies a small layer as the dequantised one does; tried once.

    Also whether a matrix may be packed 64 rows at a time, which a load does.
    """
    import torch

    random = torch.Generator().manual_seed(0)
    n_out, n_in = 144, 96
    plain = torch.randn(n_out, n_in, generator=random)
    values, scales = quantise_groups(plain)
    wide = scales.float().transpose(0, 1).repeat_interleave(GROUP, 1)
    reference = (values - 8) * wide[..., 0] + wide[..., 1]
    weight = torch.empty((n_out, n_in // 2), dtype=torch.int8)
    scale = torch.empty_like(scales)
    try:
        for first in range(0, n_out, 64):
            INT4.quantise_into(plain[first : first + 64].clone(), first, weight, scale)
        for n_rows in (1, 5):
            x = torch.randn(n_rows, n_in, generator=random).to(torch.bfloat16)
            right = x.float() @ reference.T
            error = (_kernel(x, weight, scale).float() - right).abs().max()
            if not bool(error <= right.abs().max() / 64):
                return False
    except (AttributeError, NotImplementedError, RuntimeError):
        return False
    return True


@lru_cache(maxsize=1)
def _classes() -> dict[str, type]:
    return {
        "Int4Linear": make_module("Int4Linear", __name__, QuantisedLinear, INT4),
        "Int4Experts": make_module("Int4Experts", __name__, QuantisedExperts, INT4),
    }


def __getattr__(name: str) -> Any:
    """``Int4Linear`` and ``Int4Experts``, made when first asked for: they need torch."""
    if name in ("Int4Linear", "Int4Experts"):
        return _classes()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
