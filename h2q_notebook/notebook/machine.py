"""How short the machine is of memory, said to whoever asks: the status, gauges, loads."""

from __future__ import annotations

import threading

from h2q_notebook.guardian.kernel import KernelGuard
from h2q_notebook.policy.decide import reason_to_wait
from h2q_notebook.readings.pressure import PressureMeter
from h2q_notebook.units import format_bytes
from h2q_notebook.views import pressure as view

__all__ = ["Machine", "growth_words"]


def growth_words(grown_bytes: int) -> str:
    """That memory grew after a cell, and the threads that the cell may have left running."""
    names = [thread.name for thread in threading.enumerate()]
    mine = [name for name in names if name.startswith(("Thread-", "ThreadPool"))][:5]
    who = f"; threads still running: {', '.join(mine)}" if mine else ""
    return f"{format_bytes(grown_bytes)} were added after the last cell had ended{who}"


class Machine:
    """The machine under one kernel.

    Args:
        meter: reads stalls and swap.
    """

    def __init__(self, meter: PressureMeter | None = None) -> None:
        self._meter = meter or PressureMeter()

    def words(self) -> str:
        """Everything that is known."""
        found, _ = self._meter.look()
        return view.words(found.some_share, found.full_share, *self._swap())

    def alarm(self) -> str:
        """What a gauge should say; "" while all is well."""
        found, _ = self._meter.look()
        return view.alarm(found.full_share, *self._swap())

    def reason_to_wait(self, keeper: KernelGuard, clean_at: float) -> str:
        """Why no model should be loaded now; "" where nothing is against it."""
        kernel, stalled = keeper.view(), self._meter.look()[0].full_share or 0.0
        return reason_to_wait(
            kernel.used_bytes, kernel.limit_bytes, kernel.source, stalled, clean_at
        )

    def _swap(self) -> tuple[float | None, float | None]:
        _, rate = self._meter.look()
        return (None, None) if rate is None else (rate.in_bytes_per_s, rate.out_bytes_per_s)
