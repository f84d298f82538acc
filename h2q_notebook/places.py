"""Where h2q keeps things: what can be made again, and what cannot. Nothing is created here."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_root", "data_root"]


def cache_root() -> Path:
    """``H2Q_CACHE_DIR``, else ``$XDG_CACHE_HOME/h2q``, else ``~/.cache/h2q``."""
    own = os.environ.get("H2Q_CACHE_DIR")
    if own:
        return Path(own).expanduser().absolute()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache").absolute() / "h2q"


def data_root(configured: str = "") -> Path:
    """Results: ``H2Q_DATA_DIR``, else *configured*, else ``h2q`` in Jupyter's data directory."""
    own = os.environ.get("H2Q_DATA_DIR") or configured
    if own:
        return Path(own).expanduser().absolute()
    from jupyter_core.paths import jupyter_data_dir

    return Path(jupyter_data_dir()) / "h2q"
