"""``--probe``: run a cell once on copies, in another process, to learn what it would peak at.

Covers sending the copies, watching the process, ending it. The kernel's names are not touched;
files and network that the cell uses are: it really runs. A new process, not a fork: after a fork
the pools of torch and polars wait for threads that are not there (measured: hangs).
"""

from __future__ import annotations

import json
import os
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from h2q_notebook.cell import sizes
from h2q_notebook.cell.needs import Copies, copies_of, modules_of, needed_names
from h2q_notebook.cell.outcome import NameSize, ProbeResult
from h2q_notebook.errors import GuardUnavailable, LoadRefused
from h2q_notebook.readings.process import read_process
from h2q_notebook.readings.tree import descendants, private_tree_bytes
from h2q_notebook.units import MIB, format_bytes

__all__ = ["probe"]

_LOOK_S = 0.005
_TREE_EVERY = 8
_SIZES_S = 0.5
_LEAST_BYTES = 64 * MIB


@dataclass(slots=True)
class _Seen:
    """What is known of the worker."""

    lines: list[dict[str, Any]] = field(default_factory=list)
    peak_bytes: int = 0
    """Of the samples, above the base."""
    children_bytes: int = 0
    ended: str = ""
    """``over`` or ``timeout``: ended by us."""
    began_s: float = 0.0
    took_s: float = 0.0


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
    head = {
        "code": source,
        "path": sys.path,
        "modules": modules_of(names, user_ns),
        "n_buffers": len(copies.buffers),
        "limit_bytes": limit,
    }
    seen, code = _run(head, copies, limit, timeout_s)
    shown = tuple(one for one in held if one.n_bytes >= MIB and one.name in copies.names)
    return _result(seen, code, copies, shown, copied_bytes, budget_bytes, limit)


def _run(
    head: dict[str, Any], copies: Copies, limit: int, timeout_s: float | None
) -> tuple[_Seen, int]:
    read_fd, write_fd = os.pipe()
    try:
        worker = subprocess.Popen(
            [sys.executable, "-m", "h2q_notebook.cell.probe_worker", str(write_fd)],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            pass_fds=(write_fd,), start_new_session=True,
            env={**os.environ, "MPLBACKEND": "Agg", "PYTHONPATH": os.pathsep.join(
                [p for p in sys.path if p] + [os.environ.get("PYTHONPATH", "")]).rstrip(":")},
        )  # fmt: skip
    except OSError as error:
        os.close(read_fd)
        os.close(write_fd)
        raise GuardUnavailable(f"--probe: no worker could be started: {error}") from error
    os.close(write_fd)
    seen = _Seen()
    try:
        assert worker.stdin is not None
        with suppress(BrokenPipeError):
            pickled = [memoryview(json.dumps(head).encode()), memoryview(copies.blob)]
            for view in (*pickled, *(one.raw() for one in copies.buffers)):
                worker.stdin.write(struct.pack("<Q", view.nbytes))
                worker.stdin.write(view)
            worker.stdin.flush()
        _watch(worker, read_fd, seen, limit, timeout_s)
    finally:  # a Ctrl-C too
        _end(worker)
        os.close(read_fd)
    return seen, worker.returncode


def _watch(
    worker: subprocess.Popen[bytes], fd: int, seen: _Seen, limit: int, timeout_s: float | None
) -> None:
    text, looks = b"", 0
    while True:
        ready, _, _ = select.select([fd], [], [], _LOOK_S)
        now_s = time.monotonic()
        if ready:
            part = os.read(fd, 65536)
            *whole, text = (text + part).split(b"\n")
            seen.lines += [json.loads(line) for line in whole]
            seen.began_s = seen.began_s or (now_s if seen.lines else 0.0)
            if not part:
                seen.took_s = now_s - seen.began_s if seen.began_s else 0.0
                worker.wait(5)
                return
        if not seen.lines:
            continue  # it is starting; copying is bounded by what was sent
        looks += 1
        _sample(worker.pid, seen, with_children=looks % _TREE_EVERY == 0)
        seen.took_s = now_s - seen.began_s
        if seen.peak_bytes > limit:
            seen.ended = "over"
            return
        if timeout_s is not None and seen.took_s > timeout_s:
            seen.ended = "timeout"
            return


def _sample(pid: int, seen: _Seen, *, with_children: bool) -> None:
    with suppress(OSError):
        own = read_process(pid).used_bytes
        if with_children:
            seen.children_bytes = private_tree_bytes(pid, descendants(pid), own)
        used = own + seen.children_bytes - seen.lines[0]["base_bytes"]
        seen.peak_bytes = max(seen.peak_bytes, used)


def _end(worker: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):  # its session: what the cell had started goes with it
        os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()
    if worker.stdin is not None:
        with suppress(OSError):
            worker.stdin.close()


def _result(
    seen: _Seen,
    code: int,
    copies: Copies,
    copied: Sequence[NameSize],
    copied_bytes: int,
    budget_bytes: int,
    limit: int,
) -> ProbeResult:
    last = seen.lines[-1] if len(seen.lines) > 1 else {}
    began = seen.lines[0] if seen.lines else {}
    missing = [f"{name} ({kind})" for name, kind in copies.missing] + began.get("missing", [])
    peak = max(seen.peak_bytes, last.get("peak_bytes", 0))
    if seen.ended:
        status = seen.ended
    elif last:
        status = "over" if last["no_memory"] else "error" if last["error"] else "ok"
    else:
        status = "lost"
    return ProbeResult(
        status=status,
        peak_bytes=peak,
        exact=bool(last.get("exact")) and peak == last.get("peak_bytes"),
        retained_bytes=last.get("retained_bytes", 0),
        duration_s=seen.took_s,
        budget_bytes=budget_bytes,
        limit_bytes=limit,
        copied=tuple(copied),
        copied_bytes=copied_bytes,
        missing=tuple(missing),
        error=last.get("error", "") if last else f"exit code {code}" if status == "lost" else "",
    )
