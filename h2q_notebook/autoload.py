"""``h2q autoload on``: load h2q in every kernel of this Python environment, and ``off`` again.

Covers one file, ``etc/ipython/ipython_config.py`` under ``sys.prefix``, which IPython reads before
the user's own profile. Not the profile itself: it is shared by all of a user's environments, and
one without h2q would complain at each start. What else stands in the file is kept.
"""

from __future__ import annotations

import sys
from pathlib import Path

from h2q_notebook.errors import BadArgument
from h2q_notebook.whole_file import write_whole

__all__ = ["config_file", "is_on", "switch"]

_BEGIN, _END = "# >>> h2q autoload >>>", "# <<< h2q autoload <<<"
_BLOCK = f"""{_BEGIN}
# Written by "h2q autoload on"; "h2q autoload off" takes it out.
# Appended and not set: the extensions of the user's own profile stay.
get_config().InteractiveShellApp.extensions.append("h2q")  # noqa: F821
{_END}
"""


def config_file(prefix: str = sys.prefix) -> Path:
    """The file that IPython reads for every kernel and terminal of an environment."""
    return Path(prefix) / "etc" / "ipython" / "ipython_config.py"


def is_on(file: Path) -> bool:
    """Whether the block stands in *file*."""
    return _BEGIN in _text(file)


def switch(file: Path, *, on: bool) -> bool:
    """Put the block into *file* or take it out; an empty file goes with it.

    Args:
        file: see ``config_file``.
        on: whether it shall stand there.

    Returns:
        Whether anything had to be changed.

    Raises:
        BadArgument: the file cannot be written, or somebody cut the block in two.
    """
    before = _text(file)
    if (_BEGIN in before) == on:
        return False
    try:
        if on:
            file.parent.mkdir(parents=True, exist_ok=True)
            gap = "" if not before or before.endswith("\n") else "\n"
            write_whole(file, f"{before}{gap}{_BLOCK}".encode(), mode=0o644)
            return True
        rest = _without_block(before, file)
        if rest.strip():
            write_whole(file, rest.encode(), mode=0o644)
        else:
            file.unlink()
    except OSError as error:
        raise BadArgument(f"autoload: {file} cannot be written: {error.strerror}") from None
    return True


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        raise BadArgument(f"autoload: {file} cannot be read: {error}") from None


def _without_block(text: str, file: Path) -> str:
    head, _, more = text.partition(_BEGIN)
    _, end, tail = more.partition(_END)
    if not end:
        raise BadArgument(
            f"autoload: the end of h2q's block is gone from {file}; take it out there"
        )
    return head + tail.lstrip("\n")
