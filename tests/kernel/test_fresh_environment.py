"""From the wheel, in an environment of its own: the server's extension and the autoload switch."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.server import REPO, Server

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with our wheel; everything else it borrows from the one of the tests.

    Borrowed by a plain line in a .pth, which brings no .pth of the other side: this repository,
    installed there for editing, stays out.
    """
    folder = tmp_path_factory.mktemp("fresh")
    source = folder / "source"
    subprocess.run(["git", "clone", "-q", str(REPO), str(source)], check=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", str(folder), str(source)], check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True
    )
    python = str(folder / "venv/bin/python")
    subprocess.run([*pip, "--python", python, "install", "--no-deps", str(wheel)], check=True)
    paths = sysconfig.get_paths(vars={"base": str(folder / "venv")})
    Path(paths["purelib"], "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder / "venv"


@pytest.fixture(scope="module")
def server(environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    one = Server(tmp_path_factory.mktemp("s"), python=str(environment / "bin/python"), config=False)
    yield one
    one.close()


def h2q(environment: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [str(environment / "bin/h2q"), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def guarded(server: Server) -> bool:
    """Whether a kernel that starts now has h2q in it, with no cell run."""
    kernel_id = server.start_kernel()
    said = server.run(kernel_id, "print('h2q' in globals(), end=' ')\n%h2q_status")
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        rows = {one["kernel_id"]: one for one in server.kernels()["kernels"]}
        if rows[kernel_id]["guarded"]:
            assert "False" in said, "autoload put a name into the user's namespace"
            return True
        time.sleep(0.2)
    assert "not found" in said
    return False


def test_the_servers_extension_comes_with_the_wheel(environment: Path, server: Server) -> None:
    assert server.status("h2q/metrics") == 200
    assert server.status("h2q/metrics", token=None) in (401, 403)
    where = "import h2q_notebook; print(h2q_notebook.__file__)"
    found = subprocess.run(
        [str(environment / "bin/python"), "-c", where],
        cwd=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout.startswith(str(environment))


def test_one_command_switches_it_on_for_every_kernel_and_one_off_again(
    environment: Path, server: Server
) -> None:
    file = environment / "etc/ipython/ipython_config.py"
    assert "autoload is off" in h2q(environment, "autoload").stdout
    assert not guarded(server)
    assert "autoload is on: kernels that start from now on have h2q" in (
        h2q(environment, "autoload", "on").stdout
    )
    assert guarded(server)
    assert file.read_text().count(">>>") == 2
    h2q(environment, "autoload", "on")
    assert file.read_text().count(">>>") == 2
    assert "autoload is off" in h2q(environment, "autoload", "off").stdout
    assert not file.exists()
    assert not guarded(server)


def test_what_else_stands_in_the_file_is_kept(environment: Path) -> None:
    file = environment / "etc/ipython/ipython_config.py"
    file.parent.mkdir(parents=True, exist_ok=True)
    mine = "c = get_config()\nc.InteractiveShell.colors = 'NoColor'"
    file.write_text(mine)
    try:
        h2q(environment, "autoload", "on")
        assert file.read_text().startswith(f"{mine}\n# >>> h2q")
        h2q(environment, "autoload", "off")
        assert file.read_text() == f"{mine}\n"
        file.write_text(f"{mine}\n# >>> h2q autoload >>>\n")
        torn = h2q(environment, "autoload", "off")
        assert torn.returncode == 1
        assert "the end of h2q's block is gone" in torn.stderr
        assert "Traceback" not in torn.stderr
    finally:
        file.unlink()


def test_a_wrong_word_is_told(environment: Path) -> None:
    wrong = h2q(environment, "autoload", "maybe")
    assert wrong.returncode == 2
    assert "choose from" in wrong.stderr
    assert "required" in h2q(environment).stderr
