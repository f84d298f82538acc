"""``import h2q`` and ``%load_ext h2q``: the public names of h2q_notebook, under the short name."""

from __future__ import annotations

from typing import Any

import h2q_notebook
from h2q_notebook.extension import load_ipython_extension, unload_ipython_extension

__all__ = sorted([*h2q_notebook.__all__, "bench", "load"])  # noqa: PLE0605 - one list, kept in one place


def __getattr__(name: str) -> Any:
    if name in ("bench", "load"):  # in the package itself these names are rooms
        from h2q_notebook import api

        return getattr(api, name)
    return getattr(h2q_notebook, name)


def __dir__() -> list[str]:
    return [*__all__, load_ipython_extension.__name__, unload_ipython_extension.__name__]
