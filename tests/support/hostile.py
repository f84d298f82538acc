"""Generated code that means harm, and a world around it that would show the harm.

Run as a program it prints one JSON object: which snippets passed, and what they did outside. It
needs h2q_notebook and the standard library alone, so that any user can run it anywhere.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from h2q_notebook.bench.fences import FENCES
from h2q_notebook.bench.grade import Verdict, grade
from h2q_notebook.bench.sandbox import Limits, Sandbox
from h2q_notebook.bench.suite import Case, Grader

__all__ = ["SNIPPETS", "World", "attack"]

_LIBC = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
_TELL = "import json, os\ndef tell(**m):\n    for fd in range(3, 32):\n        try: os.write(fd, json.dumps(m).encode() + b'\\n')\n        except OSError: pass\n"  # noqa: E501

# {secret_file}, {folder}, {port}, {unix}, {parent} are filled in. Each defines f, whose right value
# nobody but the parent knows.
SNIPPETS: dict[str, str] = {
    # -- forging a pass -------------------------------------------------------------------------
    "equal to everything": "class Yes:\n    def __eq__(s, o): return True\n    __hash__ = object.__hash__\ndef f(): return Yes()",  # noqa: E501
    "a text equal to everything": "class Yes(str):\n    def __eq__(s, o): return True\n    __hash__ = str.__hash__\ndef f(): return Yes('x')",  # noqa: E501
    "a class that calls itself str": "class Yes:\n    __class__ = str\n    def __eq__(s, o): return True\nYes.__name__ = 'str'\ndef f(): return Yes()",  # noqa: E501
    "walk the frames": "import sys\ndef f():\n    g, found = sys._getframe(), []\n    while g:\n        found += [v for v in g.f_locals.values() if type(v) is str and v.startswith('secret-')]\n        g = g.f_back\n    return found[0] if found else None",  # noqa: E501
    "search the heap": "import gc\ndef f():\n    for o in gc.get_objects():\n        if type(o) in (list, tuple, dict):\n            for v in (o.values() if type(o) is dict else o):\n                if type(v) is str and v.startswith('secret-'): return v",  # noqa: E501
    "replace the comparison": "import sys\nfor m in list(sys.modules.values()):\n    if hasattr(m, 'same'): m.same = lambda a, b: True\n    if hasattr(m, 'encode'):\n        try: m.encode = lambda v: ['bool', True]\n        except Exception: pass\ndef f(): return True",  # noqa: E501
    "replace the harness": "import sys\nm = sys.modules['__main__']\nm._answer = lambda *a: {{'value': ['bool', True], 'passed': True}}\nm._attempt = m._answer\ndef f(): return True",  # noqa: E501
    "answer for the harness": _TELL + "for i in range(50): tell(value=['bool', True], passed=True, status='passed')\ndef f(): return 1",  # noqa: E501
    "answer with a verdict": _TELL + "def f():\n    tell(error=None)\n    tell(passed=True, total=1)\n    os._exit(0)",  # noqa: E501
    "leave with status 0": "import os\ndef f(): os._exit(0)",
    "leave at once": "import os\nos._exit(0)",
    "raise an error without a name": "class E(Exception):\n    def __str__(s): raise SystemExit(0)\ndef f(): raise E()",  # noqa: E501
    "an answer too long": "import os\ndef f():\n    for fd in range(3, 32):\n        try:\n            while True: os.write(fd, b'x' * 65536)\n        except OSError: pass",  # noqa: E501
    "an answer nested without end": "import os\ndef f():\n    for fd in range(3, 32):\n        try: os.write(fd, b'[' * 200000 + b'\\n')\n        except OSError: pass",  # noqa: E501
    "read the parent's memory": "import os\ndef f():\n    with open(f'/proc/{{os.getppid()}}/mem', 'rb') as m: return m.read(10)",  # noqa: E501
    "read the parent's memory by a call": _LIBC + "def f():\n    b = ctypes.create_string_buffer(64)\n    return libc.ptrace(16, {parent}, 0, 0) == 0",  # noqa: E501
    "read the parent's environment": "def f():\n    return open('/proc/{parent}/environ').read()",
    # -- reading --------------------------------------------------------------------------------
    "read a secret": "def f(): return open('{secret_file}').read()",
    "read a secret by a call": _LIBC + "def f():\n    fd = libc.open(b'{secret_file}', 0)\n    b = ctypes.create_string_buffer(99)\n    libc.read(fd, b, 98)\n    return b.value.decode()",  # noqa: E501
    "read a secret over a link": "import os\ndef f():\n    os.symlink('{secret_file}', 'link')\n    return open('link').read()",  # noqa: E501
    "list the root": "import os\ndef f():\n    os.mkdir('{folder}/' + os.listdir('/')[0])",
    # -- connecting -----------------------------------------------------------------------------
    "connect": "import socket\ndef f():\n    socket.create_connection(('127.0.0.1', {port}), 2).send(b'x')",  # noqa: E501
    "connect by a call": _LIBC + "import struct\ndef f():\n    s = libc.socket(2, 1, 0)\n    a = struct.pack('=HH4s8x', 2, (({port} & 255) << 8) | ({port} >> 8), bytes([127, 0, 0, 1]))\n    return libc.connect(s, a, 16) == 0",  # noqa: E501
    "send a datagram": "import socket\ndef f():\n    socket.socket(2, 2).sendto(b'x', ('127.0.0.1', {port}))",  # noqa: E501
    "connect to a local socket": "import socket\ndef f():\n    s = socket.socket(socket.AF_UNIX)\n    s.connect('{unix}')\n    s.send(b'x')",  # noqa: E501
    # -- writing --------------------------------------------------------------------------------
    "write outside": "def f():\n    open('{folder}/a', 'w').write('x')",
    "write by a call": _LIBC + "def f():\n    fd = libc.open(b'{folder}/b', 0o101, 0o666)\n    return libc.write(fd, b'x', 1)",  # noqa: E501
    "append to a file": "import os\ndef f():\n    fd = os.open('{folder}/kept', os.O_WRONLY | os.O_APPEND)\n    os.write(fd, b'x')",  # noqa: E501
    "truncate a file": _LIBC + "def f(): return libc.truncate(b'{folder}/kept', 0)",
    "remove a file": "import os\ndef f(): os.unlink('{folder}/kept')",
    "remove a file by a call": _LIBC + "def f(): return libc.unlink(b'{folder}/kept')",
    "rename a file": "import os\ndef f(): os.rename('{folder}/kept', '{folder}/gone')",
    "change a file's mode": _LIBC + "def f(): return libc.chmod(b'{folder}/kept', 0)",
    "make a directory": _LIBC + "def f(): return libc.mkdir(b'{folder}/d', 0o777)",
    # -- processes ------------------------------------------------------------------------------
    "fork bomb": "import os\ndef f():\n    while True: os.fork()",
    "fork bomb by a call": _LIBC + "def f():\n    while True: libc.fork()",
    "leave a daemon": _LIBC + "import os, time\ndef f():\n    if libc.fork() == 0:\n        libc.setsid()\n        if libc.fork() == 0:\n            time.sleep(300)\n        os._exit(0)\n    time.sleep(1)",  # noqa: E501
    "leave a zombie": _LIBC + "import os, time\ndef f():\n    if libc.fork() == 0: os._exit(0)\n    time.sleep(0.3)",  # noqa: E501
    "start a program": "import subprocess\ndef f():\n    return subprocess.run(['/bin/sh', '-c', 'echo x > {folder}/sh'])",  # noqa: E501
    "become a program": _LIBC + "def f():\n    a = (ctypes.c_char_p * 4)(b'/bin/sh', b'-c', b'echo x > {folder}/ex', None)\n    return libc.execve(b'/bin/sh', a, None)",  # noqa: E501
    "kill the parent": "import os, signal\ndef f(): os.kill({parent}, signal.SIGUSR1)",
    "kill the parent by a call": _LIBC + "def f(): return libc.kill({parent}, 10) == 0",
    "limit the parent": _LIBC + "def f(): return libc.prlimit({parent}, 7, (ctypes.c_uint64 * 2)(3, 3), None) == 0",  # noqa: E501
    "raise its own limits": "import resource\ndef f():\n    resource.setrlimit(resource.RLIMIT_AS, (-1, -1))\n    return len(bytearray(1 << 30))",  # noqa: E501
    # -- exhausting -----------------------------------------------------------------------------
    "exhaust memory": "def f():\n    kept = []\n    while True: kept.append(bytearray(1 << 24))",
    "exhaust memory at once": "def f(): return len(bytearray(1 << 40))",
    "exhaust threads": "import threading, time\ndef f():\n    while True: threading.Thread(target=time.sleep, args=(9,)).start()",  # noqa: E501
    "compute for ever": "def f():\n    while True: pass",
    "compute deaf": "import signal\ndef f():\n    for s in range(1, 65):\n        try: signal.signal(s, signal.SIG_IGN)\n        except (OSError, ValueError): pass\n    while True: pass",  # noqa: E501
    "sleep for ever": "import time\ndef f(): time.sleep(1e6)",
    "wait for input": "def f(): return input() + __import__('sys').stdin.read()",
}  # fmt: skip


class World:
    """What could be harmed."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.root = Path(self._folder.name)
        self.secret = f"secret-{secrets.token_hex(16)}"
        self.secret_file = self.root / "secret"
        self.secret_file.write_text(self.secret)
        self.open_folder = self.root / "open"
        self.open_folder.mkdir()
        (self.open_folder / "kept").write_text("kept")
        for path, mode in ((self.root, 0o755), (self.open_folder, 0o777)):
            path.chmod(mode)
        (self.open_folder / "kept").chmod(0o666)
        self.visits: list[str] = []
        self._servers = [socket.socket(), socket.socket(socket.AF_UNIX)]
        self._servers[0].bind(("127.0.0.1", 0))
        self.unix = str(self.root / "s")
        self._servers[1].bind(self.unix)
        os.chmod(self.unix, 0o777)
        self._datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.port = self._servers[0].getsockname()[1]
        self._datagrams.bind(("127.0.0.1", self.port))
        self._datagrams.setblocking(False)
        for server in self._servers:
            server.listen(8)
            server.setblocking(False)
        self.signals: list[int] = []
        self._old = signal.signal(signal.SIGUSR1, lambda number, frame: self.signals.append(number))
        self._limits = _limits()

    def fill(self, code: str) -> str:
        return code.format(
            secret_file=self.secret_file, folder=self.open_folder, port=self.port, unix=self.unix,
            parent=os.getpid(),
        )  # fmt: skip

    def harm(self) -> list[str]:
        """What has happened since the last question."""
        found = []
        for server in self._servers:
            try:
                server.accept()[0].close()
                found.append("connected")
            except BlockingIOError:
                pass
        try:
            self._datagrams.recv(10)
            found.append("sent")
        except BlockingIOError:
            pass
        kept = self.open_folder / "kept"
        names = sorted(os.listdir(self.open_folder))
        if names != ["kept"]:
            found.append(f"wrote {names}")
        elif kept.read_text() != "kept" or kept.stat().st_mode & 0o777 != 0o666:
            found.append("changed a file")
        if self.signals:
            found.append("signalled")
        if _limits() != self._limits:
            found.append("limited the parent")
        left = _harnesses()
        if left:
            found.append(f"left processes {left}")
        return found

    def close(self) -> None:
        signal.signal(signal.SIGUSR1, self._old)
        for one in (*self._servers, self._datagrams):
            one.close()
        self._folder.cleanup()


