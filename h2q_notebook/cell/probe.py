"""``--probe``: run a cell once on copies, in another process, to learn what it would peak at.

The kernel's names are not touched; files and network that the cell uses are: it really runs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from h2q_notebook.cell.outcome import ProbeResult
from h2q_notebook.cell.sendable import Sendable, sendable
from h2q_notebook.cell.worker import Worker, WorkerWatch
from h2q_notebook.policy.strikes import Cause

__all__ = ["probe"]


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
    sent = sendable(transformed, user_ns, free_bytes, "--probe")
    limit = sent.left_bytes
    worker = Worker("h2q_notebook.cell.probe_worker", "--probe", environ={"MPLBACKEND": "Agg"})
    try:
        worker.send({"code": source, "limit_bytes": limit}, sent.copies)
        lines, seen = _watched(worker, limit, timeout_s)
    finally:  # a Ctrl-C too
        code = worker.end()
    return _result(lines, seen, code, sent, budget_bytes)


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
                if lines[0]["kind"] == "unread":
                    break
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
    sent: Sendable,
    budget_bytes: int,
) -> ProbeResult:
    last = lines[-1] if len(lines) > 1 else {}
    began = lines[0] if lines else {}
    ended = {Cause.MEMORY: "over", Cause.TIMEOUT: "timeout"}.get(Cause(seen.get("cause", 0)))
    missing = [f"{name} ({kind})" for name, kind in sent.copies.missing] + began.get("missing", [])
    peak = max(seen.get("peak_bytes", 0), last.get("peak_bytes", 0))
    if ended:
        status = ended
    elif last:
        status = "over" if last["no_memory"] else "error" if last["error"] else "ok"
    else:
        status = "lost"
    lost = f"the copies cannot be read: {began['why']}" if "why" in began else f"exit code {code}"
    return ProbeResult(
        status=status,
        peak_bytes=peak,
        exact=bool(last.get("exact")) and peak == last.get("peak_bytes"),
        retained_bytes=last.get("retained_bytes", 0),
        duration_s=seen.get("seconds", 0.0),
        budget_bytes=budget_bytes,
        limit_bytes=sent.left_bytes,
        copied=sent.held,
        copied_bytes=sent.copied_bytes,
        missing=tuple(missing),
        error=last.get("error", "") if last else lost if status == "lost" else "",
    )
