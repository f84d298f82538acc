"""The IPython shell of an isolated cell's worker: what the cell shows goes to the kernel.

Covers streams, displays, the value of the last expression, tracebacks. Order is kept among all
that goes through Python; what C code and child processes write comes through pipes of its own.
"""

from __future__ import annotations

import builtins
import getpass
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.error import StdinNotImplementedError
from IPython.core.interactiveshell import InteractiveShell
from traitlets import Type
from traitlets.config import Config

from h2q_notebook.cell.worker_side import Channel
from h2q_notebook.units import MIB, format_bytes

__all__ = ["CELL_FILE", "WorkerShell", "make_shell"]

CELL_FILE = "<ipython-input-"
"""How the names begin that IPython gives to the code of a cell."""
_PIECE = 32_768
_MAX_SHOWN_BYTES = 64 * MIB


class _Stream(io.TextIOBase):
    """``sys.stdout`` or ``sys.stderr`` of the cell."""

    def __init__(self, channel: Channel, name: str, fd: int) -> None:
        self._channel = channel
        self._fd = fd
        self.name = name
        self.buffer = io.FileIO(fd, "w", closefd=False)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if self._channel.is_mine:
            for at in range(0, len(text), _PIECE):
                self._channel.tell(
                    {"kind": "text", "name": self.name, "text": text[at : at + _PIECE]}
                )
        else:  # a process that the cell forked
            os.write(self._fd, text.encode(errors="replace"))
        return len(text)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd


class _Publisher(DisplayPublisher):
    def publish(
        self,
        data: dict[str, Any],
        metadata: dict[str, Any] | None = None,
        *_: Any,
        transient: dict[str, Any] | None = None,
        update: bool = False,
        **__: Any,
    ) -> None:
        self.shell.show("display", data, metadata, transient=transient or {}, update=bool(update))

    def clear_output(self, wait: bool = False) -> None:
        self.shell.channel.tell({"kind": "clear", "wait": bool(wait)})


class _Hook(DisplayHook):
    """Keeps the last value, and shows it where the kernel would."""

    def start_displayhook(self) -> None:
        self._is_active = True

    def write_output_prompt(self) -> None:
        return None

    def write_format_data(
        self, format_dict: dict[str, Any], md_dict: dict[str, Any] | None = None
    ) -> None:
        _own(self.shell).show("result", format_dict, md_dict)

    def finish_displayhook(self) -> None:
        self._is_active = False

    def update_user_ns(self, result: Any) -> None:
        super().update_user_ns(result)  # type: ignore[no-untyped-call]
        _own(self.shell).last_values[:] = [result]


class WorkerShell(InteractiveShell):
    """Runs the one cell."""

    display_pub_class = Type(_Publisher)
    displayhook_class = Type(_Hook)
    channel: Channel

    def __init__(self, **more: Any) -> None:
        self.last_values: list[Any] = []
        self.last_trace: list[str] = []
        super().__init__(**more)  # type: ignore[no-untyped-call]

    def show(
        self, kind: str, data: dict[str, Any], metadata: dict[str, Any] | None, **more: Any
    ) -> None:
        """Send one MIME bundle, unless it is absurdly large."""
        large = {mime for mime, one in data.items() if _size(one) > _MAX_SHOWN_BYTES}
        if large:
            told = ", ".join(f"{mime} {format_bytes(_size(data[mime]))}" for mime in large)
            data = {mime: one for mime, one in data.items() if mime not in large}
            data.setdefault("text/plain", f"<too large to show: {told}>")
        self.channel.tell({"kind": kind, "data": data, "metadata": metadata or {}, **more})

    def _get_exc_info(self, exc_tuple: Any = None) -> Any:
        """Without the frame of our handler of interrupts."""
        info = super()._get_exc_info(exc_tuple)  # type: ignore[no-untyped-call]
        trace = info[2]
        while trace is not None and trace.tb_next is not None:
            if trace.tb_next.tb_frame.f_code is Channel.on_interrupt.__code__:
                trace.tb_next = None
            trace = trace.tb_next
        return info

    def _showtraceback(self, etype: Any, evalue: Any, stb: list[str]) -> None:
        """The last one is the cell's own, shown by the kernel; earlier ones are output."""
        if self.last_trace:
            print("\n".join(self.last_trace), file=sys.stderr)
        self.last_trace = list(stb)

    @contextmanager
    def _tee(self, channel: str) -> Iterator[None]:
        """IPython 9 would keep all that is printed: the kernel's history does."""
        yield

    def ask_exit(self) -> NoReturn:
        """What ``exit`` calls."""
        raise SystemExit


def _own(shell: Any) -> WorkerShell:
    """Of a publisher or hook, which know it as any shell."""
    assert isinstance(shell, WorkerShell)
    return shell


def make_shell(head: dict[str, Any], channel: Channel) -> WorkerShell:
    """The shell of this process, as the kernel's is set."""
    sys.stdout = _Stream(channel, "stdout", 1)
    sys.stderr = _Stream(channel, "stderr", 2)
    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = head["colors"]
    config.InteractiveShell.ast_node_interactivity = head["interactivity"]
    shell = WorkerShell.instance(config=config)
    shell.channel = channel
    shell.execution_count = head["execution_count"]
    builtins.input = getpass.getpass = _no_input
    return shell


def _no_input(prompt: object = "", *_: Any, **__: Any) -> NoReturn:
    __tracebackhide__ = True
    raise StdinNotImplementedError(
        "input() has nobody to ask in a cell with --isolate; set the value in a cell before"
    )


def _size(value: Any) -> int:
    return len(value) if isinstance(value, (str, bytes)) else 0
