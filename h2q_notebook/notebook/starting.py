"""Starting, stopping and restarting in a notebook: names, and what is shown."""

from __future__ import annotations

from typing import Any

from h2q_notebook.errors import BadArgument, H2QError, LoadFailed
from h2q_notebook.guardian.guardian import MemoryGuardian
from h2q_notebook.guardian.kernel import KernelGuard
from h2q_notebook.notebook.loads import LoadOptions, Loads, Publish
from h2q_notebook.startup.layered import StartupReport
from h2q_notebook.startup.system import MemorySafeStartupSystem

__all__ = ["Starts"]

_PIPELINE = "pipeline"


class _Holder:
    """Loads into the notebook's names; after a failure they are what they were."""

    def __init__(self, loads: Loads, names: dict[str, Any]) -> None:
        self._loads = loads
        self._names = names
        self.options = LoadOptions("")
        self._bound: tuple[str, ...] = ()
        self._before: dict[str, Any] = {}

    def load(self, source: str) -> tuple[Any, Any, str]:
        from h2q_notebook.load.binding import companion_name

        name = self.options.name
        mine = (name, companion_name(name, "tokenizer"), companion_name(name, "processor"))
        self._before = {one: self._names[one] for one in mine if one in self._names}
        self._bound = ()
        self._loads.load(self.options)
        self._bound = tuple(one for one in mine if one in self._names)
        model = self._names[name]
        told = f"{name} = {type(model).__name__}"
        return model, self._names.get(mine[1]), told

    def settle(self) -> None:
        """It went well: what the names were before is not needed any more."""
        self._before = {}

    def unload(self) -> None:
        if self._bound:
            self._loads.unbind(self.options.name)
        for one in self._bound:
            self._names.pop(one, None)
        self._names.update(self._before)
        self._bound, self._before = (), {}


class Starts:
    """The start of one kernel.

    Args:
        names: the user's namespace.
        guardian: of the session.
        keeper: of the session.
        loads: of the session.
        publish: shows a bundle with its metadata.
    """

    def __init__(
        self,
        names: dict[str, Any],
        guardian: MemoryGuardian,
        keeper: KernelGuard,
        loads: Loads,
        publish: Publish,
    ) -> None:
        self._names = names
        self._publish = publish
        self._holder = _Holder(loads, names)
        self.system = MemorySafeStartupSystem(guardian=guardian, keeper=keeper, holder=self._holder)

    def start(self, options: LoadOptions | None) -> None:
        """Start everything; None for *options* leaves the model out.

        Raises:
            H2QError: why not; all was undone.
        """
        if self.system.running:
            raise BadArgument("%h2q_start: it is running already; %h2q_stop or %h2q_restart")
        if options is not None:
            self._holder.options = options
        report = self.system.start(None if options is None else options.source)
        self._end(report, "started")

    def stop(self) -> None:
        """Undo everything.

        Raises:
            BadArgument: nothing is running.
        """
        if self._names.get(_PIPELINE) is self.system._pipeline is not None:
            del self._names[_PIPELINE]
        self._show(self.system.stop(), "stopped")

    def restart(self) -> None:
        """Stop and start again; your other names stay.

        Raises:
            H2QError: as ``start`` and ``stop``.
        """
        self._end(self.system.restart(), "restarted")

    def _end(self, report: StartupReport, what: str) -> None:
        self._show(report, what)
        if not report.ok:
            if isinstance(report.error, H2QError):
                raise report.error
            raise LoadFailed(f"the start failed at {report.reason}; everything was undone")
        self._holder.settle()
        if self.system._pipeline is not None:
            self._names[_PIPELINE] = self.system.pipeline

    def _show(self, report: StartupReport, what: str) -> None:
        from h2q_notebook.views import startup_report

        self._publish(startup_report.bundle(report, what), {"h2q": startup_report.metadata(report)})
