"""README says what was measured, and its commands and pictures exist."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks import readme_figures
from benchmarks.readme_figures import README, figures, overshoots, rewritten

TEXT = README.read_text(encoding="utf-8")
ROOT = README.parent


def test_the_figures_in_the_readme_are_those_of_the_results() -> None:
    # Behind? python -m benchmarks.readme_figures
    assert rewritten(TEXT) == TEXT


def test_the_page_of_settings_has_every_setting_as_it_is() -> None:
    # Behind? python -m benchmarks.readme_figures
    page = readme_figures.SETTINGS.read_text(encoding="utf-8")
    assert readme_figures.rewritten_settings(page) == page


def test_the_tables_of_the_gate_are_those_of_the_results() -> None:
    # Behind? python -m benchmarks.readme_figures
    page = readme_figures.GATE.read_text(encoding="utf-8")
    assert readme_figures.rewritten_gate(page) == page


def test_the_table_of_isolated_cells_is_that_of_the_results() -> None:
    # Behind? python -m benchmarks.readme_figures
    page = readme_figures.ISOLATION.read_text(encoding="utf-8")
    assert readme_figures.rewritten_isolation(page) == page


def test_a_benchmark_that_has_not_run_has_no_line(tmp_path: Path) -> None:
    assert figures(tmp_path).count("\n") == 1
    assert overshoots(tmp_path).count("\n") == 1


def test_a_figure_changes_with_its_file(tmp_path: Path) -> None:
    (tmp_path / "gauge_paint.json").write_text('{"warm_median_ms": 123.4, "first_ms": 200}')
    assert "| 123 ms (first 200 ms) | `python -m benchmarks.gauge_paint` |" in figures(tmp_path)


def test_only_large_overshoots_of_adversaries_are_listed(tmp_path: Path) -> None:
    cells = [
        {"name": "small", "expect": "stopped", "overshoot_mib": 64},
        {"name": "pl: join", "expect": "stopped", "overshoot_mib": 65},
        {"name": "innocent", "expect": "ok", "overshoot_mib": 900},
    ]
    (tmp_path / "adversarial.json").write_text(json.dumps({"cells": cells}))
    (row,) = overshoots(tmp_path).splitlines()[2:]
    assert row.startswith("| pl: join | +65 MiB | ")


def test_a_readme_without_markers_is_refused() -> None:
    with pytest.raises(SystemExit, match="no markers"):
        rewritten("nothing here")


def test_every_command_of_the_figures_can_be_run() -> None:
    modules = set(re.findall(r"`python -m benchmarks\.(\w+)`", TEXT))
    assert modules
    assert all((Path(readme_figures.__file__).parent / f"{name}.py").exists() for name in modules)


def test_every_local_link_and_picture_exists() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", TEXT)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_ci_runs_the_test_command_of_the_readme() -> None:
    install, test = ".venv/bin/pip install", ".venv/bin/python -m pytest"
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for text in (TEXT, ci):
        assert "-c constraints.txt -e '.[test]'" in text
        assert install in text
        assert test in text
