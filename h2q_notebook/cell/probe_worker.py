"""The process that runs a cell once on copies, and says what it took.

Started as ``python -m h2q_notebook.cell.probe_worker RESULT_FD``; everything comes through its
standard input: a JSON head, the pickle, the buffers, each after its length. It ends with its
kernel: when the input closes.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pickle
import struct
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from typing import Any, BinaryIO

from h2q_notebook.guardian.peak import PeakMark, peak_above
from h2q_notebook.guardian.reclaim import trim_heap
from h2q_notebook.readings.process import read_process

__all__ = ["main"]


def main() -> None:
    """Read, run, tell."""
    source = sys.stdin.buffer
    head = json.loads(_block(source))
    sys.path[:] = head["path"]
    shell = _shell()
    names, missing = _names(head, source)
    shell.user_ns.update(names)
    del names
    threading.Thread(target=_end_with, args=(source,), daemon=True).start()
    gc.collect()
    trim_heap()
    base = read_process()
    _bound(base.data_bytes + head["limit_bytes"])
    with os.fdopen(int(sys.argv[1]), "w", buffering=1) as told:
        told.write(json.dumps({"base_bytes": base.used_bytes, "missing": missing}) + "\n")
        mark = PeakMark()
        result = shell.run_cell(head["code"], store_history=False)
        end = read_process()
        peak, exact = peak_above(
            base, replace(end, peak_rss_bytes=mark.close(end.peak_rss_bytes)), 0
        )
        error = result.error_before_exec or result.error_in_exec
        told.write(
            json.dumps(
                {
                    "peak_bytes": peak,
                    "exact": exact,
                    "retained_bytes": end.used_bytes - base.used_bytes,
                    "error": f"{type(error).__name__}: {error}"[:300] if error else "",
                    "no_memory": isinstance(error, MemoryError),
                }
            )
            + "\n"
        )
    os._exit(0)  # threads of the cell's must not keep it


def _shell() -> Any:
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "NoColor"
    return InteractiveShell.instance(config=config)


def _names(head: dict[str, Any], source: BinaryIO) -> tuple[dict[str, Any], list[str]]:
    blob = _block(source)
    buffers = [_block(source) for _ in range(head["n_buffers"])]
    names: dict[str, Any] = {}
    missing = []
    for name, module in head["modules"].items():
        try:
            names[name] = importlib.import_module(module)
        except Exception as error:  # a module that was made by hand, or a file that is gone
            missing.append(f"{name} ({type(error).__name__})")
    names.update(pickle.loads(blob, buffers=buffers))
    return names, missing


def _block(source: BinaryIO) -> bytearray:
    (n_bytes,) = struct.unpack("<Q", source.read(8))
    block = bytearray(n_bytes)  # writable: arrays that lie in it must be, too
    view, at = memoryview(block), 0
    while at < n_bytes:
        got = source.readinto(view[at:])  # type: ignore[attr-defined]
        if not got:
            os._exit(1)
        at += got
    return block


def _bound(data_bytes: int) -> None:
    """A single call must not take more than the machine has, however fast."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        soft = data_bytes if hard == resource.RLIM_INFINITY else min(data_bytes, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _end_with(source: BinaryIO) -> None:
    source.read(1)
    os._exit(1)


if __name__ == "__main__":
    main()
