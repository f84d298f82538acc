"""h2q installs with a compiler and without one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(sys.platform != "linux", reason="the gate is built on Linux alone")
@pytest.mark.parametrize("compiler", ["", "/bin/false"])
def test_a_wheel_is_built_with_a_compiler_and_without_one(tmp_path: Path, compiler: str) -> None:
    if not compiler and shutil.which("gcc") is None:
        pytest.skip("no gcc here")
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "h2q.py"):
        shutil.copy(ROOT / name, source)
    for name in ("h2q_notebook", "jupyter-config"):
        ignored = shutil.ignore_patterns("*.so", "__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), "."]
    environment = {**os.environ, **({"CC": compiler} if compiler else {})}
    subprocess.run(command, cwd=source, env=environment, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    built = [name for name in names if name.startswith("h2q_notebook/guardian/_gate")]
    assert len(built) == (0 if compiler else 1)
    assert "h2q_notebook/guardian/gate.py" in names
    assert not [name for name in names if name.endswith((".c", ".h"))]
