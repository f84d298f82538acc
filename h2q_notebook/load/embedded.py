"""The model that comes with h2q: a real DeepSeek-V3 of half a million parameters that adds.

It needs no network, so every magic, test and example has a DeepSeek at hand. How it was trained:
``benchmarks/train_tiny_deepseek.py``; what it can do: the README beside its weights.
"""

from __future__ import annotations

from pathlib import Path

import h2q_notebook
from h2q_notebook.errors import LoadFailed

__all__ = ["path"]


def path() -> Path:
    """The directory of ``h2q://tiny-deepseek``.

    Raises:
        LoadFailed: the installation lacks it.
    """
    where = Path(h2q_notebook.__file__).parent / "models" / "tiny_deepseek"
    if not (where / "model.safetensors").is_file():
        raise LoadFailed(
            "h2q://tiny-deepseek: its files are missing from this installation; install "
            "h2q-notebook again"
        )
    return where
