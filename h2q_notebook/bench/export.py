"""A run's answers as a table for other tools: CSV, or parquet where pyarrow is there."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from h2q_notebook.bench.outcome import BenchRun
from h2q_notebook.errors import BadArgument, MissingExtra
from h2q_notebook.whole_file import write_whole

__all__ = ["KINDS", "export"]

KINDS = ("csv", "parquet")


def export(run: BenchRun, kind: str, folder: Path) -> Path:
    """Write ``h2q-bench-<run>.<kind>``; a file of that name is replaced as a whole.

    Args:
        run: the run.
        kind: one of ``KINDS``.
        folder: where to.

    Raises:
        BadArgument: not one of ``KINDS``, or the file cannot be written.
        MissingExtra: parquet without pyarrow.
    """
    if kind not in KINDS:
        raise BadArgument(f"--export: {kind!r} is neither csv nor parquet")
    if not run.cases:
        raise BadArgument(f"--export: run {run.run_id} has no answers yet")
    rows = [_row(run, case.as_dict()) for case in run.cases]
    target = folder / f"h2q-bench-{run.run_id}.{kind}"
    blob = _csv(rows) if kind == "csv" else _parquet(rows)
    try:
        write_whole(target, blob, mode=0o666)  # for others; the umask says for whom
    except OSError as error:
        raise BadArgument(f"--export: {target} cannot be written: {error.strerror}") from None
    return target


def _row(run: BenchRun, case: dict[str, Any]) -> dict[str, Any]:
    fences = case.pop("fences")
    model = run.manifest["model"]
    return {
        "run_id": run.run_id,
        "suite": run.suite,
        "suite_hash": run.manifest["suite"]["hash"],
        "model": model.get("label"),
        "rung": model.get("rung"),
        "dtype": model.get("dtype"),
        "threads": run.manifest.get("threads"),
        **case,
        "fences": " ".join(sorted(name for name, state in fences.items() if state == "held")),
    }


def _csv(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows({name: _inert(value) for name, value in row.items()} for row in rows)
    return text.getvalue().encode()


def _inert(value: Any) -> Any:
    """A model's text must not become a formula in somebody's spreadsheet."""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return "'" + value
    return value


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingExtra("pyarrow", "bench") from None
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return bytes(sink.getvalue().to_pybytes())
