from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from h2q_notebook.guardian.on_import import ImportWatch

NAME = "module_waited_for"


@pytest.fixture
def watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ImportWatch]:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / f"{NAME}.py").write_text("value = 1\n")
    watch = ImportWatch()
    yield watch
    watch.forget()
    sys.modules.pop(NAME, None)


def _finders() -> list[object]:
    return [finder for finder in sys.meta_path if isinstance(finder, ImportWatch)]


def test_the_callback_runs_once_after_the_module_is_complete(watch: ImportWatch) -> None:
    seen: list[int] = []
    watch.when_imported(NAME, lambda: seen.append(sys.modules[NAME].value))
    module = importlib.import_module(NAME)
    assert seen == [1]
    assert not _finders()
    importlib.reload(module)
    assert seen == [1]
    assert "exec_module" not in vars(module.__spec__.loader)  # type: ignore[union-attr]


def test_a_reload_of_a_module_imported_before_also_counts(watch: ImportWatch) -> None:
    module = importlib.import_module(NAME)
    seen: list[bool] = []
    watch.when_imported(NAME, lambda: seen.append(True))
    assert importlib.reload(module) is module
    assert seen == [True]


def test_a_failed_import_fails_as_ever_and_waits_on(watch: ImportWatch, tmp_path: Path) -> None:
    seen: list[bool] = []
    source = tmp_path / f"{NAME}.py"
    source.write_text("raise RuntimeError('broken')  # a longer text, so that no old cache fits\n")
    importlib.invalidate_caches()
    watch.when_imported(NAME, lambda: seen.append(True))
    with pytest.raises(RuntimeError, match="broken"):
        importlib.import_module(NAME)
    assert not seen
    assert NAME not in sys.modules
    source.write_text("value = 2\n")
    importlib.invalidate_caches()
    assert importlib.import_module(NAME).value == 2
    assert seen == [True]


def test_a_missing_module_is_missing_as_ever(watch: ImportWatch) -> None:
    watch.when_imported("module_that_is_not_there", lambda: None)
    with pytest.raises(ModuleNotFoundError, match="module_that_is_not_there"):
        importlib.import_module("module_that_is_not_there")


def test_looking_for_a_module_without_importing_it_calls_nothing(watch: ImportWatch) -> None:
    seen: list[bool] = []
    watch.when_imported(NAME, lambda: seen.append(True))
    assert importlib.util.find_spec(NAME) is not None
    assert not seen
    importlib.import_module(NAME)
    assert seen == [True]


def test_an_error_in_the_callback_does_not_reach_the_import(watch: ImportWatch) -> None:
    def fails() -> None:
        raise ValueError

    watch.when_imported(NAME, fails)
    assert importlib.import_module(NAME).value == 1


def test_forgetting_takes_the_finder_away_and_leaves_the_others_in_order(
    watch: ImportWatch,
) -> None:
    before = list(sys.meta_path)
    watch.when_imported(NAME, lambda: None)
    watch.when_imported("another", lambda: None)
    assert len(_finders()) == 1
    watch.forget()
    assert sys.meta_path == before


def test_a_spec_found_while_waiting_calls_nothing_after_forgetting(watch: ImportWatch) -> None:
    seen: list[bool] = []
    watch.when_imported(NAME, lambda: seen.append(True))
    spec = importlib.util.find_spec(NAME)
    watch.forget()
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert not seen


def test_built_in_modules_and_finders_of_the_old_kind_do_not_break_it(
    watch: ImportWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OldFinder:
        pass

    monkeypatch.setattr(sys, "meta_path", [OldFinder(), *sys.meta_path])
    watch.when_imported("sys", lambda: None)
    watch.when_imported(NAME, lambda: None)
    assert watch.find_spec("sys") is not None
    assert watch.find_spec(NAME) is not None
    assert watch.find_spec("unrelated") is None
    watch.forget()
