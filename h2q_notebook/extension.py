"""What ``%load_ext h2q`` and ``%unload_ext h2q`` call."""

from __future__ import annotations

from typing import Any

__all__ = ["load_ipython_extension", "unload_ipython_extension"]

_MAGICS = (
    "h2q_bench", "h2q_budget", "h2q_estimate", "h2q_gauge", "h2q_load", "h2q_models", "h2q_status",
    "h2q_restart", "h2q_start", "h2q_stop", "h2q_unload",
)  # fmt: skip


def load_ipython_extension(shell: Any) -> None:
    """Register the magics and start the guardian; prints one line. Loading twice does nothing."""
    from h2q_notebook.magics.bench import BenchMagics
    from h2q_notebook.magics.budget import BudgetMagics, options_of, strip_budget_line
    from h2q_notebook.magics.load import LoadMagics
    from h2q_notebook.magics.startup import StartupMagics
    from h2q_notebook.magics.status import StatusMagics
    from h2q_notebook.notebook import session as sessions
    from h2q_notebook.notebook.gauges import front_end
    from h2q_notebook.views.gauge import warm

    if sessions.current() is not None:
        return
    session = sessions.Session(shell, options_of, strip_budget_line)
    session.start()
    shell.register_magics(BudgetMagics(shell, session))
    shell.register_magics(StatusMagics(shell, session))
    shell.register_magics(LoadMagics(shell, session))
    shell.register_magics(BenchMagics(shell, session))
    shell.register_magics(StartupMagics(shell, session))
    if front_end(shell) == "widgets":
        warm()  # the first gauge shall not have to import its library while a cell runs
    kinds = {"process": "guarding by a watcher process", "thread": "guarding by a thread only"}
    how = kinds.get(session.guardian.watcher_kind, "not guarding")
    if not session.in_a_cell:
        return  # loaded at the start of a kernel: nobody would see it
    print(f"h2q is ready ({how}): put %%h2q_budget 2GiB on top of a cell; %h2q_status tells more")


def unload_ipython_extension(shell: Any) -> None:
    """Give everything back: events, transformer, magics, signal handlers, limits, child process."""
    from h2q_notebook.notebook import session as sessions

    session = sessions.current()
    if session is None:
        return
    session.close()
    for kind in ("line", "cell"):
        for name in _MAGICS:
            shell.magics_manager.magics[kind].pop(name, None)
    for name in ("BudgetMagics", "StatusMagics", "LoadMagics", "BenchMagics", "StartupMagics"):
        shell.magics_manager.registry.pop(name, None)
