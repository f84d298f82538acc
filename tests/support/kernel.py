"""A real ipykernel for tests and benchmarks, with a sampler that watches it from outside.

The kernel runs under an address-space limit of 6 GiB, so that a cell that is not stopped hurts
itself and not the machine. Covers one kernel and one client; not Jupyter servers or browsers.
"""

from __future__ import annotations

import ast
import json
import os
import queue
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

from tests.support.outside import OutsideSampler, descendants, used_by_tree

__all__ = ["REPO", "Kernel", "Reply", "limited_kernel_argv"]

REPO = Path(__file__).resolve().parents[2]
ADDRESS_SPACE_BYTES = 6 << 30
_TEXT_LIMIT = 200_000
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(slots=True)
class Reply:
    """What one cell gave back. ``status``: ok, error, aborted, lost (no reply) or dead."""

    status: str
    ename: str = ""
    evalue: str = ""
    text: str = ""
    display: list[dict[str, Any]] = field(default_factory=list)
    metadata: list[dict[str, Any]] = field(default_factory=list)
    traceback: str = ""
    execution_count: int | None = None
    expressions: dict[str, Any] = field(default_factory=dict)
    wall_s: float = 0.0
    base_bytes: int = 0
    peak_bytes: int = 0
    """Highest use seen from outside, above the start of the cell; 0 if not sampled."""
    breach_to_reply_s: float | None = None

    @property
    def h2q(self) -> list[dict[str, Any]]:
        """The outcomes that the displays of this cell carried, in order."""
        return [each["h2q"] for each in self.metadata if "h2q" in each]

    @property
    def outcome(self) -> dict[str, Any] | None:
        """The last outcome, or None."""
        return self.h2q[-1] if self.h2q else None

    @property
    def shown(self) -> str:
        """Everything a user reads, without colours: streams, plain displays and the traceback."""
        plain = [str(each.get("text/plain", "")) for each in self.display]
        return _COLOURS.sub("", "\n".join([self.text, *plain, self.traceback]))


def limited_kernel_argv() -> list[str]:
    """A kernel command that lowers its own address space, then becomes the kernel (same pid)."""
    limit = f'ulimit -v {ADDRESS_SPACE_BYTES // 1024}; exec "$@"'
    launch = [
        sys.executable,
        "-m",
        "ipykernel_launcher",
        "--HistoryManager.enabled=False",
        "--IPKernelApp.log_level=40",
    ]
    return ["/bin/sh", "-c", limit, "sh", *launch, "-f", "{connection_file}"]


def kernel_environment(home: Path) -> dict[str, str]:
    """An environment with its own IPython and Jupyter folders and the repository importable."""
    return {
        **os.environ,
        "IPYTHONDIR": str(home / "ipython"),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_PLATFORM_DIRS": "1",
        "PYTHONPATH": os.pathsep.join([str(REPO), os.environ.get("PYTHONPATH", "")]).rstrip(":"),
    }


