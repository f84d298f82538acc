"""What a form of a model costs in speed and quality, in words, as a benchmark measured it.

The figures are of one small model; they say what to expect, not what will be.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

__all__ = ["prices"]


@lru_cache(maxsize=1)
def _figures() -> dict[str, Any]:
    path = Path(__file__).with_name("rung_figures.json")
    return dict(json.loads(path.read_text(encoding="utf-8")))


def prices(kind: str) -> tuple[str, str]:
    """Speed and quality of a kind of rung beside plain bf16, with where that comes from.

    Args:
        kind: as in ``Rung.kind``.

    Returns:
        Two clauses; empty where there is nothing to say, as for the plain form.
    """
    data = _figures()
    row = data["rungs"].get(kind)
    if row is None:
        return "", ""
    source = f"{data['model']}, {data['command']}"
    speed = f"{row['speed_of_bf16']}x the speed of bf16"
    lost = row["nll_over_bf16"]
    quality = f"log-likelihood {-lost:+.3f} a token" if lost else "exact"
    return speed, f"{quality} ({source})"
