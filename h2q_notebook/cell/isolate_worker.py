"""The process in which an isolated cell runs: it tells what the cell shows, and what it changed."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from dataclasses import replace
from typing import Any

from h2q_notebook.cell.isolate_changes import Sent, changes_of
from h2q_notebook.cell.isolate_shell import CELL_FILE, make_shell
from h2q_notebook.cell.verdict import is_allocation_error
from h2q_notebook.cell.worker_side import Started, bound, start
from h2q_notebook.guardian.peak import PeakMark, peak_above
from h2q_notebook.readings.process import read_process

__all__ = ["main"]

_MAX_TRACE = 200_000


def main() -> None:
    """Read, run, tell, give back."""
    sent: list[Sent] = []
    begun = start(make_shell, lambda shell, names: sent.append(Sent(names, shell.user_ns)))
    bound(begun.base.data_bytes + begun.head["bound_bytes"])
    mark = PeakMark()
    error = _run(begun)
    bound(None)
    end = read_process()
    end = replace(end, peak_rss_bytes=mark.close(end.peak_rss_bytes))
    peak, exact = peak_above(begun.base, end, 0)
    _flush()
    begun.channel.tell(
        {
            "kind": "ended",
            "peak_bytes": peak,
            "exact": exact,
            "retained_bytes": max(0, end.used_bytes - begun.base.used_bytes),
            **_described(error, begun.shell.last_trace),
        }
    )
    if error is None:
        if begun.shell.last_trace:  # one that the cell itself had shown
            print("\n".join(begun.shell.last_trace), file=sys.stderr)
        _give_back(begun, sent[0])
    _flush()
    os._exit(0)  # threads of the cell's must not keep it


def _run(begun: Started) -> BaseException | None:
    try:
        begun.channel.interruptible = True
        result = begun.shell.run_cell(begun.head["code"], store_history=True)
        begun.channel.interruptible = False
    except KeyboardInterrupt as interrupt:  # between two lines of IPython's
        begun.channel.interruptible = False
        return interrupt
    error: BaseException | None = result.error_before_exec or result.error_in_exec
    return error


def _described(error: BaseException | None, trace: list[str]) -> dict[str, Any]:
    if error is None:
        return {"ename": "", "evalue": "", "trace": [], "no_memory": False, "line": 0}
    try:
        text = str(error)
    except Exception as other:
        text = f"<no text: {type(other).__name__}>"
    whole = "\n".join(trace)
    return {
        "ename": type(error).__name__,
        "evalue": text[:_MAX_TRACE],
        "trace": [whole[-_MAX_TRACE:]] if whole else [],
        "no_memory": is_allocation_error(error),
        "line": _line_of(error),
    }


def _line_of(error: BaseException) -> int:
    """The innermost line of the cell that it came through; 0 if none."""
    line, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename.startswith(CELL_FILE):
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def _give_back(begun: Started, sent: Sent) -> None:
    room_bytes: int = begun.base.used_bytes + begun.head["bound_bytes"]

    def spare_bytes() -> int:
        return room_bytes - read_process().used_bytes

    try:
        changes = changes_of(begun.shell.user_ns, sent, begun.shell.last_values, spare_bytes)
        blocks = [memoryview(changes.packed.blob), *(one.raw() for one in changes.packed.buffers)]
    except Exception as error:  # most likely: no memory
        begun.channel.tell({"kind": "kept", "why": f"{type(error).__name__}: {error}"[:300]})
        return
    begun.channel.tell(
        {
            "kind": "back",
            "sizes": [block.nbytes for block in blocks],
            "names": changes.names,
            "modules": changes.modules,
            "deleted": changes.deleted,
            "left": changes.left,
        }
    )
    begun.waiter.wait()
    begun.channel.tell({"kind": "blocks"}, *blocks)


def _flush() -> None:
    """What C code has written and not sent yet."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).fflush(None)


if __name__ == "__main__":
    main()
