"""The tables of cells: what must be stopped, what must not, what cannot be reached.

The cells lie as plain code in ``cell_tables/*.cells``. ``#== key: value`` at the head of a file is
a default for all of it; ``#%% name`` begins a cell, ``#: key: value`` sets one of its fields (see
``Cell``), ``#: setup``, ``#: cell`` and ``#: teardown`` begin its parts. Every cell is bounded
(1.7 GB, a few seconds), so that one that is *not* stopped still ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.adversary import Cell

__all__ = ["ADVERSARIAL_CELLS", "INNOCENT_CELLS", "OUT_OF_REACH", "SETUPS", "read_table"]

_FOLDER = Path(__file__).parent / "cell_tables"
_KERNEL_ORDER = ["plain", "numeric", "polars", "sacrificed"]
_NOT_ATTACKS = ("innocent", "out_of_reach")
_READERS = {
    "budget_mib": int,
    "timeout_s": float,
    "prefix": lambda text: text == "True",
    "subshell": lambda text: text == "True",
}


def _blocks(text: str) -> Iterator[tuple[str, list[str]]]:
    """Pairs of (name, lines); the first pair has no name and holds the defaults."""
    name, lines = "", []
    for line in text.splitlines():
        if line.startswith("#%% "):
            yield name, lines
            name, lines = line[4:].strip(), []
        else:
            lines.append(line)
    yield name, lines


def _field(text: str) -> tuple[str, Any]:
    key, _, value = text.partition(": ")
    return key, _READERS.get(key, str)(value.strip())


def _cell(name: str, lines: list[str], defaults: dict[str, Any]) -> Cell:
    fields, part = dict(defaults), "cell"
    parts_in_order = ("cell", "setup", "teardown")
    parts: dict[str, list[str]] = {each: [] for each in parts_in_order}
    for line in lines:
        if line.startswith("#: "):
            if line[3:] in parts:
                part = line[3:]
            else:
                key, value = _field(line[3:])
                fields[key] = value
        else:
            parts[part].append(line)
    source, setup, teardown = (
        "\n".join(parts[p]).strip("\n") for p in ("cell", "setup", "teardown")
    )
    return Cell(name=name, source=source, setup=setup, teardown=teardown, **fields)


def read_table(path: Path) -> list[Cell]:
    """Read one file of cells."""
    (_, head), *rest = _blocks(path.read_text(encoding="utf-8"))
    defaults = dict(_field(line[4:]) for line in head if line.startswith("#== "))
    return [_cell(name, lines, defaults) for name, lines in rest]


TABLES = {path.stem: read_table(path) for path in sorted(_FOLDER.glob("*.cells"))}
INNOCENT_CELLS = TABLES["innocent"]
OUT_OF_REACH = TABLES["out_of_reach"]
ADVERSARIAL_CELLS = sorted(
    (cell for name, table in TABLES.items() if name not in _NOT_ATTACKS for cell in table),
    key=lambda cell: _KERNEL_ORDER.index(cell.kernel),
)

# The large files are sparse: they take no disk, and reading them fills the page cache all the same.
SETUPS = {
    "numeric": """
import threading, time
import numpy as np, pandas as pd, pyarrow as pa, pyarrow.compute as pc, torch
torch.set_num_threads(2)
""",
    "polars": "import polars as pl",
    "innocent": """
import json as _json, struct as _struct
with open(h2q_tmp + '/one_gb', 'wb') as _f:
    _f.truncate(1_000_000_000)
_head = _json.dumps({'w': {'dtype': 'F32', 'shape': [175_000_000],
                           'data_offsets': [0, 700_000_000]}}).encode()
with open(h2q_tmp + '/m.safetensors', 'wb') as _f:
    _f.write(_struct.pack('<Q', len(_head)) + _head)
    _f.truncate(8 + len(_head) + 700_000_000)
""",
}
