"""The settings as ``%config H2Q`` and ``ipython_config.py`` know them.

Made from ``MemorySafeConfig``, so that a setting exists once. A trait that is given a wrong value
keeps its old one, and IPython shows the sentence.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from traitlets import Any as AnyTrait
from traitlets import TraitError
from traitlets.config import Configurable

from h2q_notebook.config.settings import MemorySafeConfig, Range
from h2q_notebook.units import shorten

__all__ = ["H2Q", "configured"]


class _Setting(AnyTrait):
    """A trait with the range of a setting."""

    def __init__(self, default: Any, allowed: Range, help_text: str) -> None:
        super().__init__(default, help=f"{help_text} ({allowed.words()})", allow_none=True)
        self._allowed = allowed
        self.tag(config=True)

    def validate(self, obj: Any, value: Any) -> Any:
        """Take it, or say what it may be."""
        if not self._allowed.holds(value):
            raise TraitError(
                f"{self.name}: {shorten(repr(value))} is outside {self._allowed.words()}"
            )
        return value


class _Base(Configurable):
    """What all settings share; ``changed`` is called with a name and a value."""

    def __init__(self, changed: Callable[[str, Any], None] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if changed is not None:
            self.observe(lambda change: changed(change["name"], change["new"]), type="change")


def _traits() -> dict[str, _Setting]:
    return {
        one.name: _Setting(one.default, one.metadata["range"], one.metadata["help"])
        for one in dataclasses.fields(MemorySafeConfig)
    }


H2Q: Any = type("H2Q", (_Base,), {**_traits(), "__doc__": "Settings of h2q (%config H2Q)."})
"""The class that ``%config H2Q`` lists."""


def configured(traits: Any) -> dict[str, Any]:
    """The settings that ``ipython_config.py`` gave, without the defaults."""
    section = getattr(traits, "config", {}).get("H2Q", {})
    return {name: getattr(traits, name) for name in section if name in traits.trait_names()}