def write_kernelspec(root: Path, name: str = "h2q-limited") -> str:
    """Write the limited kernel's spec below *root*; returns its name."""
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    spec = {"argv": limited_kernel_argv(), "display_name": name, "language": "python"}
    (folder / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    return name


class Kernel:
    """One kernel and its client; ``close`` it, or use it as a context manager."""

    def __init__(self, *, load: bool = True, setup: str = "") -> None:
        self.home = Path(tempfile.mkdtemp(prefix="h2q-kernel-"))
        name = write_kernelspec(self.home / "kernels")
        specs = KernelSpecManager(kernel_dirs=[str(self.home / "kernels")])
        self.manager = KernelManager(kernel_name=name, kernel_spec_manager=specs)
        self.manager.start_kernel(env=kernel_environment(self.home), cwd=str(self.home))
        self.client: BlockingKernelClient = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)
        self.lost = False
        self._plant()
        self.pid = int(self.value("h2q_os.getpid()"))
        if load:
            reply = self.run("%load_ext h2q", timeout=60)
            if reply.status != "ok":
                self.close()
                raise RuntimeError(f"%load_ext h2q failed: {reply.shown}")
        if setup:
            self.run(setup, timeout=120)

    def _plant(self) -> None:
        """Put the sentinel into the namespace."""
        self.run(
            "import os as h2q_os, json as h2q_json, sys as h2q_sys\n"
            "h2q_sentinel = {'kept': [1, 2, 3]}\nh2q_rebound = 'before'\n"
            f"h2q_tmp = {str(self.home)!r}"
        )

    def __enter__(self) -> Kernel:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def alive(self) -> bool:
        """True if the process lives and no reply was lost."""
        return not self.lost and self.manager.is_alive()

    def close(self) -> None:
        """End the kernel and everything it left behind."""
        left = descendants(self.pid) if hasattr(self, "pid") else []
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.manager.cleanup_resources()
        self.manager.context.destroy(linger=0)
        shutil.rmtree(self.home, ignore_errors=True)

    def used_bytes(self) -> int:
        """Use of the kernel and its children now."""
        return used_by_tree(self.pid)

    def children(self) -> list[int]:
        """The pids of everything the kernel started that still lives."""
        return descendants(self.pid)

    def interrupt(self) -> None:
        """What the Interrupt button does; from any thread (the manager would open a loop there)."""
        os.kill(self.pid, signal.SIGINT)

    def send(
        self, code: str, *, silent: bool = False, subshell: str | None = None, **more: Any
    ) -> str:
        """Send a cell; returns the id to wait for."""
        content = {
            "code": code,
            "silent": silent,
            "store_history": not silent,
            "user_expressions": {},
            "allow_stdin": False,
            "stop_on_error": False,
            **more,
        }
        message = self.client.session.msg("execute_request", content)
        if subshell is not None:
            message["header"]["subshell_id"] = subshell
        self.client.shell_channel.send(message)
        return str(message["header"]["msg_id"])

    def wait(self, msg_id: str, timeout: float = 30.0) -> Reply:
        """Collect the reply to *msg_id* and its output until the kernel is idle."""
        reply, deadline = Reply("lost"), time.monotonic() + timeout
        replied = idle = False
        while not (replied and idle):
            if time.monotonic() > deadline or not self.manager.is_alive():
                reply.status = "lost" if self.manager.is_alive() else "dead"
                reply.evalue = f"reply seen: {replied}, idle seen: {idle}"
                self.lost = True
                return reply
            idle = self._drain_iopub(msg_id, reply) or idle
            if not replied:
                replied = self._take_shell(msg_id, reply)
        return reply

    def _take_shell(self, msg_id: str, reply: Reply) -> bool:
        try:
            message = self.client.get_shell_msg(timeout=0)
        except queue.Empty:
            return False
        if message["parent_header"].get("msg_id") != msg_id:
            return False
        content = message["content"]
        reply.status = content["status"]
        reply.ename, reply.evalue = content.get("ename", ""), content.get("evalue", "")
        reply.execution_count = content.get("execution_count")
        reply.expressions = content.get("user_expressions") or {}
        return True

    def _drain_iopub(self, msg_id: str, reply: Reply) -> bool:
        """Take what iopub holds; True once the idle status of *msg_id* was seen."""
        wait_s = 0.02
        while True:
            try:
                message = self.client.get_iopub_msg(timeout=wait_s)
            except queue.Empty:
                return False
            wait_s = 0
            if message["parent_header"].get("msg_id") != msg_id:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "stream" and len(reply.text) < _TEXT_LIMIT:
                reply.text += content["text"][:_TEXT_LIMIT]
            elif kind in ("display_data", "execute_result", "update_display_data"):
                reply.display.append(content["data"])
                reply.metadata.append(content.get("metadata") or {})
            elif kind == "error":
                reply.traceback = "\n".join(content["traceback"])
            elif kind == "status" and content["execution_state"] == "idle":
                return True

    def run(
        self,
        code: str,
        timeout: float = 30.0,
        *,
        sample: bool = False,
        limit_bytes: int | None = None,
        **more: Any,
    ) -> Reply:
        """Run one cell to its end.

        Args:
            code: the cell.
            timeout: seconds until the reply counts as lost.
            sample: measure the peak from outside while it runs.
            limit_bytes: with *sample*, also time from the first reading above it to the reply.
            more: passed to ``send`` (``subshell=``, ``silent=``, ``user_expressions=``).
        """
        sampler = OutsideSampler(self.pid, limit_bytes) if sample else None
        if sampler is not None:
            sampler.start()
        started = time.monotonic()
        try:
            reply = self.wait(self.send(code, **more), timeout)
        finally:
            ended = time.monotonic()
            if sampler is not None:
                sampler.stop()
        reply.wall_s = ended - started
        if sampler is not None:
            reply.base_bytes, reply.peak_bytes = sampler.base_bytes, sampler.peak_bytes
            if sampler.breach_at is not None:
                reply.breach_to_reply_s = ended - sampler.breach_at
        return reply

    def value(self, expression: str, timeout: float = 30.0) -> Any:
        """Evaluate *expression* in the kernel's namespace, without a cell; it comes as JSON."""
        reply = self.run(
            "",
            timeout,
            silent=True,
            user_expressions={"it": f"__import__('json').dumps({expression}, default=repr)"},
        )
        if reply.status != "ok":
            raise RuntimeError(f"the kernel is {reply.status}")
        result = reply.expressions["it"]
        if result["status"] != "ok":
            raise RuntimeError(f"{result['ename']}: {result['evalue']}")
        return json.loads(ast.literal_eval(result["data"]["text/plain"]))

    def subshell(self) -> str:
        """Open a subshell; returns its id."""
        message = self.client.session.msg("create_subshell_request", {})
        self.client.control_channel.send(message)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            answer = self.client.get_control_msg(timeout=10)
            if answer["parent_header"].get("msg_id") == message["header"]["msg_id"]:
                return str(answer["content"]["subshell_id"])
        raise TimeoutError("no answer to create_subshell_request")


def after(seconds: float, action: Callable[[], object]) -> threading.Timer:
    """Call *action* from another thread after *seconds*; returns the started timer."""
    timer = threading.Timer(seconds, action)
    timer.daemon = True
    timer.start()
    return timer
