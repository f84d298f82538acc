"""The settings of one session: all layers together, and what changes them while it runs.

Covers gathering and swapping. A layer that is wrong is told and left out; the others hold.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from h2q_notebook.config.reload import ConfigFile
from h2q_notebook.config.settings import MemorySafeConfig
from h2q_notebook.config.sources import Settled, config_path, read_environment, settle
from h2q_notebook.errors import BadArgument

__all__ = ["LiveSettings"]

_GIVEN = "keyword"


class LiveSettings:
    """The settings now, and where each came from.

    Args:
        shell: the IPython shell; its configuration is a layer, and ``%config H2Q`` another. None
            has neither.
        given: keyword arguments, the strongest layer.
        say: tells the user.
        environ: the environment.
    """

    def __init__(
        self,
        shell: Any,
        given: Mapping[str, Any],
        say: Callable[[str], None],
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._shell = shell
        self._say = say
        self._environ = os.environ if environ is None else environ
        self._layers: dict[str, dict[str, Any]] = {_GIVEN: dict(given)}
        self._listeners: list[Callable[[MemorySafeConfig], None]] = []
        self._settled = settle(self._layers)  # a wrong keyword is the caller's own mistake
        self._traits: Any = None
        self._file: ConfigFile | None = None
        self._gather()

    @property
    def config(self) -> MemorySafeConfig:
        """The settings now."""
        return self._settled.config

    @property
    def origins(self) -> Mapping[str, str]:
        """For each setting that is not a default, the layer it is from."""
        return self._settled.origins

    def listen(self, changed: Callable[[MemorySafeConfig], None]) -> None:
        """Call *changed* with every new settings."""
        self._listeners.append(changed)

    def close(self) -> None:
        """Take ``%config H2Q`` away again."""
        if self._traits is not None and self._traits in self._shell.configurables:
            self._shell.configurables.remove(self._traits)

    def poll(self, now_s: float) -> None:
        """Look whether the settings file has changed; from any thread."""
        change = self._file.poll(now_s) if self._file is not None else None
        if change is None:
            return
        if change.values is None:
            self._say(f"h2q: {change.why}")
            return
        try:
            self._put("file", change.values)
        except BadArgument as error:
            self._say(f"h2q: the settings stay as they were: {error}")
        else:
            self._say(f"h2q: {change.why}; a running cell keeps what it began with")

    # -- layers -------------------------------------------------------------------------------

    def _gather(self) -> None:
        self._take("ipython_config.py", self._from_ipython)
        self._take("file", self._from_file)
        self._take("environment", lambda: read_environment(self._environ))

    def _take(self, layer: str, read: Callable[[], dict[str, Any]]) -> None:
        try:
            self._put(layer, read())
        except Exception as error:  # traitlets raises its own kinds for a wrong ipython_config.py
            self._say(f"h2q: settings of the {layer} are left out: {error}")

    def _from_ipython(self) -> dict[str, Any]:
        if self._shell is None:
            return {}
        from h2q_notebook.config.traits import H2Q, configured

        self._traits = H2Q(self._typed, parent=self._shell)
        self._shell.configurables.append(self._traits)
        return configured(self._traits)

    def _from_file(self) -> dict[str, Any]:
        self._file = ConfigFile(config_path(self._environ))
        return self._file.first()

    def _typed(self, name: str, value: Any) -> None:
        """``%config H2Q.name = value``; refused where it does not go with the others."""
        from traitlets import TraitError

        try:
            self._put("%config", {**self._layers.get("%config", {}), name: value})
        except BadArgument as error:
            raise TraitError(str(error)) from None

    def _put(self, layer: str, values: dict[str, Any]) -> None:
        """Swap one layer, whole.

        Raises:
            BadArgument: it does not go with the others; nothing has changed.
        """
        layers = {**self._layers, layer: values}
        settled: Settled = settle(layers)
        self._layers, self._settled = layers, settled
        for listener in self._listeners:
            listener(settled.config)
