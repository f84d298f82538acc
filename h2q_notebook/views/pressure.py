"""How short the machine is of memory, in words."""

from __future__ import annotations

from h2q_notebook.units import MIB, format_bytes

__all__ = ["alarm", "words"]

_SWAPPING_BYTES_PER_S = MIB
_STALLED_SHARE = 0.05


def words(
    some_share: float | None,
    full_share: float | None,
    swap_in: float | None,
    swap_out: float | None,
) -> str:
    """Everything that is known; "" where nothing is.

    Args:
        some_share: of the last 10 s in which some task waited for memory.
        full_share: in which all of them did.
        swap_in: bytes a second from swap, of the whole machine.
        swap_out: bytes a second to swap.
    """
    parts = []
    if some_share is not None and full_share is not None:
        parts.append(f"some task waited {some_share:.0%} of the last 10 s, all {full_share:.0%}")
    if swap_in is not None and swap_out is not None:
        parts.append(f"swap: {format_bytes(swap_in)}/s in, {format_bytes(swap_out)}/s out")
    return "; ".join(parts)


def alarm(full_share: float | None, swap_in: float | None, swap_out: float | None) -> str:
    """What a gauge should say of it; "" while all is well."""
    moved = (swap_in or 0.0) + (swap_out or 0.0)
    if moved >= _SWAPPING_BYTES_PER_S:
        return f"swapping {format_bytes(moved)}/s"
    if (full_share or 0.0) >= _STALLED_SHARE:
        return f"machine stalled {full_share:.0%}"
    return ""
