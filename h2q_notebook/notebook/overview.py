"""What ``%h2q_status`` tells, gathered from everybody who knows a part of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from h2q_notebook.cell import sizes
from h2q_notebook.notebook.loads import ledger_of
from h2q_notebook.policy.layers import Ledger, balance
from h2q_notebook.views.status import Status

if TYPE_CHECKING:
    from h2q_notebook.cell.outcome import CellOutcome
    from h2q_notebook.config.settings import MemorySafeConfig
    from h2q_notebook.guardian.events import EventLog
    from h2q_notebook.guardian.guardian import MemoryGuardian
    from h2q_notebook.guardian.kernel import KernelGuard
    from h2q_notebook.load.registry import LoadedModel

__all__ = ["overview"]

_SHOWN = 8
_LOOK_S = 0.02
"""For the sizes of names: one look at the status stays under 50 ms, however many there are."""


def _ledger(models: Sequence[LoadedModel], guardian: MemoryGuardian) -> Ledger:
    """Who was promised what; made from those who live, so that nothing can be lost."""
    ledger = ledger_of(models)
    live = guardian.live()
    return ledger if live is None else ledger.reserve("this cell", "working", live.budget_bytes)


def overview(
    guardian: MemoryGuardian,
    keeper: KernelGuard,
    events: EventLog,
    config: MemorySafeConfig,
    origins: Mapping[str, str],
    models: Sequence[LoadedModel],
    pressure: str,
    names: Mapping[str, Any],
    outcomes: Sequence[CellOutcome],
    default: str | None,
) -> Status:
    """Everything at one moment."""
    room, kernel = guardian.headroom(), keeper.view()
    held = sizes.largest(names, top=_SHOWN, time_limit_s=_LOOK_S)
    rows = balance(
        _ledger(models, guardian),
        used_bytes=kernel.used_bytes,
        free_bytes=room.free_bytes,
        total_bytes=max(room.total_bytes, kernel.used_bytes + room.free_bytes),
        safety_bytes=config.safety_bytes,
        model_limit_bytes=config.model_bytes,
        working_limit_bytes=None,
    )
    return Status(
        used_bytes=kernel.used_bytes,
        free_bytes=room.free_bytes,
        free_source=room.source,
        tiers=guardian.tiers(),
        default=default,
        outcomes=tuple(outcomes)[-_SHOWN:],
        models=tuple((one.name, one.class_name, one.resident_bytes) for one in models),
        ceiling=(kernel.limit_bytes, kernel.source, kernel.state, kernel.seconds_to_limit),
        pressure=pressure,
        layers=tuple((row.layer, row.n_bytes, row.limit_bytes, row.what) for row in rows),
        devices=tuple(
            (
                one.name,
                one.model,
                one.used_bytes,
                one.process_bytes or one.reserved_bytes,
                one.total_bytes,
                one.free_bytes,
            )
            for one in guardian.devices()
        ),
        names=tuple((one.name, one.type_name, one.n_bytes) for one in held),
        events=tuple((event.at_s, event.kind, event.text) for event in events.last(_SHOWN)),
        settings=tuple(
            (name, getattr(config, name), origin) for name, origin in sorted(origins.items())
        ),
    )
