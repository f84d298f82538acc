"""Runs on disk: a directory each, with ``manifest.json`` and ``cases.jsonl``.

Covers writing so that a kill at any byte loses at most the answer being written, reading what is
left, and putting damaged bytes aside. JSON only: a file of results must never be able to run code.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from h2q_notebook.bench.outcome import BenchRun, CaseResult
from h2q_notebook.errors import BadArgument
from h2q_notebook.units import shorten
from h2q_notebook.whole_file import write_whole

__all__ = ["RunStore", "RunWriter", "Summary"]

SCHEMA = 1
_RUN_ID = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{6}")
_CASES, _MANIFEST = "cases.jsonl", "manifest.json"
_NEEDED = {"schema", "run_id", "status", "suite", "sampling", "model"}


@dataclass(frozen=True, slots=True)
class Summary:
    """One run in a list."""

    run_id: str
    status: str
    """As a run's, or ``damaged``."""
    manifest: Mapping[str, Any]


class RunStore:
    """All runs under a directory.

    Args:
        root: it holds ``bench``; made when the first run is.
    """

    def __init__(self, root: Path) -> None:
        self.folder = root / "bench"

    def create(self, about: Mapping[str, Any]) -> RunWriter:
        """Begin a run.

        Args:
            about: JSON-ready: ``suite``, ``sampling``, ``model`` and what else is known.

        Raises:
            BadArgument: the directory cannot be written.
        """
        run_id = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(3)}"
        manifest = _running(
            {
                "schema": SCHEMA,
                "run_id": run_id,
                "started_s": round(time.time(), 3),
                **about,
            }
        )
        path = self.folder / run_id
        fresh = self.folder / f".{run_id}.new"
        try:
            fresh.mkdir(parents=True)
            _write_whole(fresh / _MANIFEST, manifest)
            (fresh / _CASES).touch()
            fresh.rename(path)  # a run has a manifest from its first moment
            _sync(self.folder)
        except OSError as error:
            raise BadArgument(
                f"results cannot be kept in {self.folder} ({error.strerror}); "
                "set H2Q_DATA_DIR to a directory that can be written"
            ) from None
        return RunWriter(path, manifest)

    def reopen(self, run_id: str) -> tuple[RunWriter, BenchRun]:
        """Go on with a run that is not complete.

        Args:
            run_id: whole, or the end of it.

        Raises:
            BadArgument: no such run, it is damaged, or it is complete.
        """
        run = self.load(run_id)
        if run.status == "complete":
            raise BadArgument(f"--resume: run {run.run_id} is complete; nothing is left to do")
        _repair(run.path / _CASES)
        writer = RunWriter(run.path, _running(run.manifest))
        writer.save()
        return writer, run

    def find(self, name: str) -> str:
        """The whole id of a run.

        Args:
            name: an id, its end, or ``last``.

        Raises:
            BadArgument: none, or several.
        """
        ids = self.ids()
        if name == "last" and ids:
            return ids[-1]
        found = [one for one in ids if one == name] or [one for one in ids if one.endswith(name)]
        if len(found) == 1 and name:
            return found[0]
        if len(found) > 1 and name:
            raise BadArgument(f"run {shorten(name)!r} could be any of {', '.join(found[:5])}")
        near = get_close_matches(name, ids, 1, 0.5)
        hint = f"did you mean {near[0]}?" if near else f"the last one is {ids[-1]}" if ids else ""
        told = hint or f"there is none yet in {self.folder}"
        raise BadArgument(f"no run {shorten(name)!r}; {told} (%h2q_bench --list shows all)")

    def ids(self) -> list[str]:
        """Of all runs, oldest first."""
        with suppress(OSError):
            return sorted(one for one in os.listdir(self.folder) if _RUN_ID.fullmatch(one))
        return []

    def list(self) -> list[Summary]:
        """All runs, oldest first; damaged ones too."""
        found = []
        for run_id in self.ids():
            try:
                manifest = _read_manifest(self.folder / run_id)
            except BadArgument:
                found.append(Summary(run_id, "damaged", {}))
            else:
                found.append(Summary(run_id, _state(manifest), manifest))
        return found

    def load(self, name: str) -> BenchRun:
        """One run.

        Raises:
            BadArgument: no such run, or its manifest is damaged.
        """
        path = self.folder / self.find(name)
        manifest = _read_manifest(path)
        cases, damaged = _read_cases(path / _CASES)
        return BenchRun(
            run_id=path.name,
            path=path,
            status=_state(manifest),
            manifest=manifest,
            cases=tuple(cases),
            damaged_lines=len(damaged),
        )