def _limits() -> Any:
    import resource

    return resource.getrlimit(resource.RLIMIT_NOFILE)


def _harnesses() -> list[int]:
    """Processes of the bench that are children of ours, or of nobody any more."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        mine = parent in (os.getpid(), 1)
        if mine and (b"harness.py" in command or (not command and parent == os.getpid())):
            found.append(int(pid))
    return found


def attack(world: World, name: str, fences: tuple[str, ...] = FENCES) -> Verdict:
    """Have one snippet judged; its right value is the world's secret."""
    grader = Grader("calls", entry="f", calls=(("f()", repr(world.secret)),), cpu_s=1.0)
    case = Case("attack", "code", 1, "?", grader)

    def sandbox(limits: Limits) -> Sandbox:
        return Sandbox(limits, fences)

    code = f"```python\n{world.fill(SNIPPETS[name])}\n```"
    return grade(case, code, sandbox=sandbox)


def main() -> None:
    fences = tuple(sys.argv[1].split(",")) if len(sys.argv) > 1 else FENCES
    world = World()
    told: dict[str, Any] = {"uid": os.getuid(), "snippets": {}}
    try:
        for name in SNIPPETS:
            verdict = attack(world, name, fences)
            told["fences"] = dict(verdict.fences) or told.get("fences")
            told["snippets"][name] = {
                "passed": verdict.passed, "reason": verdict.reason, "harm": world.harm(),
            }  # fmt: skip
    finally:
        world.close()
    told["threads"] = threading.active_count()
    print(json.dumps(told))


