"""``%h2q_start``, ``%h2q_stop`` and ``%h2q_restart``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from IPython.core.magic import Magics, line_magic, magics_class, no_var_expand

from h2q_notebook.errors import BadArgument, H2QError
from h2q_notebook.load.ladder import LADDER, parse_ladder
from h2q_notebook.magics.arguments import MagicParser, as_usage_error, converted
from h2q_notebook.notebook.loads import LoadOptions
from h2q_notebook.units import shorten

if TYPE_CHECKING:
    from h2q_notebook.notebook.session import Session

__all__ = ["StartupMagics"]


def _parser() -> MagicParser:
    text = "Start guard, model and pipeline in order, or nothing: pipeline('...') answers then."
    parser = MagicParser("%h2q_start", text)
    add = parser.add_argument
    add(
        "source", nargs="?", default=None, metavar="MODEL", help="as for %%h2q_load; none: no model"
    )
    add("--as", dest="name", default="model", metavar="NAME", help="name to bind (model)")
    add("--budget", default=None, metavar="SIZE", help="what the load may add; none: what is free")
    add("--dtype", choices=("auto", "bf16", "fp16", "fp32"), default="auto")
    add("--ladder", type=converted(parse_ladder), default=LADDER, metavar="STEPS")
    return parser


_PARSER = _parser()


@magics_class
class StartupMagics(Magics):
    """Everything in order, and back."""

    def __init__(self, shell: Any, session: Session) -> None:
        super().__init__(shell)
        self._session = session

    @no_var_expand
    @line_magic
    def h2q_start(self, line: str) -> None:
        """Start guard, model and pipeline, or nothing."""
        try:
            given = vars(_PARSER.parse_line(line))
            options = None if given["source"] is None else LoadOptions(**given)
            self._session.starts.start(options)
        except H2QError as error:
            raise as_usage_error(error) from None

    @no_var_expand
    @line_magic
    def h2q_stop(self, line: str) -> None:
        """Undo what %h2q_start did."""
        self._plain("%h2q_stop", line, self._session.starts.stop)

    @no_var_expand
    @line_magic
    def h2q_restart(self, line: str) -> None:
        """Stop and start again; your other names stay."""
        self._plain("%h2q_restart", line, self._session.starts.restart)

    def _plain(self, name: str, line: str, do: Any) -> None:
        try:
            if line.strip():
                raise BadArgument(f"{name}: takes no argument, got {shorten(line.strip())!r}")
            do()
        except H2QError as error:
            raise as_usage_error(error) from None


StartupMagics.h2q_start.__doc__ = f"{StartupMagics.h2q_start.__doc__}\n\n{_PARSER.format_help()}"
