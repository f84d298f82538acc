"""What an isolated cell's worker says, read and shown while it runs.

Covers the pipes. A flood of output does not fill the kernel: it is read no faster than it can be
sent on, and the cell waits at its pipe.
"""

from __future__ import annotations

import codecs
import json
import os
import select
import time
from dataclasses import dataclass, field
from typing import Any, Protocol

from h2q_notebook.cell.worker import Worker
from h2q_notebook.units import MIB

__all__ = ["Back", "Listener", "Screen"]

_READ_BYTES = 65_536
_POLL_MS = 20
_BURST_BYTES = 4 * MIB
_BYTES_PER_S = 8 * MIB
"""A client drops what it cannot take, the end of the cell among it: zmq keeps 1000 messages. The
page of a notebook takes about 1 MB a second, a program some 50."""
_MAX_LINE_BYTES = 256 * MIB
_SAID_BYTES = 4096


class Screen(Protocol):
    """Where a cell shows what it has to show."""

    def text(self, name: str, text: str) -> None:
        """Write to ``stdout`` or ``stderr``."""

    def display(
        self,
        data: dict[str, Any],
        metadata: dict[str, Any],
        transient: dict[str, Any],
        update: bool,
    ) -> None:
        """What ``display`` shows."""

    def result(self, data: dict[str, Any], metadata: dict[str, Any]) -> None:
        """The value of an expression."""

    def clear(self, wait: bool) -> None:
        """What ``clear_output`` does."""


class Keeper(Protocol):
    """Who decides, as the worker goes on."""

    def begun(self, base_bytes: int) -> None:
        """It has its copies."""

    def ended(self, base_bytes: int) -> None:
        """The cell has ended well."""

    def fits(self, back: Back, retained_bytes: int) -> bool:
        """Whether there is room for what it would give back."""


@dataclass(slots=True)
class Back:
    """What the worker gives back."""

    sizes: list[int]
    """Bytes of the pickle, then of its buffers."""
    names: list[str]
    modules: dict[str, str]
    deleted: list[str]
    left: dict[str, str]
    blocks: list[bytearray] = field(default_factory=list)
    complete: bool = False


class _Pace:
    """How much may be read now: a burst, then so much a second."""

    def __init__(self) -> None:
        self._left = float(_BURST_BYTES)
        self._at_s = time.monotonic()

    def take(self, n_bytes: int) -> None:
        """So much was read; waits where it was too much."""
        now_s = time.monotonic()
        self._left = min(_BURST_BYTES, self._left + (now_s - self._at_s) * _BYTES_PER_S) - n_bytes
        self._at_s = now_s
        if self._left < 0:
            time.sleep(min(0.1, -self._left / _BYTES_PER_S))


