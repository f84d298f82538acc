"""``--probe``: run a cell once on copies, in another process, to learn what it would peak at.

The kernel's names are not touched; files and network that the cell uses are: it really runs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from h2q_notebook.cell import sizes
from h2q_notebook.cell.needs import Copies, copies_of, needed_names
from h2q_notebook.cell.outcome import NameSize, ProbeResult
from h2q_notebook.cell.worker import Worker, WorkerWatch
from h2q_notebook.errors import GuardUnavailable, LoadRefused
from h2q_notebook.policy.strikes import Cause
from h2q_notebook.units import MIB, format_bytes

__all__ = ["probe"]

_SIZES_S = 0.5
_LEAST_BYTES = 64 * MIB


def probe(
    source: str,
    transformed: str,
    user_ns: Mapping[str, Any],
    *,
    budget_bytes: int,
    free_bytes: int,
    timeout_s: float | None = None,
) -> ProbeResult:
    """Run *source* once in a worker.

    Args:
        source: the cell as typed, without its budget line.
        transformed: the same after IPython's transformation.
        user_ns: the notebook's names.
        budget_bytes: what the cell is to have; only compared with.
        free_bytes: what the worker, copies included, may take in all.
        timeout_s: end it after so long.

    Raises:
        LoadRefused: there is no room for the copies.
        GuardUnavailable: no worker can be started, or cloudpickle is absent.
    """
    names = needed_names(transformed, user_ns)
    held = sizes.largest(user_ns, top=len(user_ns), min_bytes=0, time_limit_s=_SIZES_S, born=names)
    copied_bytes = sum(one.n_bytes for one in held)
    limit = free_bytes - 2 * copied_bytes  # the copy, and its pickle while it travels
    if limit < _LEAST_BYTES:
        largest = ", ".join(f"{one.name} {format_bytes(one.n_bytes)}" for one in held[:3])
        raise LoadRefused(
            f"--probe: it needs copies of {format_bytes(copied_bytes)} ({largest}) and "
            f"{format_bytes(free_bytes)} are free; free memory, or probe a part of the cell"
        )
    try:
        copies = copies_of(names, user_ns)
    except ImportError:
        raise GuardUnavailable("--probe: needs cloudpickle: pip install cloudpickle") from None
    worker = Worker("h2q_notebook.cell.probe_worker", "--probe", environ={"MPLBACKEND": "Agg"})
    try:
        worker.send({"code": source, "limit_bytes": limit}, copies)
        lines, seen = _watched(worker, limit, timeout_s)
    finally:  # a Ctrl-C too
        code = worker.end()
    shown = tuple(one for one in held if one.n_bytes >= MIB and one.name in copies.names)
    return _result(lines, seen, code, copies, shown, copied_bytes, budget_bytes, limit)


def _watched(
    worker: Worker, limit: int, timeout_s: float | None
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What the worker told, and what was seen of it."""
    lines: list[dict[str, Any]] = []
    watch: WorkerWatch | None = None
    try:
        with os.fdopen(os.dup(worker.told_fd), "rb") as told:
            for line in told:  # copying is bounded by what was sent
                lines.append(json.loads(line))
                if watch is None:
                    watch = WorkerWatch(worker, lines[0]["base_bytes"], limit, timeout_s=timeout_s)
                    worker.go_on()
                else:
                    break
    finally:
        seen = {} if watch is None else watch.close()
    return lines, seen


def _result(
    lines: Sequence[dict[str, Any]],
    seen: dict[str, Any],
    code: int,
    copies: Copies,
    copied: Sequence[NameSize],
    copied_bytes: int,
    budget_bytes: int,
    limit: int,
) -> ProbeResult:
    last = lines[-1] if len(lines) > 1 else {}
    began = lines[0] if lines else {}
    ended = {Cause.MEMORY: "over", Cause.TIMEOUT: "timeout"}.get(Cause(seen.get("cause", 0)))
    missing = [f"{name} ({kind})" for name, kind in copies.missing] + began.get("missing", [])
    peak = max(seen.get("peak_bytes", 0), last.get("peak_bytes", 0))
    if ended:
        status = ended
    elif last:
        status = "over" if last["no_memory"] else "error" if last["error"] else "ok"
    else:
        status = "lost"
    return ProbeResult(
        status=status,
        peak_bytes=peak,
        exact=bool(last.get("exact")) and peak == last.get("peak_bytes"),
        retained_bytes=last.get("retained_bytes", 0),
        duration_s=seen.get("seconds", 0.0),
        budget_bytes=budget_bytes,
        limit_bytes=limit,
        copied=tuple(copied),
        copied_bytes=copied_bytes,
        missing=tuple(missing),
        error=last.get("error", "") if last else f"exit code {code}" if status == "lost" else "",
    )
