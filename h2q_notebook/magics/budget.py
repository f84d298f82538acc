"""``%%h2q_budget`` and ``%h2q_budget``: the line, its options, and the input transformer.

The line is taken off before the cell runs; the cell's own text is never rewritten, so that line
numbers, multi-line strings, ``await`` and other magics stay what they were.
"""

from __future__ import annotations

import re
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from IPython.core.magic import Magics, line_cell_magic, magics_class, no_var_expand

from h2q_notebook.cell.options import BudgetOptions
from h2q_notebook.errors import BadArgument, H2QError
from h2q_notebook.guardian.gate_rules import LEVELS
from h2q_notebook.magics.arguments import MagicParser, as_usage_error, converted
from h2q_notebook.units import parse_bytes, parse_seconds

if TYPE_CHECKING:
    from h2q_notebook.notebook.session import Session

__all__ = ["BudgetMagics", "budget_line", "options_of", "parse_budget", "strip_budget_line"]

_LINE = re.compile(r"%%h2q_budget(?:[ \t]+(.*?))?[ \t\r]*")


def _parser() -> MagicParser:
    parser = MagicParser(
        "%%h2q_budget",
        "Run a cell under a memory budget: over it, the cell is stopped, undone, its memory freed.",
    )
    add = parser.add_argument
    add("size", nargs="?", metavar="SIZE", help="2GiB, 512MB, 1.5g, 25%%; none: what is free")
    add("--on-overrun", choices=("rollback", "keep", "warn"), default="rollback")
    add("--rollback", choices=("names", "deep"), default="names", help="deep: contents too")
    add("--deep-limit", type=converted(lambda t: parse_bytes(t, field="--deep-limit")))
    add("--strict", action="store_true", help="limits that can end the kernel (see README)")
    add("--no-refuse", action="store_true", help="no size check of numpy and torch requests")
    add("--gate", choices=tuple(LEVELS), help="what the compiled gate may refuse (docs/gate.md)")
    add("--gpu", metavar="SIZE", help="budget of each GPU, too: 2GiB, 50%%")
    add("--no-gauge", action="store_true")
    add("--quiet", action="store_true", help="no line after a good cell")
    add("--probe", action="store_true", help="run a copy elsewhere, and say what it would take")
    add("--isolate", action="store_true", help="run it in a worker; bring back what it made")
    add("--timeout", type=converted(lambda t: parse_seconds(t, field="--timeout")))
    add("--name", default="", metavar="LABEL")
    return parser


_PARSER = _parser()


def parse_budget(line: str) -> BudgetOptions:
    """Read the options of a budget line.

    Raises:
        BadArgument: with one sentence that names the option and the value.
    """
    given = _PARSER.parse_line(line)
    if given.size is not None:
        parse_bytes(given.size, of_bytes=1 << 40)  # the spelling; what 25% is, is known later
    if given.gpu is not None:
        parse_bytes(given.gpu, of_bytes=1 << 40, field="--gpu")
    if given.strict and given.on_overrun == "warn":
        raise BadArgument("--strict: it stops cells, so it cannot go with --on-overrun warn")
    if given.gate in ("on", "wide") and (given.no_refuse or given.on_overrun == "warn"):
        other = "--no-refuse" if given.no_refuse else "--on-overrun warn"
        raise BadArgument(f"--gate {given.gate}: it refuses requests, so it cannot go with {other}")
    if given.deep_limit is not None and given.rollback != "deep":
        raise BadArgument("--deep-limit: it needs --rollback deep")
    if given.isolate:
        _check_isolated(given)
    if len(given.name) > 200:
        raise BadArgument("--name: longer than 200 characters; give a shorter label")
    return BudgetOptions(
        size=given.size,
        on_overrun=given.on_overrun,
        contents=given.rollback,
        deep_limit_bytes=given.deep_limit,
        strict=given.strict,
        refuse=not given.no_refuse,
        gate=given.gate,
        gpu=given.gpu,
        gauge=not given.no_gauge,
        quiet=given.quiet,
        timeout_s=given.timeout,
        probe=given.probe,
        isolate=given.isolate,
        label=given.name,
    )


def _check_isolated(given: Namespace) -> None:
    """Refuse what makes no sense for a cell that cannot change the kernel until it has ended."""
    reasons = {
        "--probe": given.probe and "both run the cell elsewhere; choose one",
        "--strict": given.strict and "the worker has a hard limit anyway",
        "--gate": given.gate is not None and "the gate refuses in the kernel alone",
        "--gpu": given.gpu is not None and "devices are limited in the kernel alone",
        "--rollback deep": given.rollback == "deep"
        and "a cell that does not end well changes nothing anyway",
        f"--on-overrun {given.on_overrun}": given.on_overrun != "rollback"
        and "over its budget the worker is ended, and nothing of it is left",
    }
    for option, why in reasons.items():
        if why:
            raise BadArgument(f"--isolate: it cannot go with {option}: {why}")


def budget_line(raw_cell: str) -> str | None:
    """The text after ``%%h2q_budget`` on the first line; None if the cell has no such line."""
    match = _LINE.fullmatch(raw_cell.lstrip("\n").split("\n", 1)[0])
    return None if match is None else match[1] or ""


def options_of(raw_cell: str) -> BudgetOptions | None:
    """The options a cell asks for on its first line; None if it has none, or runs elsewhere.

    Raises:
        BadArgument: the line cannot be parsed.
    """
    line = budget_line(raw_cell)
    options = None if line is None else parse_budget(line)
    return None if options is not None and (options.probe or options.isolate) else options


def strip_budget_line(lines: list[str]) -> list[str]:
    """Input transformer: take a valid budget line off the cell.

    A line that cannot be parsed stays, so that the cell magic of that name runs and says what is
    wrong, without the cell's body having run. Before another cell magic the line goes altogether
    (a cell magic must come first); elsewhere a comment keeps the line numbers.
    """
    text = budget_line("".join(lines[:1])) if lines else None
    if text is None:
        return lines
    try:
        options = parse_budget(text)
    except BadArgument:
        return lines
    if options.probe or options.isolate:
        return lines  # the magic takes the cell elsewhere
    rest = lines[1:]
    return rest if rest and rest[0].startswith("%%") else ["# %%h2q_budget\n", *rest]


@magics_class
class BudgetMagics(Magics):
    """The budget magics of one session."""

    def __init__(self, shell: Any, session: Session) -> None:
        super().__init__(shell)
        self._session = session

    @no_var_expand
    @line_cell_magic
    def h2q_budget(self, line: str, cell: str | None = None) -> None:
        """Guard a cell (%%h2q_budget) or every following cell (%h2q_budget SIZE | off)."""
        try:
            if cell is not None:
                options = parse_budget(line)
                if options.probe:
                    self._session.probe(options, cell)
                elif options.isolate:
                    self._session.isolated.run(options, cell)
                else:
                    self._session.run_guarded(f"%%h2q_budget {line}\n{cell}")
            elif line.strip() == "off":
                self._session.set_default(None)
            else:
                options = parse_budget(line)
                if options.probe:
                    raise BadArgument("--probe: it is for one cell: %%h2q_budget SIZE --probe")
                if options.isolate:
                    raise BadArgument("--isolate: it is for one cell: %%h2q_budget SIZE --isolate")
                self._session.set_default(options)
        except H2QError as error:
            raise as_usage_error(error) from None


_HELP = "\n\n" + _PARSER.format_help()
BudgetMagics.h2q_budget.__doc__ = (BudgetMagics.h2q_budget.__doc__ or "") + _HELP
