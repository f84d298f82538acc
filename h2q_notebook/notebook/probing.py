"""``--probe`` in a notebook: a cell is run on copies elsewhere; what it took is shown and kept."""

from __future__ import annotations

from typing import Any

from h2q_notebook.cell.options import BudgetOptions, resolve_budget
from h2q_notebook.cell.past import CellMemory, cell_key
from h2q_notebook.cell.probe import probe
from h2q_notebook.guardian.guardian import MemoryGuardian
from h2q_notebook.notebook.loads import Publish
from h2q_notebook.policy.expectation import PastRun
from h2q_notebook.views import probe_report

__all__ = ["probe_cell"]


def probe_cell(
    shell: Any,
    guardian: MemoryGuardian,
    past: CellMemory,
    publish: Publish,
    options: BudgetOptions,
    cell: str,
) -> None:
    """Run *cell* once on copies, in another process; show what it took.

    Raises:
        H2QError: there is no room for copies, or no worker.
    """
    room, config = guardian.headroom(), guardian.config
    size = options.size or config.working_size
    found = probe(
        cell,
        shell.transform_cell(cell),
        shell.user_ns,
        budget_bytes=resolve_budget(size, room, config.safety_bytes).n_bytes,
        free_bytes=max(room.free_bytes - config.safety_bytes, 0),
        timeout_s=options.timeout_s,
    )
    if found.status in ("ok", "error", "over"):
        past.record_run(cell_key(cell), PastRun(found.peak_bytes, found.status != "over"))
    publish(probe_report.bundle(found), {"h2q": probe_report.metadata(found)})