class RunWriter:
    """Writes one run; each answer is on the disk before the next begins."""

    def __init__(self, path: Path, manifest: Mapping[str, Any]) -> None:
        self.path = path
        self.manifest = dict(manifest)

    @property
    def run_id(self) -> str:
        """The run's."""
        return self.path.name

    def add(self, result: CaseResult) -> None:
        """Append one answer."""
        blob = json.dumps(result.as_dict(), ensure_ascii=True).encode() + b"\n"
        fd = os.open(self.path / _CASES, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC)
        try:
            while blob:
                blob = blob[os.write(fd, blob) :]
            os.fsync(fd)
        finally:
            os.close(fd)

    def end(self, status: str, **more: Any) -> None:
        """Mark it ``complete`` or ``incomplete``."""
        self.manifest.update(more, status=status, ended_s=round(time.time(), 3))
        self.save()

    def save(self) -> None:
        """Replace the manifest as a whole."""
        _write_whole(self.path / _MANIFEST, self.manifest)


def _running(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest of a run that this process is at."""
    pid = os.getpid()
    return {**manifest, "status": "running", "pid": pid, "pid_began": _began(pid)}


def _write_whole(path: Path, value: Mapping[str, Any]) -> None:
    write_whole(path, json.dumps(value, indent=1).encode(), durable=True)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        manifest = None
    if not isinstance(manifest, dict) or not manifest.keys() >= _NEEDED:
        raise BadArgument(
            f"run {path.name}: {_MANIFEST} is damaged; its answers are still in {path / _CASES}"
        )
    if manifest["schema"] > SCHEMA:
        raise BadArgument(f"run {path.name} was written by a later h2q; update to read it")
    return manifest


def _read_cases(path: Path) -> tuple[list[CaseResult], list[bytes]]:
    """Sound answers, and lines that are none."""
    cases: list[CaseResult] = []
    damaged: list[bytes] = []
    try:
        blob = path.read_bytes()
    except OSError:
        return cases, damaged
    for line in blob.splitlines(keepends=True):
        if not line.strip():
            continue
        try:
            if not line.endswith(b"\n"):
                raise ValueError("torn")
            cases.append(CaseResult.from_dict(json.loads(line)))
        except (ValueError, TypeError, AttributeError, RecursionError):
            damaged.append(line)
    return cases, damaged


def _repair(path: Path) -> None:
    """Before more is appended: damaged lines go to a file of their own, nothing is lost."""
    cases, damaged = _read_cases(path)
    if not damaged:
        return
    number = 1
    while (aside := path.with_name(f"cases.damaged-{number}.jsonl")).exists():
        number += 1
    aside.write_bytes(b"".join(damaged))
    whole = b"".join(json.dumps(one.as_dict()).encode() + b"\n" for one in cases)
    write_whole(path, whole, durable=True)
    _sync(path.parent)


def _state(manifest: Mapping[str, Any]) -> str:
    """A run whose process is gone did not end by itself."""
    status = str(manifest["status"])
    if status != "running":
        return status
    pid = manifest.get("pid")
    alive = isinstance(pid, int) and _began(pid) == manifest.get("pid_began") is not None
    return "running" if alive else "incomplete"


def _began(pid: int) -> float | None:
    """When a process began; with its pid that names it for good."""
    import psutil

    try:
        return round(float(psutil.Process(pid).create_time()), 2)
    except psutil.Error:
        return None
