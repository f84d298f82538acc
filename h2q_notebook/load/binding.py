"""Binding a loaded model to names: all of them once everything has succeeded, or none.

Needs no IPython: the names go into whatever mapping is passed.
"""

from __future__ import annotations

import builtins
import keyword
import os
from collections.abc import MutableMapping
from dataclasses import replace
from typing import Any

from h2q_notebook.errors import BadArgument
from h2q_notebook.load.loader import MemorySafeModelLoader
from h2q_notebook.load.outcome import LoadOutcome
from h2q_notebook.load.registry import ModelRegistry
from h2q_notebook.units import shorten

__all__ = ["check_name", "companion_name", "load_into"]


def check_name(name: str) -> str:
    """A name the model may be bound to.

    Raises:
        BadArgument: not an identifier, a keyword, a builtin, or with a leading underscore.
    """
    shown = shorten(name)
    if not name.isidentifier() or keyword.iskeyword(name):
        raise BadArgument(f"--as: {shown!r} is not a name Python can bind; write for example model")
    if name.startswith("_"):
        raise BadArgument(f"--as: {shown!r} begins with an underscore, as IPython's own names do")
    if hasattr(builtins, name):
        raise BadArgument(f"--as: {shown!r} would hide Python's own {shown}; choose another name")
    return name


def companion_name(name: str, what: str) -> str:
    """The name its tokenizer or processor gets.

    Args:
        name: the model's.
        what: ``tokenizer`` or ``processor``; that is the name beside ``model``, and
            ``<name>_<what>`` beside any other.
    """
    return what if name == "model" else f"{name}_{what}"


def load_into(
    namespace: MutableMapping[str, Any],
    source: str | os.PathLike[str],
    *,
    budget_bytes: int,
    name: str = "model",
    loader: MemorySafeModelLoader | None = None,
    registry: ModelRegistry | None = None,
    **options: Any,
) -> LoadOutcome:
    """Load a model and bind it, with its tokenizer and processor, only once all has succeeded.

    Args:
        namespace: gets *name* and, where the model has them, those of ``companion_name``.
        source: as for ``MemorySafeModelLoader.load``.
        budget_bytes: what the load may add.
        name: the ``--as`` name.
        loader: a loader of your own; None for a plain one.
        registry: remembers the model weakly.
        options: every further keyword of ``MemorySafeModelLoader.load``.

    Raises:
        BaseException: as ``load``; the namespace is untouched then.
    """
    check_name(name)
    outcome = (loader or MemorySafeModelLoader()).load(source, budget_bytes=budget_bytes, **options)
    names = {name: outcome.model}
    for what in ("tokenizer", "processor"):
        companion = getattr(outcome, what)
        if companion is not None:
            names[companion_name(name, what)] = companion
    namespace.update(names)
    outcome = replace(outcome, names=tuple(names))
    if registry is not None:
        registry.add(name, outcome)
    return outcome
