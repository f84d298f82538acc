"""Whether a form works here: asked once a process, on a small layer, before a rung is offered."""

from __future__ import annotations

from functools import lru_cache

from h2q_notebook.load import int4

__all__ = ["why_not"]


@lru_cache(maxsize=64)
def why_not(kind: str, dtype: str, device: str = "cpu") -> str | None:
    """Why the rung cannot be used, as a clause, or None where it works.

    Args:
        kind: ``int8`` or ``int4``; every other kind of rung has nothing to probe.
        dtype: that the model computes in: ``bf16``, ``fp32`` or ``fp16``.
        device: where it is to run.
    """
    if kind not in ("int8", "int4"):
        return None
    if not (device == "cpu" or device.startswith("cpu:")):
        return f"{kind} works on the CPU only, not on {device}"
    if dtype != "bf16":
        return f"{kind} computes in bf16, and {dtype} was asked for"
    # Without its kernel int8 is dequantised for each multiplication: slower, and still right.
    if kind == "int4" and not int4.kernel_works():
        return "the installed torch has no four-bit kernel that works on this processor"
    return _trial(kind)


def _trial(kind: str) -> str | None:
    """A layer that went through the swap answers as its plain original does, within the form."""
    import torch

    from h2q_notebook.load.swap import swap_modules

    torch_state = torch.random.get_rng_state()
    try:
        model = torch.nn.Sequential(torch.nn.Linear(64, 80, dtype=torch.bfloat16))
    finally:
        torch.random.set_rng_state(torch_state)
    x = torch.linspace(-1, 1, 3 * 64).view(3, 64).to(torch.bfloat16)
    with torch.no_grad():
        plain = model(x).float()
        if not swap_modules(model, kind):
            return f"{kind} found no layer to replace in its own trial"
        error = float((model(x).float() - plain).abs().max())
    bound = float(plain.abs().max()) / (4 if kind == "int4" else 32)
    return None if error <= bound else f"a trial layer in {kind} answered wrongly"
