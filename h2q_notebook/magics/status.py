"""``%h2q_status`` and ``%h2q_gauge``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from IPython.core.magic import Magics, line_magic, magics_class, no_var_expand

from h2q_notebook.errors import BadArgument, H2QError
from h2q_notebook.magics.arguments import as_usage_error
from h2q_notebook.units import shorten

if TYPE_CHECKING:
    from h2q_notebook.notebook.session import Session

__all__ = ["StatusMagics"]


@magics_class
class StatusMagics(Magics):
    """Looking at the session."""

    def __init__(self, shell: Any, session: Session) -> None:
        super().__init__(shell)
        self._session = session

    @no_var_expand
    @line_magic
    def h2q_status(self, line: str) -> None:
        """Show memory, lines of defence (on or off, and why), and the last guarded cells."""
        try:
            if line.strip():
                raise BadArgument(f"%h2q_status: takes no argument, got {shorten(line.strip())!r}")
            self._session.show_status()
        except H2QError as error:
            raise as_usage_error(error) from None

    @no_var_expand
    @line_magic
    def h2q_gauge(self, line: str) -> None:
        """Show a gauge of the whole kernel that stays; ``%h2q_gauge stop`` ends it."""
        try:
            if line.strip() not in ("", "stop"):
                raise BadArgument(
                    f"%h2q_gauge: takes nothing or stop, got {shorten(line.strip())!r}"
                )
            self._session.kernel_gauge(on=not line.strip())
        except H2QError as error:
            raise as_usage_error(error) from None
