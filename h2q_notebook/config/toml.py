"""TOML text to tables, on every Python that h2q runs on."""

from __future__ import annotations

import sys
from typing import Any

from h2q_notebook.errors import BadArgument, MissingExtra

__all__ = ["read_toml"]


def read_toml(text: str, label: str) -> dict[str, Any]:
    """The tables of a TOML text.

    Args:
        text: the text.
        label: how an error begins, up to "is not TOML".

    Raises:
        BadArgument: it is not TOML.
        MissingExtra: Python 3.10 without tomli.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        try:
            import tomli as tomllib
        except ImportError:
            raise MissingExtra("tomli", "bench") from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadArgument(f"{label} is not TOML: {error}") from None
