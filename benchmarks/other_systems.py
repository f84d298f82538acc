"""Where a program of ours can be run that is not this system: other releases, other machines.

Covers root file systems of Debian with Python and a compiler, made by debootstrap and entered by
chroot, programs for another processor under qemu for as long as they are needed, and running a
command there or here with a clean environment. Not covered: networks inside (there is none to rely
on), users other than root, and systems other than Debian's.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["NotHereError", "Place", "Row", "debian", "emulated", "last", "run"]

Row = dict[str, Any]

_PACKAGES = "python3-dev,python3-venv,gcc,libc6-dev"
_LONG_S = 3600
_BINFMT = Path("/proc/sys/fs/binfmt_misc")


class NotHereError(Exception):
    """Why a platform cannot be had, in one sentence."""


@dataclass(frozen=True)
class Place:
    """Where commands run: this system, or a root file system of another."""

    outside: Path
    """Its work folder as it is seen from here."""
    inside: str
    """The same folder as the commands see it."""
    python: str
    enter: tuple[str, ...] = ()

    def run(self, *command: str, timeout_s: int = _LONG_S) -> subprocess.CompletedProcess[str]:
        """With a clean environment; stderr goes with stdout."""
        clean = ("env", "-i", "-C", self.inside, f"HOME={self.inside}", "LC_ALL=C.UTF-8",
                 "PIP_CONFIG_FILE=/dev/null", "PIP_DISABLE_PIP_VERSION_CHECK=1",
                 "PATH=/usr/local/bin:/usr/bin:/bin")  # fmt: skip
        return run([*self.enter, *clean, *command], timeout_s=timeout_s)

    def told(self, *command: str) -> Row:
        """What a program of ours prints as its last line, as JSON."""
        done = self.run(*command)
        if done.returncode:
            raise NotHereError(f"its Python ended with {done.returncode}: {last(done.stdout)}")
        row: Row = json.loads(done.stdout.splitlines()[-1])
        return row


def run(
    command: list[str], *, timeout_s: int = _LONG_S, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Its stderr goes with stdout; one that takes too long is a reason, and no error of ours."""
    try:
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", check=False, timeout=timeout_s, env=env,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise NotHereError(f"{command[0]} took longer than {timeout_s} s") from None


def last(text: str) -> str:
    """Its last line, with no folders of this machine in it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return re.sub(r"/\S+/", "", lines[-1]) if lines else "without a word"


def _mirror() -> str:
    """Debian's archive as apt is set up for it."""
    wanted = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(LABEL)", "Created-By: Packages"]
    done = run(wanted) if shutil.which("apt-get") else None
    for line in done.stdout.splitlines() if done else ():
        address, _, label = line.partition(" ")
        if label == "Debian":
            return address
    raise NotHereError("apt knows no archive of Debian: add one to its sources")


@contextmanager
def emulated(machine: str) -> Iterator[None]:
    """The kernel runs that machine's programs, and afterwards only if it did before."""
    entry = _BINFMT / f"qemu-{machine}"
    if machine == platform.machine() or entry.exists():
        yield
        return
    rule = Path(f"/usr/lib/binfmt.d/qemu-{machine}.conf")
    if not rule.exists():
        raise NotHereError(
            f"nothing runs programs for {machine} here: apt-get install qemu-user-static"
        )
    mounted = not (_BINFMT / "register").exists()
    if mounted and run(["mount", "-t", "binfmt_misc", "none", str(_BINFMT)]).returncode:
        raise NotHereError("this kernel has no binfmt_misc, through which qemu would be called")
    try:
        (_BINFMT / "register").write_text(rule.read_text())
        yield
    finally:
        if entry.exists():
            entry.write_text("-1")
        if mounted:
            run(["umount", str(_BINFMT)])


def debian(suite: str, architecture: str, scratch: Path) -> Place:
    """A root file system with Python and a compiler; kept for the next time."""
    if os.geteuid():
        raise NotHereError("only root can make a root file system and enter it: run it as root")
    if not shutil.which("debootstrap"):
        raise NotHereError("debootstrap is missing: apt-get install debootstrap")
    root, ready = scratch / f"{suite}-{architecture}", scratch / f"{suite}-{architecture}.ready"
    if not ready.exists():
        shutil.rmtree(root, ignore_errors=True)
        # Named for suites that are newer than debootstrap; all of Debian's are this one.
        recipe = "/usr/share/debootstrap/scripts/sid"
        made = run(
            ["unshare", "--mount", "debootstrap", f"--arch={architecture}", "--variant=minbase",
             f"--include={_PACKAGES}", suite, str(root), _mirror(), recipe]
        )  # fmt: skip
        if made.returncode:
            raise NotHereError(f"debootstrap failed: {last(made.stdout)}")
        ready.touch()
    work = root / "h2q"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    # Mounts and processes of a namespace go with its first process, however that ends.
    script = 'mount -t proc proc "$1/proc" && exec chroot "$@"'
    enter = ("unshare", "--mount", "--pid", "--kill-child", "sh", "-c", script, "sh", str(root))
    return Place(work, "/h2q", "/usr/bin/python3", enter)
