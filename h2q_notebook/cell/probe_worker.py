"""The process that runs a cell once on copies, and says what it took."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from typing import Any

from h2q_notebook.cell.worker_side import Channel, bound, start
from h2q_notebook.guardian.peak import PeakMark, peak_above
from h2q_notebook.readings.process import read_process

__all__ = ["main"]


def main() -> None:
    """Read, run, tell."""
    begun = start(_shell)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    bound(begun.base.data_bytes + begun.head["limit_bytes"])
    mark = PeakMark()
    result = begun.shell.run_cell(begun.head["code"], store_history=False)
    end = read_process()
    end = replace(end, peak_rss_bytes=mark.close(end.peak_rss_bytes))
    peak, exact = peak_above(begun.base, end, 0)
    error = result.error_before_exec or result.error_in_exec
    begun.channel.tell(
        {
            "kind": "ended",
            "peak_bytes": peak,
            "exact": exact,
            "retained_bytes": end.used_bytes - begun.base.used_bytes,
            "error": f"{type(error).__name__}: {error}"[:300] if error else "",
            "no_memory": isinstance(error, MemoryError),
        }
    )
    os._exit(0)  # threads of the cell's must not keep it


def _shell(head: dict[str, Any], channel: Channel) -> Any:
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "NoColor"
    return InteractiveShell.instance(config=config)


if __name__ == "__main__":
    main()
