"""``%h2q_load``: load a model under a budget and bind it to a name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from IPython.core.magic import Magics, line_magic, magics_class, no_var_expand

from h2q_notebook.errors import H2QError
from h2q_notebook.magics.arguments import MagicParser, as_usage_error

if TYPE_CHECKING:
    from h2q_notebook.session import Session

__all__ = ["LoadMagics"]


def _parser() -> MagicParser:
    parser = MagicParser(
        "%h2q_load", "Load a transformers model under a memory budget; all or nothing."
    )
    add = parser.add_argument
    add("source", metavar="DIR_OR_NAME", help="a directory, a GGUF file, org/name, h2q://smollm2")
    add("--as", dest="name", default="model", metavar="NAME", help="name to bind (model)")
    add("--budget", default=None, metavar="SIZE", help="what the load may add; none: what is free")
    add("--dtype", choices=("auto", "bf16", "fp16", "fp32"), default="auto")
    return parser


_PARSER = _parser()


@magics_class
class LoadMagics(Magics):
    """Loading models."""

    def __init__(self, shell: Any, session: Session) -> None:
        super().__init__(shell)
        self._session = session

    @no_var_expand
    @line_magic
    def h2q_load(self, line: str) -> None:
        """Load a model in stages under a budget; on any failure nothing has changed."""
        try:
            given = _PARSER.parse_line(line)
            self._session.load(given.source, given.name, given.budget, given.dtype)
        except H2QError as error:
            raise as_usage_error(error) from None


LoadMagics.h2q_load.__doc__ = (LoadMagics.h2q_load.__doc__ or "") + "\n\n" + _PARSER.format_help()
