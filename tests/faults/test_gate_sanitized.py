"""The gate's own tests again, with its code under AddressSanitizer and UBSan."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
SOURCES = sorted((REPO / "h2q_notebook/guardian/native").glob("*.c"))
COMPILER = shutil.which("gcc")
HEADERS = Path(sysconfig.get_path("include"))
CHECKS = ["-fsanitize=address,undefined", "-fno-omit-frame-pointer"]


def library(name: str) -> str:
    """Where the compiler keeps a sanitizer's library; a bare name where it has none."""
    assert COMPILER is not None
    found = subprocess.run(
        [COMPILER, f"-print-file-name={name}"], capture_output=True, text=True, check=True
    )
    return found.stdout.strip()


@pytest.mark.timeout(300)
def test_the_gates_tests_pass_under_the_sanitizers(tmp_path: Path) -> None:
    if COMPILER is None or not (HEADERS / "Python.h").exists():
        pytest.skip("no gcc, or no headers of this Python")
    preload = [library(name) for name in ("libasan.so", "libubsan.so")]
    if not all(Path(one).is_absolute() for one in preload):
        pytest.skip("this gcc has no sanitizers")
    shutil.copytree(
        REPO / "h2q_notebook", tmp_path / "h2q_notebook",
        ignore=shutil.ignore_patterns("*.so", "__pycache__"),
    )  # fmt: skip
    (tmp_path / "tests/unit").mkdir(parents=True)
    for folder in ("tests", "tests/unit"):
        (tmp_path / folder / "__init__.py").touch()
    shutil.copy(REPO / "tests/unit/test_guardian_gate.py", tmp_path / "tests/unit")
    built = tmp_path / f"h2q_notebook/guardian/_gate{sysconfig.get_config_var('EXT_SUFFIX')}"
    flags = ["-g", "-O1", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    command = [COMPILER, *flags, *CHECKS, "-pthread", f"-I{HEADERS}", *map(str, SOURCES)]
    subprocess.run([*command, "-o", str(built)], check=True)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/unit"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={
            **os.environ,
            "LD_PRELOAD": " ".join(preload),
            # What is freed must be free, or budgets see the sanitizer's own quarantine.
            "ASAN_OPTIONS": "detect_leaks=0:quarantine_size_mb=1:allocator_may_return_null=1",
            "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        },
    )  # fmt: skip
    assert run.returncode == 0, (run.stdout + run.stderr)[-4000:]
    assert " passed" in run.stdout
    assert "skipped" not in run.stdout, "the sanitized build was not used"
