"""What a run must tell so that another one can be compared with it: model, machine, versions."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from h2q_notebook.bench.suite import Suite

__all__ = ["about_machine", "about_model", "about_suite", "fingerprint", "load_average"]

_WHOLE_BYTES = 4 << 30
"""Weights up to this size are hashed whole (about a second a GiB), larger ones in part."""
_PART_BYTES = 1 << 20
_WEIGHTS = (".safetensors", ".gguf", ".bin", ".pt")
_PACKAGES = ("h2q-notebook", "torch", "transformers", "safetensors", "numpy", "ipython")


def about_suite(suite: Suite, source: str) -> dict[str, Any]:
    """A suite, as kept with a run.

    Args:
        suite: the suite.
        source: what it was asked for as.
    """
    return {
        "name": suite.name,
        "version": suite.version,
        "hash": suite.hash,
        "source": source,
        "n_cases": len(suite.cases),
        "categories": list(suite.categories),
    }


def about_model(model: Any, tokenizer: Any, more: Mapping[str, Any]) -> dict[str, Any]:
    """A model, as kept with a run.

    Args:
        model: a transformers model.
        tokenizer: its.
        more: what the caller knows: ``label``, ``source``, ``rung`` ...
    """
    template = getattr(tokenizer, "chat_template", None)
    text = template if isinstance(template, str) else repr(template) if template else ""
    found = Path(str(getattr(model, "name_or_path", "") or more.get("source") or ""))
    return {
        "class": type(model).__name__,
        "model_type": str(getattr(model.config, "model_type", "")),
        "n_parameters": int(sum(p.numel() for p in model.parameters())),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "files": fingerprint(found) if found.exists() and found.name else None,
        "chat_template_sha256": hashlib.sha256(text.encode()).hexdigest() if text else None,
        **more,
    }


def fingerprint(path: Path) -> dict[str, Any] | None:
    """A hash of a model's weights; None where the path has none.

    Up to 4 GiB every byte counts. Beyond, each file's name, size, first and last MiB do, and
    ``kind`` says ``sampled``.
    """
    files = (
        [path]
        if path.is_file()
        else sorted(one for one in path.iterdir() if one.suffix in _WEIGHTS and one.is_file())
    )
    if not files:
        return None
    total = sum(one.stat().st_size for one in files)
    whole = total <= _WHOLE_BYTES
    digest = hashlib.sha256()
    for one in files:
        size = one.stat().st_size
        digest.update(f"{one.name}\0{size}\0".encode())
        with open(one, "rb") as file:
            if whole:
                while chunk := file.read(1 << 22):
                    digest.update(chunk)
            else:
                digest.update(file.read(_PART_BYTES))
                file.seek(max(size - _PART_BYTES, 0))
                digest.update(file.read(_PART_BYTES))
    return {
        "sha256": digest.hexdigest(),
        "kind": "whole" if whole else "sampled",
        "n_files": len(files),
        "n_bytes": total,
    }


def about_machine() -> dict[str, Any]:
    """Versions and processors."""
    import psutil

    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "logical_processors": os.cpu_count(),
        "physical_processors": psutil.cpu_count(logical=False),
        "memory_bytes": psutil.virtual_memory().total,
        "versions": versions,
    }


def load_average() -> float | None:
    """Of one minute; None where the system has none."""
    try:
        return round(os.getloadavg()[0], 2)
    except (OSError, AttributeError):
        return None
