"""Where settings come from, and which of two wins.

From the weakest to the strongest: defaults, ``ipython_config.py``, the TOML file, the environment,
``%config H2Q....`` typed in the session, keyword arguments. Each layer is a plain mapping; a layer
that is wrong is refused whole, with every wrong field named.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from h2q_notebook.config.settings import MemorySafeConfig, range_of
from h2q_notebook.config.toml import read_toml
from h2q_notebook.errors import BadArgument, MissingExtra
from h2q_notebook.units import shorten

__all__ = [
    "LAYERS",
    "Settled",
    "config_path",
    "parse_toml",
    "read_environment",
    "read_file",
    "settle",
]

LAYERS = ("ipython_config.py", "file", "environment", "%config", "keyword")
"""Weakest first; the defaults lie under all of them."""
_MAX_FILE_BYTES = 1 << 16
_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off"}


@dataclass(frozen=True, slots=True)
class Settled:
    """The settings, and for each that is not a default which layer gave it."""

    config: MemorySafeConfig
    origins: Mapping[str, str]


def settle(layers: Mapping[str, Mapping[str, Any]]) -> Settled:
    """Lay the layers over each other.

    Args:
        layers: some of ``LAYERS``, each with its names and values.

    Raises:
        BadArgument: the settings together cannot be; a sentence for each field.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in LAYERS:
        for name, value in layers.get(layer, {}).items():
            values[name], origins[name] = value, layer
    return Settled(MemorySafeConfig.from_mapping(values), origins)


def read_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """``H2Q_MAX_MEMORY_MB=4096`` and the like: ``H2Q_`` and the name in capitals.

    Raises:
        BadArgument: a value cannot be read; the sentence names the variable.
    """
    found: dict[str, Any] = {}
    for one in fields(MemorySafeConfig):
        variable = f"H2Q_{one.name.upper()}"
        text = environ.get(variable)
        if text is not None and text.strip():
            found[one.name] = _from_text(variable, one.name, text.strip())
    return found


def _from_text(variable: str, name: str, text: str) -> Any:
    allowed = range_of(name)
    if allowed.kind in ("path", "choice"):
        return text
    if allowed.kind == "switch":
        if text.lower() in _TRUE | _FALSE:
            return text.lower() in _TRUE
    elif allowed.optional and text.lower() == "none":
        return None
    else:
        try:
            return int(text) if allowed.kind == "whole" else float(text)
        except ValueError:
            pass
    raise BadArgument(f"{variable}: {shorten(text)!r} is outside {allowed.words()}")


def config_path(environ: Mapping[str, str]) -> Path:
    """The settings file: ``H2Q_CONFIG``, else ``h2q.toml`` in Jupyter's configuration directory."""
    own = environ.get("H2Q_CONFIG")
    if own:
        return Path(own).expanduser().absolute()
    from jupyter_core.paths import jupyter_config_dir

    return Path(jupyter_config_dir()) / "h2q.toml"


def read_file(path: Path) -> str | None:
    """The text of a settings file; None where there is none.

    Raises:
        BadArgument: it cannot be read, is too large, or others may write it: whoever may loosen a
            guard must be who it guards.
    """
    try:
        about = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadArgument(f"{path}: {error.strerror}") from None
    if not stat.S_ISREG(about.st_mode):
        raise BadArgument(f"{path}: is no regular file")
    if hasattr(os, "getuid"):
        if about.st_uid not in (os.getuid(), 0):
            raise BadArgument(f"{path}: belongs to somebody else; settings must be your own")
        if about.st_mode & 0o022:
            raise BadArgument(f"{path}: others may write it; run: chmod go-w {path.name}")
    if about.st_size > _MAX_FILE_BYTES:
        raise BadArgument(f"{path}: is larger than 64 KiB")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadArgument(f"{path}: {getattr(error, 'strerror', None) or 'is not UTF-8'}") from None


def parse_toml(text: str, label: str) -> dict[str, Any]:
    """The settings in a TOML text: names at its top, or in a table ``[h2q]``.

    Raises:
        BadArgument: not TOML, or not settings.
    """
    try:
        data = read_toml(text, f"{label}:")
    except MissingExtra as error:
        raise BadArgument(f"{label}: {error}") from None
    values = data.get("h2q", data)
    if not isinstance(values, dict):
        raise BadArgument(f"{label}: h2q must be a table")
    values = {
        # TOML has no none; the word stands for it.
        name: None if value == "none" else value
        for name, value in values.items()
    }
    try:
        MemorySafeConfig.from_mapping(values)
    except BadArgument as error:
        raise BadArgument(f"{label}: {error}") from None
    return values