class Listener:
    """Reads everything a worker says until it has ended.

    Args:
        worker: the worker.
        screen: where its cell shows.
        keeper: who is asked and told.
    """

    def __init__(self, worker: Worker, screen: Screen, keeper: Keeper) -> None:
        self._worker = worker
        self._screen = screen
        self._keeper = keeper
        self._pace = _Pace()
        self._line = bytearray()
        self._base_bytes = 0
        decoder = codecs.getincrementaldecoder("utf-8")
        self._plain = {
            fd: (name, decoder(errors="replace"))
            for fd, name in zip(worker.output_fds, ("stdout", "stderr"), strict=True)
        }
        self._raw_left = 0
        self._at = 0
        self._text: tuple[str, list[str]] = ("", [])
        self.missing: list[str] = []
        self.ended: dict[str, Any] | None = None
        self.back: Back | None = None
        self.refused = ""
        self.said = ""

    def listen(self) -> None:
        """Until it has ended, or there is nothing more to be had from it."""
        told = self._worker.told_fd
        open_fds = {told, *self._plain}
        poll = select.poll()  # not select: a kernel may have more than 1024 files open
        for fd in open_fds:
            poll.register(fd, select.POLLIN)
        while open_fds:
            gone = self._worker.has_ended()
            ready = poll.poll(0 if gone else _POLL_MS)
            for fd, _ in ready:
                data = os.read(fd, MIB if self._raw_left else _READ_BYTES)
                if not data:
                    open_fds.discard(fd)
                    poll.unregister(fd)
                elif fd == told:
                    self._hear(data)
                else:
                    self._hear_plain(fd, data)
            self._show_text()
            done = self.back is not None and self.back.complete
            if not ready and (gone or (done and told not in open_fds)):
                return  # what it started may keep the pipes open
            if self.refused:
                return

    def _hear_plain(self, fd: int, data: bytes) -> None:
        name, decoder = self._plain[fd]
        text = decoder.decode(data)
        if name == "stderr":
            self.said = (self.said + text)[-_SAID_BYTES:]
        self._add_text(name, text)
        self._pace.take(len(data))

    def _hear(self, data: bytes) -> None:
        if not self._raw_left:
            self._pace.take(len(data))
        at = 0
        while at < len(data):
            if self._raw_left:
                at += self._fill(memoryview(data)[at:])
                continue
            end = data.find(b"\n", at) + 1
            self._line += data[at : end or len(data)]
            if not end:
                if len(self._line) > _MAX_LINE_BYTES:
                    self.refused = "the worker said something that cannot be read"
                return
            line, self._line, at = bytes(self._line), bytearray(), end
            self._act(json.loads(line))

    def _fill(self, view: memoryview) -> int:
        """Put what came into the blocks of what is given back; how much that was."""
        assert self.back is not None
        blocks, n_view = self.back.blocks, len(view)
        while view and self._raw_left:
            if not blocks or self._at == len(blocks[-1]):
                blocks.append(bytearray(self.back.sizes[len(blocks)]))
                self._at = 0
            n = min(len(view), len(blocks[-1]) - self._at)
            blocks[-1][self._at : self._at + n] = view[:n]
            self._at += n
            self._raw_left -= n
            view = view[n:]
        self._finish_blocks()
        return n_view - len(view)

    def _finish_blocks(self) -> None:
        assert self.back is not None
        if not self._raw_left:
            for size in self.back.sizes[len(self.back.blocks) :]:  # empty ones at the end
                self.back.blocks.append(bytearray(size))
            self.back.complete = True

    def _act(self, message: dict[str, Any]) -> None:
        kind = message.pop("kind")
        if kind == "text":
            self._add_text(message["name"], message["text"])
            return
        self._show_text()
        if kind == "display":
            self._screen.display(**message)
        elif kind == "result":
            self._screen.result(**message)
        elif kind == "clear":
            self._screen.clear(**message)
        elif kind == "begun":
            self._base_bytes, self.missing = message["base_bytes"], message["missing"]
            self._keeper.begun(self._base_bytes)
        elif kind == "ended":
            self.ended = message
            if not message["ename"]:
                self._keeper.ended(self._base_bytes)
        elif kind == "unread":
            self.refused = f"the names it needs cannot be read in the worker: {message['why']}"
        elif kind == "kept":
            self.refused = f"what it made could not be packed: {message['why']}"
        elif kind == "back":
            self._offer(Back(**message))
        elif kind == "blocks":
            assert self.back is not None
            self._raw_left = sum(self.back.sizes)
            self._finish_blocks()

    def _offer(self, back: Back) -> None:
        assert self.ended is not None
        if not self._keeper.fits(back, self.ended["retained_bytes"]):
            self.refused = "no room"
            return
        self.back = back
        self._worker.go_on()

    def _add_text(self, name: str, text: str) -> None:
        """Join what comes in small pieces."""
        known, pieces = self._text
        if known != name:
            self._show_text()
            known, pieces = name, []
        pieces.append(text)
        self._text = (known, pieces)

    def _show_text(self) -> None:
        (name, pieces), self._text = self._text, ("", [])
        if pieces:
            self._screen.text(name, "".join(pieces))
