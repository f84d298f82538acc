"""Refuses one torch call whose result does not fit what is left of the budget.

Covers the functions listed in ``torch_sizes``, called from Python in the thread that arms, on
plain CPU tensors. Not what C++ does inside a function (temporaries, backward), not other threads
(modes are thread-local; asyncio tasks of the same thread do see it), not compiled or traced code.

A ``TorchFunctionMode`` sees each call. Small calls, and all that fit, are told by a bound from
element counts; only what may not fit is sized exactly, on meta tensors. Nothing is changed: the
function is then called with the very arguments it was given.

torch.compile guards its code on the mode stack, so a mode that comes and goes would make it compile
twice. The hook therefore stays off once something has been compiled in this process, and says so.

The mode lies at the bottom of the stack (above ``torch.set_default_device``'s, which insists on the
bottom): a user's own ``__exit__`` pops the top and must find the user's mode there.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

from h2q_notebook.guardian.torch_sizes import bounds_by_function, exact_bytes
from h2q_notebook.units import format_bytes

__all__ = ["TorchHook"]

_NO_KWARGS: dict[str, Any] = {}

ReadLeft = Callable[[], "int | None"]
"""What is left of the budget, in bytes; None while nothing is guarded."""

Refuse = Callable[[str, int, int], bool]
"""(what, bytes asked for, bytes left) -> whether to refuse."""


class TorchHook:
    """The torch mode and its place on the stack; made when torch is there.

    Args:
        read_left: asked for each call that may be large.
        refuse: asked for each call that does not fit; may note it.
        threshold_bytes: requests below it are never asked about.
    """

    def __init__(self, read_left: ReadLeft, refuse: Refuse, threshold_bytes: int) -> None:
        self.reason = ""
        """Why the hook is off; empty while it can be armed."""
        try:
            self._mode = _make_mode(read_left, refuse, max(1, threshold_bytes))
        except Exception as error:  # a torch unlike any we know must never break a cell
            self.reason = f"this torch cannot be hooked ({type(error).__name__})"

    def arm(self) -> bool:
        """Switch on in the calling thread; False (and ``reason``) where that cannot be done."""
        if self.reason:
            return False
        if _has_compiled():
            self.reason = "torch.compile is in use; its compiled code depends on the mode stack"
            return False
        from torch.utils._device import DeviceContext

        stack = _pop_all()
        stack = [mode for mode in stack if mode is not self._mode]
        place = 1 if stack and isinstance(stack[0], DeviceContext) else 0
        _push_all([*stack[:place], self._mode, *stack[place:]])
        self._mode.on = True
        return True

    def disarm(self) -> None:
        """Take the mode off the calling thread's stack, from wherever it is, keeping the order."""
        if self.reason and not hasattr(self, "_mode"):
            return
        self._mode.on = False
        stack = _pop_all()
        _push_all([mode for mode in stack if mode is not self._mode])


def _has_compiled() -> bool:
    """Whether a frame was compiled here; decorating alone, as transformers does, is not."""
    convert_frame = sys.modules.get("torch._dynamo.convert_frame")
    return bool(getattr(convert_frame, "FRAME_COUNTER", 0))


def _pop_all() -> list[Any]:
    """Empty this thread's mode stack; bottom first."""
    overrides: Any = importlib.import_module("torch.overrides")
    count = len(overrides._get_current_function_mode_stack())
    return [overrides._pop_mode() for _ in range(count)][::-1]


def _push_all(modes: list[Any]) -> None:
    overrides: Any = importlib.import_module("torch.overrides")
    for mode in modes:
        overrides._push_mode(mode)


def _make_mode(read_left: ReadLeft, refuse: Refuse, threshold_bytes: int) -> Any:
    """The mode; its class is made here because its base is torch's."""
    import torch
    from torch.overrides import TorchFunctionMode

    table = bounds_by_function()
    find = table.get
    is_compiling = torch.compiler.is_compiling
    no_modes = torch._C.DisableTorchFunction

    def check(
        function: Any, name: str, at_most: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Raise MemoryError if this call does not fit; *at_most* is negative where exact."""
        # Read first: the very first run on meta tensors imports modules worth some 60 MB, which
        # must not be the reason to refuse. What fits even at most needs no such run.
        left_bytes = read_left()
        if left_bytes is None or abs(at_most) <= left_bytes:
            return
        asked_bytes: int | None = -at_most
        if at_most > 0:
            with no_modes():
                asked_bytes = exact_bytes(function, args, kwargs)
        if asked_bytes is None or asked_bytes < threshold_bytes or asked_bytes <= left_bytes:
            return
        left_bytes = max(0, left_bytes)
        if refuse(name, asked_bytes, left_bytes):
            raise MemoryError(
                f"{name} asked for {format_bytes(asked_bytes)}, but only "
                f"{format_bytes(left_bytes)} of this cell's memory budget are left"
            )

    class RefuseMode(TorchFunctionMode):
        """Sees every torch call of this thread; see the module."""

        on = False

        def __torch_function__(
            self,
            func: Any,
            types: Any,
            args: tuple[Any, ...] = (),
            kwargs: dict[str, Any] | None = None,
        ) -> Any:
            if is_compiling():  # a constant for torch.compile: it must not see what follows
                return func(*args, **kwargs) if kwargs else func(*args)
            entry = find(func)
            if entry is not None and self.on:
                try:
                    at_most = entry[1](args, kwargs or _NO_KWARGS)
                except Exception:
                    at_most = 0  # arguments torch itself will complain about
                if at_most >= threshold_bytes:
                    signed = -at_most if entry[2] else at_most
                    check(func, entry[0], signed, args, kwargs or _NO_KWARGS)
            return func(*args, **kwargs) if kwargs else func(*args)

    return RefuseMode()