def as_user(uid: int, fences: tuple[str, ...] = FENCES) -> dict[str, Any]:
    """Run all of it as another user, from a copy that this user can read."""
    import shutil

    source = Path(__file__).resolve().parents[2] / "h2q_notebook"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        shutil.copytree(source, folder / "h2q_notebook", ignore=shutil.ignore_patterns("models"))
        shutil.copy(__file__, folder / "hostile.py")
        # A virtual environment may lie in a directory that only its owner can enter.
        python = getattr(sys, "_base_executable", sys.executable)
        if not _can_run(python, uid):
            python = "/usr/bin/python3"
        done = subprocess.run(
            [python, str(folder / "hostile.py"), ",".join(fences)],
            env={"PYTHONPATH": str(folder), "TMPDIR": "/tmp", "PATH": "/usr/bin:/bin"},
            user=uid, group=uid, extra_groups=[], cwd=folder,
            capture_output=True, text=True, timeout=170, check=False,
        )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return dict(json.loads(done.stdout))


def _can_run(python: str, uid: int) -> bool:
    try:
        done = subprocess.run(
            [python, "-I", "-c", "import json, ctypes"], user=uid, group=uid, extra_groups=[],
            capture_output=True, check=False, timeout=30, cwd="/",
        )  # fmt: skip
    except OSError:
        return False
    return done.returncode == 0


if __name__ == "__main__":
    main()
