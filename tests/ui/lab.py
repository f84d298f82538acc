"""A real JupyterLab (or Notebook 7) and a real, headless Chromium for tests.

Every server has a home, configuration and port of its own; every notebook a name and a workspace
of its own (rewriting an open notebook hangs, and ``?reset`` detaches what was found). Cells are
run through the application object, because typed keys get lost on a busy machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[2]
CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
_ARGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_MODULES = {"lab": "jupyterlab", "notebook": "notebook"}
_READY = """async () => {
  const panel = window.jupyterapp.shell.currentWidget;
  await panel.context.ready;
  await panel.revealed;
  await panel.sessionContext.ready;
  const kernel = panel.sessionContext.session.kernel;
  await kernel.info;
  while (kernel.status !== 'idle') await new Promise((done) => setTimeout(done, 50));
}"""


def free_port() -> int:
    """Return a port of the loopback that nobody holds at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Lab:
    """One Jupyter server under *folder*; ``app`` is ``lab`` or ``notebook``."""

    def __init__(self, folder: Path, app: str = "lab", env: dict[str, str] | None = None) -> None:
        self.app = app
        self.port = free_port()
        self.token = secrets.token_hex(16)
        self.root = folder / "notebooks"
        self.root.mkdir(parents=True)
        self.log = folder / f"{app}.log"
        config = folder / "config"
        (config / "labconfig").mkdir(parents=True)
        # The news popup covers the notebook and asks the network.
        (config / "labconfig" / "page_config.json").write_text(
            json.dumps(
                {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
            )
        )
        # What the wheel installs; the tests' own installation is for editing and does not have it.
        (config / "jupyter_server_config.d").mkdir()
        extension = REPO / "jupyter-config/server-config/h2q_notebook.json"
        shutil.copy(extension, config / "jupyter_server_config.d")
        surroundings = {
            **{
                k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "JPY_", "H2Q_"))
            },
            "HOME": str(folder / "home"),
            "JUPYTER_CONFIG_DIR": str(config),
            "JUPYTER_DATA_DIR": str(folder / "data"),
            "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
            "IPYTHONDIR": str(folder / "ipython"),
            "JUPYTER_PLATFORM_DIRS": "1",
            "PYTHONPATH": str(REPO),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            **(env or {}),
        }
        (folder / "home").mkdir()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    _MODULES[app],
                    "--allow-root",
                    "--no-browser",
                    f"--port={self.port}",
                    "--ServerApp.port_retries=0",
                    "--ServerApp.ip=127.0.0.1",
                    f"--IdentityProvider.token={self.token}",
                    f"--ServerApp.root_dir={self.root}",
                    "--LabApp.expose_app_in_browser=True",
                    "--JupyterNotebookApp.expose_app_in_browser=True",
                    "--LabApp.news_url=",
                    "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
                ],
                env=surroundings,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.root,
            )
        self._wait_until_up()

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + 90
        while True:
            try:
                self.api("api/status")
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.process.kill()
                    raise RuntimeError(f"no server: {self.log.read_text()[-2000:]}") from None
                time.sleep(0.1)

    def url(self, name: str) -> str:
        """Return an address that opens *name*, in a workspace used by nothing else."""
        base = f"http://127.0.0.1:{self.port}"
        if self.app == "notebook":
            return f"{base}/notebooks/{name}?token={self.token}"
        return f"{base}/lab/workspaces/w{secrets.token_hex(4)}/tree/{name}?token={self.token}"

    def api(self, path: str, method: str = "GET", data: Any = None) -> Any:
        """Call the server's REST interface; returns what it sends back, decoded."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/{path}",
            method=method,
            data=None if data is None else json.dumps(data).encode(),
            headers={"Authorization": f"token {self.token}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            body = answer.read()
        return json.loads(body) if body else None

    def write(self, *cells: str) -> str:
        """Write a new notebook of code cells; returns its name."""
        name = f"n{secrets.token_hex(4)}.ipynb"
        code = [
            {
                "cell_type": "code",
                "id": f"c{i}",
                "metadata": {},
                "execution_count": None,
                "outputs": [],
                "source": source,
            }
            for i, source in enumerate(cells)
        ]
        spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
        (self.root / name).write_text(
            json.dumps(
                {
                    "nbformat": 4,
                    "nbformat_minor": 5,
                    "metadata": {"kernelspec": spec},
                    "cells": code,
                }
            )
        )
        return name

    def outputs(self, name: str, cell: int) -> list[dict[str, Any]]:
        """Return a cell's outputs as they stand in the saved file."""
        saved = json.loads((self.root / name).read_text())
        return list(saved["cells"][cell]["outputs"])

    def _listing(self, kind: str) -> list[Any]:
        """Sessions or kernels; the server answers 404 or 500 while one of them is just going."""
        for _ in range(10):
            try:
                return list(self.api(f"api/{kind}"))
            except urllib.error.HTTPError:
                time.sleep(0.2)
        return list(self.api(f"api/{kind}"))

    def end_kernels(self) -> None:
        """Shut every kernel down (and the sessions with them)."""
        for kind in ("sessions", "kernels"):
            for one in self._listing(kind):
                # A kernel that goes with its session may be gone by now: 404, or 500 in a race.
                with contextlib.suppress(urllib.error.HTTPError):
                    self.api(f"api/{kind}/{one['id']}", "DELETE")

    def close(self) -> None:
        """End kernels and server."""
        with contextlib.suppress(OSError):
            self.end_kernels()
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Notebook:
    """One open notebook in one page of the browser."""

    def __init__(self, lab: Lab, page: Any, name: str) -> None:
        self.lab, self.page, self.name = lab, page, name
        self.errors: list[str] = []
        self.outside: list[str] = []
        """Addresses beyond this machine that the page asked for: there must be none."""
        page.on("console", self._heard)
        page.on("pageerror", self._threw)
        page.on("request", self._asked)

    def _threw(self, error: Any) -> None:
        # Notebook 7.6 throws this at each opening of any notebook, an empty one too.
        own = self.lab.app == "notebook" and "reading 'schema'" in str(error)
        if not own:
            self.errors.append(str(error)[:300])

    def _asked(self, request: Any) -> None:
        url = str(request.url)
        if url.startswith("http") and not url.startswith(f"http://127.0.0.1:{self.lab.port}/"):
            self.outside.append(url[:200])

    def _heard(self, message: Any) -> None:
        if message.type == "error":
            self.errors.append(message.text[:300])

    def open(self, *, kernel: bool = True) -> None:
        """Open the notebook and wait until a cell could be run (or, without kernel, be seen)."""
        self.page.goto(self.lab.url(self.name))
        self.page.wait_for_function(
            "() => window.jupyterapp?.shell.currentWidget?.sessionContext", timeout=90_000
        )
        if kernel:
            self.page.evaluate(_READY)
        else:
            self.page.evaluate("() => window.jupyterapp.shell.currentWidget.context.ready")

    def run(self, cell: int, *, wait: bool = True) -> None:
        """Run a cell; with *wait*, until its prompt has a number."""
        self.page.evaluate(
            """(i) => {
              const app = window.jupyterapp;
              app.shell.currentWidget.content.activeCellIndex = i;
              app.commands.execute('notebook:run-cell');
            }""",
            cell,
        )
        if wait:
            self.wait(cell)

    def wait(self, cell: int, timeout_ms: float = 90_000) -> None:
        """Wait until a cell's prompt has a number."""
        self.page.wait_for_function(
            """(i) => {
              const cell = document.querySelectorAll('.jp-Notebook .jp-CodeCell')[i];
              return /\\[\\d+\\]/.test(cell.querySelector('.jp-InputPrompt').textContent);
            }""",
            arg=cell,
            timeout=timeout_ms,
        )

    def busy(self, cell: int) -> bool:
        """True while a cell's prompt is a star."""
        prompt = self.cell(cell).locator(".jp-InputPrompt").first.text_content()
        return "*" in (prompt or "")

    def cell(self, cell: int) -> Any:
        """Return the locator of a code cell."""
        return self.page.locator(".jp-Notebook .jp-CodeCell").nth(cell)

    def text(self, cell: int) -> str:
        """Return what a cell's output area reads."""
        return str(self.cell(cell).locator(".jp-OutputArea").first.inner_text())

    def save(self) -> None:
        """Save the notebook to its file."""
        self.page.evaluate("() => window.jupyterapp.shell.currentWidget.context.save()")

    def theme(self, name: str) -> None:
        """Choose a JupyterLab theme, for example ``JupyterLab Dark``."""
        self.page.evaluate(
            "(theme) => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", name
        )

    def screenshot(self, path: Path, cell: int | None = None) -> None:
        """Take a picture of the page, or of one cell."""
        path.parent.mkdir(parents=True, exist_ok=True)
        target = self.page if cell is None else self.cell(cell)
        target.screenshot(path=str(path))


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """Start a headless Chromium; yields Playwright's browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, headless=True, args=list(_ARGS)
        )
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def opened(
    lab: Lab, browser: Any, *cells: str, width: int = 1180, height: int = 820, kernel: bool = True
) -> Iterator[Notebook]:
    """Write a notebook of *cells* and open it in a page of its own."""
    name = lab.write(*cells)
    context = browser.new_context(viewport={"width": width, "height": height})
    notebook = Notebook(lab, context.new_page(), name)
    try:
        notebook.open(kernel=kernel)
        yield notebook
    finally:
        context.close()
        lab.end_kernels()
