"""Results survive a kill at any byte, and damage is put aside, never overwritten."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from h2q_notebook.bench.export import export
from h2q_notebook.bench.generation import Sampling
from h2q_notebook.bench.run import run_cases
from h2q_notebook.bench.store import RunStore
from h2q_notebook.errors import BadArgument
from h2q_notebook.places import data_root
from tests.support.benching import SUITE, FakeModel, about, stored


def begun(root: Path, n_cases: int) -> tuple[RunStore, str]:
    """A run that was killed after some cases."""
    store = RunStore(root)
    writer = store.create(about())
    stop = {f"{n_cases} + 1": KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        run_cases(SUITE, Sampling(), FakeModel(stop), writer.add)
    manifest = json.loads((writer.path / "manifest.json").read_text())
    manifest["pid_began"] = 1.0  # the process that wrote it is gone
    (writer.path / "manifest.json").write_text(json.dumps(manifest))
    return store, writer.run_id


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    run = stored(tmp_path)
    again = RunStore(tmp_path).load(run.run_id)
    assert again == run
    assert again.status == "complete"
    assert sorted(os.listdir(run.path)) == ["cases.jsonl", "manifest.json"]


def test_a_killed_run_shows_as_incomplete_and_can_be_gone_on_with(tmp_path: Path) -> None:
    store, run_id = begun(tmp_path, 3)
    assert store.load(run_id).status == "incomplete"
    assert [one.status for one in store.list()] == ["incomplete"]
    writer, run = store.reopen(run_id)
    assert store.load(run_id).status == "running"
    already = {(one.case_id, one.sample) for one in run.cases}
    run_cases(SUITE, Sampling(), FakeModel(), writer.add, already=already)
    writer.end("complete")
    whole = store.load(run_id)
    assert [one.case_id for one in whole.cases] == [case.id for case in SUITE.cases]
    with pytest.raises(BadArgument, match="is complete; nothing is left to do"):
        store.reopen(run_id)


def test_killed_at_any_byte_every_finished_answer_is_left(tmp_path: Path) -> None:
    store, run_id = begun(tmp_path, 3)
    path = store.folder / run_id / "cases.jsonl"
    blob = path.read_bytes()
    lines = blob.splitlines(keepends=True)
    whole = len(lines[0]) + len(lines[1])
    for cut in range(whole, len(blob) + 1):
        path.write_bytes(blob[:cut])
        run = store.load(run_id)
        assert len(run.cases) == (3 if cut == len(blob) else 2)
        assert run.damaged_lines == (0 if cut in (whole, len(blob)) else 1)


@pytest.mark.parametrize(
    "bad", [b"\xff\xfe\n", b"{}\n", b"[]\n", b"null\n", b'{"case_id": 1', b"[" * 100_000 + b"\n"]
)
def test_damage_is_put_aside_whole(bad: bytes, tmp_path: Path) -> None:
    store, run_id = begun(tmp_path, 3)
    path = store.folder / run_id / "cases.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    tail = bad if bad.endswith(b"\n") else b""
    path.write_bytes(lines[0] + tail + lines[1] + lines[2] + (b"" if tail else bad))
    assert len(store.load(run_id).cases) == 3
    assert store.load(run_id).damaged_lines == 1
    assert bad in path.read_bytes()  # reading changes nothing
    store.reopen(run_id)
    assert (path.parent / "cases.damaged-1.jsonl").read_bytes() == bad
    assert path.read_bytes() == b"".join(lines)
    assert store.load(run_id).damaged_lines == 0


def test_a_second_damage_does_not_overwrite_the_first(tmp_path: Path) -> None:
    store, run_id = begun(tmp_path, 2)
    path = store.folder / run_id / "cases.jsonl"
    for number in (1, 2):
        with open(path, "ab") as file:
            file.write(b"damage %d\n" % number)
        store.reopen(run_id)[0].end("incomplete")
        aside = path.parent / f"cases.damaged-{number}.jsonl"
        assert aside.read_bytes() == b"damage %d\n" % number


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"schema": 1}'])
def test_a_damaged_manifest_is_told_and_its_answers_stay(text: str, tmp_path: Path) -> None:
    run = stored(tmp_path)
    (run.path / "manifest.json").write_text(text)
    store = RunStore(tmp_path)
    assert [one.status for one in store.list()] == ["damaged"]
    with pytest.raises(BadArgument, match=r"manifest.json is damaged; its answers are still in"):
        store.load(run.run_id)
    assert (run.path / "cases.jsonl").stat().st_size > 0


def test_a_run_of_a_later_h2q_is_not_guessed_at(tmp_path: Path) -> None:
    run = stored(tmp_path)
    (run.path / "manifest.json").write_text(json.dumps({**run.manifest, "schema": 99}))
    with pytest.raises(BadArgument, match="written by a later h2q"):
        RunStore(tmp_path).load(run.run_id)


def test_runs_are_found_by_the_end_of_their_id_and_the_nearest_is_named(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    with pytest.raises(BadArgument, match="there is none yet"):
        store.find("last")
    run = stored(tmp_path)
    assert store.find(run.run_id[-6:]) == run.run_id
    assert store.find("last") == run.run_id
    with pytest.raises(BadArgument, match=f"did you mean {run.run_id}"):
        store.find(run.run_id[:-1] + "x")
    (store.folder / f"20200101T000000Z-{run.run_id[-6:]}").mkdir()
    with pytest.raises(BadArgument, match="could be any of"):
        store.find(run.run_id[-6:])


@pytest.mark.parametrize("name", ["", "../../etc", "/etc/passwd", "a\0b"])
def test_a_name_is_never_a_path(name: str, tmp_path: Path) -> None:
    stored(tmp_path)
    with pytest.raises(BadArgument, match="no run"):
        RunStore(tmp_path).load(name)


def test_the_environment_comes_before_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("H2Q_DATA_DIR", str(tmp_path / "env"))
    assert data_root("/configured") == tmp_path / "env"
    monkeypatch.delenv("H2Q_DATA_DIR")
    assert data_root("/configured") == Path("/configured")
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    assert data_root() == tmp_path / "jupyter" / "h2q"


def test_a_directory_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadArgument, match="set H2Q_DATA_DIR to a directory that can be written"):
        RunStore(tmp_path / "file").create(about())


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_an_export_has_a_row_for_each_answer(kind: str, tmp_path: Path) -> None:
    import pandas as pd

    run = stored(tmp_path, {"1 + 1": "=HYPERLINK('x') Answer: 3"})
    path = export(run, kind, tmp_path)
    table = pd.read_csv(path) if kind == "csv" else pd.read_parquet(path)
    assert list(table["case_id"]) == [case.id for case in SUITE.cases]
    assert list(table["status"]).count("passed") == 7
    if kind == "csv":
        assert table["completion"][1].startswith("'=")  # no formula in a spreadsheet


def test_an_export_of_another_kind_or_of_nothing_is_refused(tmp_path: Path) -> None:
    store, run_id = begun(tmp_path, 0)
    with pytest.raises(BadArgument, match="has no answers yet"):
        export(store.load(run_id), "csv", tmp_path)
    with pytest.raises(BadArgument, match="neither csv nor parquet"):
        export(stored(tmp_path), "xlsx", tmp_path)
