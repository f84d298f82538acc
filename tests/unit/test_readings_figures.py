"""What a kernel tells its server is read back, or not at all."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from h2q_notebook.readings.figures import (
    DeathNote,
    Figures,
    figures_path,
    note_path,
    read_figures,
    sweep,
    take_note,
    write_figures,
    write_note,
)

TOLD = Figures(1, 2, "calm", 1, 3, {"ok": 4}, {"warn": 1}, 5, "warn", 6.5, 77)


def test_figures_are_read_as_they_were_written_and_are_their_owners_alone(tmp_path: Path) -> None:
    path = figures_path(tmp_path / "kernel-1.json")
    write_figures(path, TOLD)
    assert read_figures(path) == TOLD
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "change",
    [
        {"used_bytes": -1}, {"used_bytes": "1"}, {"cells": [1]}, {"cells": {"ok": "x"}},
        {"state": 5}, {"strange": 1}, {"events": None},
    ],
)  # fmt: skip
def test_figures_that_are_not_sound_are_none(tmp_path: Path, change: dict[str, object]) -> None:
    path = figures_path(tmp_path / "kernel-1.json")
    write_figures(path, TOLD)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert read_figures(path) is None


def test_every_prefix_of_the_file_is_none(tmp_path: Path) -> None:
    path = figures_path(tmp_path / "kernel-1.json")
    write_figures(path, TOLD)
    whole = path.read_bytes()
    for n in range(len(whole)):
        path.write_bytes(whole[:n])
        assert read_figures(path) is None


def test_a_note_is_taken_once_and_only_while_it_is_news(tmp_path: Path) -> None:
    path = note_path(tmp_path / "kernel-1.json")
    write_note(path, DeathNote(100.0, "signal", "exited with -9, cause unknown"))
    taken = take_note(path, now_s=200.0)
    assert taken is not None
    assert taken.text == "exited with -9, cause unknown"
    assert take_note(path, now_s=200.0) is None
    write_note(path, DeathNote(100.0, "signal", "old"))
    assert take_note(path, now_s=100.0 + 7200) is None
    path.write_text('{"at_s": 1}')
    assert take_note(path) is None


def test_files_of_kernels_that_are_gone_are_swept_and_others_stay(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    for name, pid in (("gone", gone.pid), ("here", os.getpid())):
        path = tmp_path / f"{name}.json"
        write_figures(path, Figures(1, 2, "calm", pid=pid))
    (tmp_path / "strange.json").write_text("{}")
    sweep(tmp_path)
    assert sorted(path.stem for path in tmp_path.glob("*.json")) == ["here", "strange"]
