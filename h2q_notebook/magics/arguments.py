"""One parser for all magics: argparse and shlex, with errors as one sentence.

IPython's ``parse_argstring`` keeps quotes in values and takes abbreviations; plain argparse exits
the process. ``$name`` and ``{expr}`` in a line are never expanded (``@no_var_expand``).
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from h2q_notebook.errors import BadArgument, H2QError
from h2q_notebook.units import shorten

__all__ = ["MagicParser", "as_usage_error", "converted"]

_T = TypeVar("_T")


class MagicParser(argparse.ArgumentParser):
    """Parses the line of a magic; raises BadArgument instead of exiting.

    Args:
        prog: the magic as typed, for example ``%h2q_load``.
        description: the first lines of its help.
    """

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(
            prog=prog,
            description=description,
            add_help=False,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        """Called by argparse for everything it cannot parse."""
        text = message.replace("argument ", "", 1) if message.startswith("argument ") else message
        raise BadArgument(f"{self.prog}: {shorten(text, 160)} (see {self.prog}?)")

    def parse_line(self, line: str) -> argparse.Namespace:
        """Split *line* as a shell would (quotes group, backslashes stay) and parse it.

        Raises:
            BadArgument: an unclosed quote, an unknown option, a wrong value.
        """
        lexer = shlex.shlex(line, posix=True, punctuation_chars=False)
        lexer.whitespace_split, lexer.commenters, lexer.escape = True, "", ""
        try:
            words = list(lexer)
        except ValueError:
            raise BadArgument(f"{self.prog}: a quote is not closed in {shorten(line)!r}") from None
        return self.parse_args(words)


def converted(convert: Callable[[str], _T]) -> Callable[[str], _T]:
    """Wrap a converter so that its BadArgument reaches the user word for word."""

    def call(text: str) -> _T:
        try:
            return convert(text)
        except BadArgument as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return call


def as_usage_error(error: H2QError) -> Exception:
    """IPython's UsageError, which is shown as one line without a traceback.

    It must be exactly that class: IPython formats subclasses as ordinary errors (ipython#14024).
    """
    from IPython.core.error import UsageError

    usage: Any = UsageError(str(error))
    usage.__cause__ = None
    usage.__suppress_context__ = True
    return usage  # type: ignore[no-any-return]
