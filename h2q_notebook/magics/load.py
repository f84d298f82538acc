"""``%h2q_load``, ``%h2q_estimate``, ``%h2q_models`` and ``%h2q_unload``."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, Any

from IPython.core.magic import Magics, line_magic, magics_class, no_var_expand

from h2q_notebook.errors import BadArgument, H2QError
from h2q_notebook.load.ladder import LADDER, parse_ladder
from h2q_notebook.magics.arguments import MagicParser, as_usage_error, converted
from h2q_notebook.notebook.loads import LoadOptions
from h2q_notebook.units import parse_seconds, shorten

if TYPE_CHECKING:
    from h2q_notebook.notebook.session import Session

__all__ = ["LoadMagics", "parse_tokens"]

_TOKENS = re.compile(r"([0-9]{1,9})\s*(k?)", re.ASCII | re.IGNORECASE)


def parse_tokens(text: str) -> int:
    """Read a number of tokens: ``4096``, ``4k`` (4096), ``128K`` (131072).

    Raises:
        BadArgument: not one of these, or zero.
    """
    match = _TOKENS.fullmatch(text.strip())
    if match is None or not int(match[1]):
        raise BadArgument(f"{shorten(text)!r} is no number of tokens; write for example 4096 or 4k")
    return int(match[1]) * (1024 if match[2] else 1)


def _parse_idle(text: str) -> float:
    return parse_seconds(text, field="idle")


def _options(parser: MagicParser) -> MagicParser:
    """What loads and estimates share."""
    add = parser.add_argument
    add("source", metavar="MODEL", help="a directory, a GGUF file, org/name, h2q://tiny-deepseek")
    add("--budget", default=None, metavar="SIZE", help="what the load may add; none: what is free")
    add("--dtype", choices=("auto", "bf16", "fp16", "fp32"), default="auto")
    add("--ladder", type=converted(parse_ladder), default=LADDER, metavar="STEPS",
        help=f"forms to try, in order ({','.join(LADDER)})")  # fmt: skip
    add("--device", default=None, help="auto, cpu, cuda, cuda:1 or mps (the setting device: cpu)")
    add("--batch", type=int, default=1, metavar="N", help="prompts at once (1)")
    add("--task", default=None, help="seq2seq, embeddings ... (what the config names)")
    return parser


def _load_parser() -> MagicParser:
    text = "Load a transformers model under a memory budget; all or nothing."
    parser = _options(MagicParser("%h2q_load", text))
    add = parser.add_argument
    add("--as", dest="name", default="model", metavar="NAME", help="name to bind (model)")
    add("--context", type=converted(parse_tokens), default=None, metavar="TOKENS",
        help="also leave room to run a prompt of this length (4096, 4k)")  # fmt: skip
    add("--replace", action="store_true",
        help="the model of that name may go first, where that gives a better form")  # fmt: skip
    return parser


def _estimate_parser() -> MagicParser:
    text = "Show what every form of a model would take, without loading it."
    parser = _options(MagicParser("%h2q_estimate", text))
    parser.add_argument(
        "--context", type=converted(parse_tokens), default=4096, metavar="TOKENS",
        help="prompt length the run figures are for (4096)",
    )  # fmt: skip
    return parser


def _unload_parser() -> MagicParser:
    parser = MagicParser("%h2q_unload", "Give loaded models' memory back; tells who keeps one.")
    add = parser.add_argument
    add("name", nargs="?", default=None, metavar="NAME", help="the name it was loaded as")
    add("--idle", type=converted(_parse_idle), default=None, metavar="TIME",
        help="every model not used for so long (10m)")  # fmt: skip
    add("--all", action="store_true", dest="everything", help="every model")
    return parser


_LOAD, _ESTIMATE, _UNLOAD = _load_parser(), _estimate_parser(), _unload_parser()


def _asked(given: argparse.Namespace) -> LoadOptions:
    values = vars(given)
    values["context_tokens"] = values.pop("context")
    return LoadOptions(**values)


@magics_class
class LoadMagics(Magics):
    """Models: what they take, loading them, and giving them back."""

    def __init__(self, shell: Any, session: Session) -> None:
        super().__init__(shell)
        self._session = session

    @no_var_expand
    @line_magic
    def h2q_load(self, line: str) -> None:
        """Load a model in stages under a budget; on any failure nothing has changed."""
        try:
            self._session.loads.load(_asked(_LOAD.parse_line(line)))
        except H2QError as error:
            raise as_usage_error(error) from None

    @no_var_expand
    @line_magic
    def h2q_estimate(self, line: str) -> None:
        """Show bytes, fit and price of every form of a model; a config.json alone will do."""
        try:
            self._session.loads.estimate(_asked(_ESTIMATE.parse_line(line)))
        except H2QError as error:
            raise as_usage_error(error) from None

    @no_var_expand
    @line_magic
    def h2q_models(self, line: str) -> None:
        """Show the models that h2q has loaded and that still live."""
        try:
            if line.strip():
                raise BadArgument(f"%h2q_models: takes no argument, got {shorten(line.strip())!r}")
            self._session.loads.show_models()
        except H2QError as error:
            raise as_usage_error(error) from None

    @no_var_expand
    @line_magic
    def h2q_unload(self, line: str) -> None:
        """Take models out of the notebook and give their memory back."""
        try:
            given = _UNLOAD.parse_line(line)
            self._session.loads.unload(given.name, idle_s=given.idle, everything=given.everything)
        except H2QError as error:
            raise as_usage_error(error) from None


for _magic, _parser in (("h2q_load", _LOAD), ("h2q_estimate", _ESTIMATE), ("h2q_unload", _UNLOAD)):
    _function = getattr(LoadMagics, _magic)
    _function.__doc__ = f"{_function.__doc__}\n\n{_parser.format_help()}"
