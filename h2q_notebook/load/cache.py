"""Where h2q keeps what it converts or fetches once."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_root"]


def cache_root() -> Path:
    """``H2Q_CACHE_DIR``, else ``$XDG_CACHE_HOME/h2q``, else ``~/.cache/h2q``; not created here."""
    own = os.environ.get("H2Q_CACHE_DIR")
    if own:
        return Path(own).expanduser().absolute()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache").absolute() / "h2q"
