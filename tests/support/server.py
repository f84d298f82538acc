"""A real Jupyter server with h2q's extension, asked over HTTP as a tool would ask it."""

from __future__ import annotations

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
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient

REPO = Path(__file__).resolve().parents[2]
CONFIG = REPO / "jupyter-config/server-config/h2q_notebook.json"


class Server:
    """One server under *folder*; ``close`` it."""

    def __init__(self, folder: Path, *, python: str = sys.executable, config: bool = True) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.token = secrets.token_hex(16)
        self.log = folder / "server.log"
        self.runtime = folder / "runtime"
        for name in ("config", "home", "notebooks"):
            (folder / name).mkdir(parents=True)
        if config:
            (folder / "config/jupyter_server_config.d").mkdir()
            shutil.copy(CONFIG, folder / "config/jupyter_server_config.d")
        surroundings = {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("JUPYTER", "JPY_", "H2Q_"))
            },
            "HOME": str(folder / "home"),
            "JUPYTER_CONFIG_DIR": str(folder / "config"),
            "JUPYTER_DATA_DIR": str(folder / "data"),
            "JUPYTER_RUNTIME_DIR": str(self.runtime),
            "IPYTHONDIR": str(folder / "ipython"),
            "JUPYTER_PLATFORM_DIRS": "1",
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    python, "-m", "jupyter_server", "--allow-root", "--no-browser",
                    f"--port={self.port}", "--ServerApp.port_retries=0",
                    "--ServerApp.ip=127.0.0.1", f"--IdentityProvider.token={self.token}",
                    f"--ServerApp.root_dir={folder / 'notebooks'}",
                    "--ServerApp.allow_unauthenticated_access=False",
                ],
                env=surroundings, cwd=folder, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        deadline = time.monotonic() + 60
        while self.status("api/status") != 200:
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                raise RuntimeError(f"no server: {self.log.read_text()[-2000:]}")
            time.sleep(0.1)

    def _request(
        self, path: str, method: str, token: str | None, headers: dict[str, str], data: Any
    ) -> urllib.request.Request:
        sent = {"Content-Type": "application/json", **headers}
        if token is not None:
            sent["Authorization"] = f"token {token}"
        body = None if data is None else json.dumps(data).encode()
        return urllib.request.Request(
            f"http://127.0.0.1:{self.port}/{path}", method=method, headers=sent, data=body
        )

    def get(self, path: str, method: str = "GET", data: Any = None, **headers: str) -> bytes:
        """What the server answers to the owner of the token."""
        request = self._request(path, method, self.token, headers, data)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return bytes(answer.read())

    def status(self, path: str, *, token: str | None = "", **headers: str) -> int:
        """The status alone; *token* None sends none, "" the right one."""
        mine = self.token if token == "" else token
        try:
            with urllib.request.urlopen(
                self._request(path, "GET", mine, headers, None), timeout=10
            ) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code
        except OSError:
            return 0

    def kernels(self) -> dict[str, Any]:
        """What ``/h2q/kernels`` answers."""
        answer: dict[str, Any] = json.loads(self.get("h2q/kernels"))
        return answer

    def start_kernel(self) -> str:
        """Start one as a front end does; returns its id."""
        return str(json.loads(self.get("api/kernels", "POST", {"name": "python3"}))["id"])

    @contextmanager
    def _client(self, kernel_id: str) -> Iterator[BlockingKernelClient]:
        client = BlockingKernelClient()
        client.load_connection_file(str(self.runtime / f"kernel-{kernel_id}.json"))
        client.start_channels()
        try:
            client.wait_for_ready(timeout=60)
            yield client
        finally:
            client.stop_channels()

    @contextmanager
    def running(self, kernel_id: str, code: str) -> Iterator[None]:
        """A cell that runs meanwhile; at the end it is waited for."""
        with self._client(kernel_id) as client:
            msg_id = client.execute(code)
            yield
            while client.get_shell_msg(timeout=60)["parent_header"].get("msg_id") != msg_id:
                pass

    def run(self, kernel_id: str, code: str, timeout: float = 60) -> str:
        """Run a cell; what it printed, and "" where the kernel died at it."""
        told: list[str] = []

        def hear(message: dict[str, Any]) -> None:
            if message["msg_type"] == "stream":
                told.append(message["content"]["text"])
            elif message["msg_type"] == "error":
                told.append("\n".join(message["content"]["traceback"]))

        with self._client(kernel_id) as client, suppress(TimeoutError):
            client.execute_interactive(code, timeout=timeout, output_hook=hear)
        return "".join(told)

    def close(self) -> None:
        """End it and its kernels."""
        with suppress(OSError):
            for one in json.loads(self.get("api/kernels")):
                self.get(f"api/kernels/{one['id']}", "DELETE")
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
