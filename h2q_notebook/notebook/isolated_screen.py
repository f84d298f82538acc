"""Where an isolated cell shows: the notebook, as if the cell ran in the kernel."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["NotebookScreen"]

_FLUSH_EVERY = 65_536
_RECORDED = 1 << 20
"""IPython 9 keeps all that a cell prints, for good, in its history: a flood stayed in the kernel.
"""


class NotebookScreen:
    """See ``cell.isolate_reading.Screen``.

    Args:
        shell: the IPython shell.
    """

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._unsent = self._recorded = 0

    def text(self, name: str, text: str) -> None:
        """Write it; now and then wait until it is sent, so that it does not pile up here."""
        stream = sys.stderr if name == "stderr" else sys.stdout
        text = text.encode("utf-8", "replace").decode()  # lone surrogates cannot be sent
        for at in range(0, len(text), _FLUSH_EVERY):
            piece = text[at : at + _FLUSH_EVERY]
            self._recorded += len(piece)
            if self._recorded <= _RECORDED:
                stream.write(piece)
            else:
                type(stream).write(stream, piece)  # past the recorder, which sits on the object
            self._unsent += len(piece)
            if self._unsent >= _FLUSH_EVERY:
                stream.flush()
                self._unsent = 0

    def display(
        self,
        data: dict[str, Any],
        metadata: dict[str, Any],
        transient: dict[str, Any],
        update: bool,
    ) -> None:
        """Publish it."""
        self._shell.display_pub.publish(
            data=data, metadata=metadata, transient=transient, update=update
        )

    def result(self, data: dict[str, Any], metadata: dict[str, Any]) -> None:
        """Show it as the value of the cell; the value itself comes at the end, if it can."""
        hook = self._shell.displayhook
        hook.start_displayhook()
        hook.write_output_prompt()
        hook.write_format_data(data, metadata)
        hook.log_output(data)
        hook.finish_displayhook()

    def clear(self, wait: bool) -> None:
        """Clear the output of the cell."""
        self._shell.display_pub.clear_output(wait=wait)
