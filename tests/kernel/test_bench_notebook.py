"""The bench notebook runs from top to bottom and shows what its text promises."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient

from tests.support.kernel import REPO, kernel_environment, write_kernelspec

pytest.importorskip("transformers")
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    home: Path = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.read(REPO / "notebooks" / "04_bench.ipynb", as_version=4)
    write_kernelspec(home / "data" / "kernels")
    client = NotebookClient(notebook, timeout=120, kernel_name="h2q-limited")
    client.create_kernel_manager()
    client.km.kernel_spec_manager = KernelSpecManager(kernel_dirs=[str(home / "data" / "kernels")])
    client.execute(cwd=str(home), env=kernel_environment(home))
    found = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            data = [one["data"] for one in cell.outputs if "data" in one]
            text = "".join(one.get("text", "") for one in cell.outputs)
            plain = "\n".join(str(one.get("text/plain", "")) for one in data)
            kinds = {kind for one in data for kind in one}
            found.append({"shown": text + plain, "kinds": kinds})
    return found


def test_the_file_is_saved_without_outputs_and_counts() -> None:
    notebook = nbformat.read(REPO / "notebooks" / "04_bench.ipynb", as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)


def test_the_sums_are_right_and_the_thought_is_shown(outputs: list[dict[str, Any]]) -> None:
    assert "20 of 20 passed" in outputs[2]["shown"]
    assert "</think>" in outputs[3]["shown"]
    assert "passed answer" in outputs[3]["shown"]


def test_a_cut_answer_is_truncated(outputs: list[dict[str, Any]]) -> None:
    assert "(0, 20, {'truncated'})" in outputs[4]["shown"]


def test_the_comparison_is_a_plot_and_a_verdict(outputs: list[dict[str, Any]]) -> None:
    assert "is better" in outputs[5]["shown"]
    assert "application/vnd.plotly.v1+json" in outputs[5]["kinds"]


def test_a_suite_of_ones_own_is_run_and_all_runs_are_listed(outputs: list[dict[str, Any]]) -> None:
    assert "1 of 2 passed" in outputs[6]["shown"]
    assert "no code in the answer" in outputs[6]["shown"] or "Error" in outputs[6]["shown"]
    assert outputs[7]["shown"].count("complete") == 3
