"""``%h2q_bench``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from IPython.core.magic import Magics, line_magic, magics_class, no_var_expand

from h2q_notebook.bench.export import KINDS
from h2q_notebook.errors import BadArgument, H2QError
from h2q_notebook.load.ladder import parse_ladder
from h2q_notebook.magics.arguments import MagicParser, as_usage_error, converted
from h2q_notebook.notebook.benches import BenchOptions

if TYPE_CHECKING:
    from h2q_notebook.bench.outcome import BenchRun
    from h2q_notebook.notebook.session import Session

__all__ = ["BenchMagics"]


def _parser() -> MagicParser:
    parser = MagicParser("%h2q_bench", "Run a suite on a model: real answers, really judged.")
    add = parser.add_argument
    # fmt: off
    add("model", nargs="?", default=None, metavar="MODEL",
        help="a name in the notebook, or anything %%h2q_load takes (the one that is loaded)")
    add("--suite", default=None, metavar="NAME",
        help="h2q-15 (the default), addition-20, humaneval, or a .toml or .json file")
    # fmt: on
    add("--samples", type=int, default=None, metavar="K", help="answers to each case (1)")
    add("--temperature", type=float, default=None, help="0 is greedy (0)")
    add("--top-p", type=float, default=None, help="(1)")
    add("--max-new-tokens", type=int, default=None, metavar="N", help="(the suite's)")
    add("--seed", type=int, default=None, help="(0)")
    add("--preset", default=None, help="greedy, or r1 for models that think")
    add("--threads", type=int, default=None, metavar="N", help="(the idle processors' number)")
    add("--budget", default=None, metavar="SIZE", help="for loading MODEL; none: what is free")
    add("--dtype", choices=("auto", "bf16", "fp16", "fp32"), default="auto")
    add("--ladder", type=converted(parse_ladder), default=None, metavar="STEPS")
    add("--resume", default=None, metavar="RUN", help="go on with a run that was interrupted")
    add("--list", action="store_true", dest="list_runs", help="show all runs")
    add("--show", default=None, metavar="RUN", help="show a run (an id, its end, or last)")
    add("--compare", nargs="+", default=None, metavar="RUN", help="show runs side by side")
    add("--export", choices=KINDS, default=None, help="the run, or the last one, as a file here")
    add("--load", default=None, metavar="MODEL", help="compare ways of loading a model")
    return parser


_PARSER = _parser()
_INSTEAD = ("list_runs", "show", "compare", "load")


@magics_class
class BenchMagics(Magics):
    """What a model can do on this machine, and what it costs."""

    def __init__(self, shell: Any, session: Session) -> None:
        super().__init__(shell)
        self._session = session

    @no_var_expand
    @line_magic
    def h2q_bench(self, line: str) -> BenchRun | None:
        """Ask a model every case of a suite, judge its answers, and keep them."""
        try:
            return self._run(vars(_PARSER.parse_line(line)))
        except H2QError as error:
            raise as_usage_error(error) from None

    def _run(self, given: dict[str, Any]) -> BenchRun | None:
        benches = self._session.benches
        instead = {name: given.pop(name) for name in _INSTEAD}
        kind = given.pop("export")
        asked = [name for name, value in instead.items() if value]
        options = BenchOptions(**given)
        if instead["load"]:  # budget and dtype are its own, too
            how = {"budget": given.pop("budget"), "dtype": given.pop("dtype")}
        if len(asked) > 1 or (asked and BenchOptions(**given) != BenchOptions()):
            what = asked[0].replace("list_runs", "list")
            raise BadArgument(f"%h2q_bench: --{what} goes alone (see %h2q_bench?)")
        if instead["list_runs"]:
            benches.list()
        elif instead["compare"]:
            benches.compare(instead["compare"])
        elif instead["load"]:
            benches.ways_of_loading(instead["load"], **how)
        else:
            return self._one(instead["show"], options, kind)
        return None

    def _one(self, show: str | None, options: BenchOptions, kind: str | None) -> BenchRun:
        benches = self._session.benches
        if show is None and kind is not None and options == BenchOptions():
            show = "last"
        run = benches.store.load(show) if show is not None else benches.run(options)
        if kind is not None:
            print(f"h2q bench · written to {benches.export(run.run_id, kind)}")
        return run


BenchMagics.h2q_bench.__doc__ = f"{BenchMagics.h2q_bench.__doc__}\n\n{_PARSER.format_help()}"
