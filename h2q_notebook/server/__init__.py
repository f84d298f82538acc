"""The extension of Jupyter's server: runs in the server's process, knows kernels from outside."""

from __future__ import annotations

from typing import Any

__all__ = ["_jupyter_server_extension_points", "_load_jupyter_server_extension"]


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "h2q_notebook.server"}]


def _load_jupyter_server_extension(app: Any) -> None:
    from h2q_notebook.server.handlers import add_handlers
    from h2q_notebook.server.watch import KernelWatch

    watch = KernelWatch(app.kernel_manager, app.log.warning)
    add_handlers(app.web_app, watch)
    watch.start()
