"""The command ``h2q`` (also ``python -m h2q_notebook``): what is done outside a notebook."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from h2q_notebook import __version__
from h2q_notebook.autoload import config_file, is_on, switch
from h2q_notebook.errors import H2QError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; returns the exit code."""
    parser = argparse.ArgumentParser(prog="h2q", description="Keeps notebooks alive.")
    parser.add_argument("--version", action="version", version=f"h2q-notebook {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    autoload = commands.add_parser(
        "autoload", help="load h2q in every kernel of this Python environment, or no longer"
    )
    autoload.add_argument(
        "state",
        nargs="?",
        choices=("on", "off", "status"),
        default="status",
        help="default: status",
    )
    state = parser.parse_args(arguments).state
    file = config_file()
    try:
        changed = state != "status" and switch(file, on=state == "on")
        word = "on" if is_on(file) else "off"
    except H2QError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"autoload is {word}{_more(word, changed)} ({file})")
    return 0


def _more(word: str, changed: bool) -> str:
    if not changed:
        return ""
    return f": kernels that start from now on {'have' if word == 'on' else 'do without'} h2q"


if __name__ == "__main__":
    sys.exit(main())
