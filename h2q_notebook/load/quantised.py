"""Modules whose weights are stored quantised: a linear layer and transformers' fused experts.

Covers what every form shares: names, forward passes, filling from rows and giving plain weights
back. How one matrix is stored and multiplied is a form's own (``int8``, ``int4``). torch is
imported late, so the classes here are halves that ``make_module`` joins with ``torch.nn.Module``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from h2q_notebook.units import MIB

if TYPE_CHECKING:
    from torch.nn import Module as _Module
else:
    _Module = object

__all__ = [
    "BLOCK_ROWS", "Form", "QuantisedExperts", "QuantisedLinear", "block_rows", "is_quantised",
    "make_module", "scale_name",
]  # fmt: skip

BLOCK_ROWS = 64
"""Rows are quantised in multiples of this, which is the widest block torch's int4 layout has."""

_BLOCK_BYTES = 2 * MIB


class Form(Protocol):
    """How a matrix ``[n_out, n_in]`` is stored and used; has no state."""

    kind: str

    def suits(self, n_out: int, n_in: int) -> bool:
        """Whether the kernels take such a matrix."""

    def shapes(self, n_out: int, n_in: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of the stored weight (int8) and of its scale (bf16)."""

    def quantise_into(self, rows: Any, first_row: int, weight: Any, scale: Any) -> None:
        """Store fp32 *rows*, which are overwritten, from *first_row* (a multiple of 64) on."""

    def multiply(self, rows: Any, weight: Any, scale: Any) -> Any:
        """``rows @ matrix.T`` for rows ``[n, n_in]``."""

    def dequantise(self, weight: Any, scale: Any, dtype: Any) -> Any:
        """The matrix as numbers."""


def block_rows(n_in: int) -> int:
    """Rows quantised at once: about 2 MiB of fp32, and never less than 64 rows."""
    return max(BLOCK_ROWS, _BLOCK_BYTES // (4 * n_in) // BLOCK_ROWS * BLOCK_ROWS)


def scale_name(name: str) -> str:
    """The name of the scale that belongs to the parameter *name*."""
    return "scale" if name == "weight" else f"{name}_scale"


def is_quantised(module: Any) -> bool:
    """Whether *module* is one of these."""
    return isinstance(module, _Quantised)


def make_module(name: str, module_name: str, methods: type, form: Form) -> type:
    """The class *name* of module *module_name*, so that pickle finds it again."""
    from torch import nn

    members = {"form": form, "__module__": module_name, "__qualname__": name}
    return type(name, (methods, nn.Module), members)


class _Quantised(_Module):
    """Storing, saving as plain weights, and taking plain weights back."""

    form: Form
    names: tuple[str, ...]

    def _store(self, name: str, plain: Any) -> None:
        from torch import nn

        weight, scale = _quantise(self.form, plain)
        self.register_parameter(name, nn.Parameter(weight, requires_grad=False))
        self.register_parameter(scale_name(name), nn.Parameter(scale, requires_grad=False))

    def dequantised(self, name: str) -> Any:
        """The plain weight *name* in the scale's dtype, computed anew at each call."""
        import torch

        weight, scale = getattr(self, name), getattr(self, scale_name(name))
        with torch.no_grad():
            if weight.dim() == 2:
                return self.form.dequantise(weight, scale, scale.dtype)
            first = self.form.dequantise(weight[0], scale[0], scale.dtype)
            whole = first.new_empty((len(weight), *first.shape))
            whole[0] = first
            for at in range(1, len(weight)):
                whole[at] = self.form.dequantise(weight[at], scale[at], scale.dtype)
            return whole

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        # transformers takes the names it has to fill from here, so while a model is loaded the
        # real parameters are shown; h2q_exports is set once it is whole.
        if not self.h2q_exports:
            return
        for name in self.names:
            del destination[prefix + scale_name(name)]
            destination[prefix + name] = self.dequantised(name)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        for name in self.names:
            plain = state_dict.get(prefix + name)
            # Plain weights copied into int8 memory would be rounded to nonsense.
            if plain is not None and plain.is_floating_point():
                stored = _quantise(self.form, plain)
                state_dict[prefix + name], state_dict[prefix + scale_name(name)] = stored
        super()._load_from_state_dict(state_dict, prefix, *rest)


class QuantisedLinear(_Quantised):
    """A linear layer: ``weight``, ``scale``, ``bias``.

    Args:
        original: a plain ``nn.Linear``; on meta only its shapes are taken.
    """

    h2q_class = "linear"
    names = ("weight",)

    def __init__(self, original: Any) -> None:
        super().__init__()
        self.h2q_exports = False
        self.in_features, self.out_features = original.in_features, original.out_features
        self._store("weight", original.weight)
        self.register_parameter("bias", original.bias)

    def forward(self, x: Any) -> Any:
        """As ``nn.Linear``."""
        out = self.form.multiply(x.reshape(-1, x.shape[-1]), self.weight, self.scale)
        out = out.view(*x.shape[:-1], self.out_features)
        return out if self.bias is None else out + self.bias

    def extra_repr(self) -> str:
        """For the printed model."""
        bias = self.bias is not None
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={bias}"


class QuantisedExperts(_Quantised):
    """Fused experts: ``gate_up_proj`` [E, 2I, H] and ``down_proj`` [E, H, I], each with its scale.

    Args:
        original: experts of transformers' plain pattern; on meta only its shapes are taken.
    """

    h2q_class = "experts"
    names = ("gate_up_proj", "down_proj")

    def __init__(self, original: Any) -> None:
        super().__init__()
        # Its own gate may read any of its settings (DeepSeek V4's clamps at self.limit).
        for name, value in vars(original).items():
            if not name.startswith("_"):
                setattr(self, name, value)
        for name, child in original.named_children():
            self.add_module(name, child)
        self.h2q_exports = False
        self.num_experts = int(original.gate_up_proj.shape[0])
        # The function, not a bound method: a copy of this module must not call into this one.
        self._gate = getattr(type(original), "_apply_gate", _plain_gate)
        for name in self.names:
            self._store(name, getattr(original, name))

    def forward(self, hidden_states: Any, top_k_index: Any, top_k_weights: Any) -> Any:
        """As transformers' eager form: each expert once, for all of its tokens."""
        import torch

        final = torch.zeros_like(hidden_states)
        for expert in torch.unique(top_k_index).tolist():
            if expert >= self.num_experts:  # stands for: masked
                continue
            token, place = torch.where(top_k_index == expert)
            gate_up = self._times("gate_up_proj", expert, hidden_states[token])
            out = self._times("down_proj", expert, self._gate(self, gate_up))
            out = out * top_k_weights[token, place, None]
            final.index_add_(0, token, out.to(final.dtype))
        return final

    def _times(self, name: str, expert: int, rows: Any) -> Any:
        weight, scale = getattr(self, name), getattr(self, scale_name(name))
        return self.form.multiply(rows, weight[expert], scale[expert])


def _plain_gate(experts: Any, gate_up: Any) -> Any:
    gate, up = gate_up.chunk(2, dim=-1)
    return experts.act_fn(gate) * up


def _quantise(form: Form, plain: Any) -> tuple[Any, Any]:
    """Storage for a weight of two or three dimensions, filled unless it is on meta."""
    import torch

    *lead, n_out, n_in = plain.shape
    shapes = form.shapes(n_out, n_in)
    weight = torch.empty((*lead, *shapes[0]), dtype=torch.int8, device=plain.device)
    scale = torch.empty((*lead, *shapes[1]), dtype=torch.bfloat16, device=plain.device)
    if plain.device.type == "meta":
        return weight, scale
    matrices = zip(plain, weight, scale, strict=True) if lead else [(plain, weight, scale)]
    step = block_rows(n_in)
    with torch.no_grad():
        for matrix, to, by in matrices:
            for first in range(0, n_out, step):
                rows = matrix[first : first + step].to(torch.float32, copy=True)
                form.quantise_into(rows, first, to, by)
    return weight, scale
