"""The quickstart notebook runs from top to bottom and shows what its text promises."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient

from h2q_notebook.errors import LoadFailed
from h2q_notebook.load import smollm2
from h2q_notebook.places import cache_root
from tests.support.kernel import REPO, kernel_environment, write_kernelspec

NOTEBOOK = REPO / "notebooks" / "01_quickstart.ipynb"
pytestmark = pytest.mark.timeout(900)  # the first run fetches 89 MiB and converts them


@dataclass
class Executed:
    """The notebook after its run; what was left out, and why."""

    cells: list[Any] = field(default_factory=list)
    no_library: str = ""
    no_smollm2: str = ""

    def cell(self, start: str) -> Any:
        """The only code cell whose text contains *start*."""
        (found,) = [c for c in self.cells if c.cell_type == "code" and start in c.source]
        return found

    def outcome(self, start: str) -> dict[str, Any]:
        seen = [output.get("metadata", {}) for output in self.cell(start).outputs]
        (data,) = [metadata["h2q"] for metadata in seen if "h2q" in metadata]
        return dict(data)

    def printed(self, start: str) -> str:
        return "".join(o.get("text", "") for o in self.cell(start).outputs)


def why_no_library() -> str:
    missing = [name for name in ("torch", "transformers", "gguf") if find_spec(name) is None]
    return f"{missing[0]} is not installed" if missing else ""


def why_no_smollm2() -> str:
    try:
        smollm2.fetch()
    except LoadFailed as error:
        return str(error)
    return ""


def without(cells: list[Any], first: str, end: str) -> list[Any]:
    """The cells before the title *first* and from the title *end* on."""
    titles = [next((t for t in (first, end) if t in cell.source), "") for cell in cells]
    return cells[: titles.index(first)] + cells[titles.index(end) :]


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Executed:
    home = tmp_path_factory.mktemp("quickstart")
    write_kernelspec(home / "data" / "kernels")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    no_library = why_no_library()
    no_smollm2 = no_library or why_no_smollm2()
    if no_library:
        notebook.cells = without(notebook.cells, "## 6.", "## Where")
    elif no_smollm2:
        notebook.cells = without(notebook.cells, "## 7.", "## 9.")
    client = NotebookClient(notebook, timeout=600, kernel_name="h2q-limited")
    client.create_kernel_manager()
    client.km.kernel_spec_manager = KernelSpecManager(kernel_dirs=[str(home / "data" / "kernels")])
    environment = {**kernel_environment(home), "H2Q_CACHE_DIR": str(cache_root())}
    environment.pop("H2Q_GAUGE", None)
    client.execute(env=environment, cwd=str(home))
    return Executed(notebook.cells, no_library, no_smollm2)


@pytest.fixture
def with_library(executed: Executed) -> Executed:
    if executed.no_library:
        pytest.skip(executed.no_library)
    return executed


@pytest.fixture
def with_smollm2(executed: Executed) -> Executed:
    if executed.no_smollm2:
        pytest.skip(executed.no_smollm2)
    return executed


def test_the_file_is_saved_without_outputs_and_counts() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)


def test_the_file_names_no_machine_and_no_address() -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert not any(word in text for word in (str(Path.home()), str(REPO), "http://", "https://"))


def test_the_harmless_cell_ends_well_and_is_long_enough_for_its_gauge(executed: Executed) -> None:
    outcome = executed.outcome("a good cell")
    assert outcome["status"] == "ok"
    assert 100 << 20 < outcome["peak_bytes"] < outcome["budget_bytes"] == 400 << 20
    assert outcome["duration_s"] > 0.7


def test_the_growing_cell_is_stopped_and_undone(executed: Executed) -> None:
    outcome = executed.outcome("copies.append")
    assert outcome["status"] == "overrun"
    assert outcome["undone"]["added"] == ["copies"]
    assert outcome["undone"]["rebound"] == ["findings"]
    assert outcome["returned_bytes"] > 200 << 20


def test_the_exploding_join_is_refused_before_it_grows(executed: Executed) -> None:
    outcome = executed.outcome("customers.merge")
    assert outcome["status"] == "refused"
    assert outcome["peak_bytes"] < 64 << 20


def test_everything_from_before_lives_on(executed: Executed) -> None:
    assert "three things I must not lose" in executed.printed("print(findings)")


def test_the_embedded_model_is_estimated_loaded_and_adds(with_library: Executed) -> None:
    told = with_library.outcome("%h2q_estimate")
    load = with_library.outcome("--as adder")
    assert told["chosen"] == load["rung"] == "fp32"
    assert "Answer: 125" in with_library.printed("print(said)")


def test_a_model_that_is_given_back_is_gone(with_library: Executed) -> None:
    shown = with_library.cell("%h2q_unload adder").outputs[0]["data"]["text/plain"]
    assert "adder is gone" in shown


def test_the_larger_model_is_loaded_and_answers(with_smollm2: Executed) -> None:
    load = with_smollm2.outcome("h2q_load h2q://smollm2 --budget 1.5GiB")
    assert load["peak_bytes"] < 1536 << 20
    assert "Paris" in with_smollm2.printed("model.generate")


def test_with_less_room_the_weights_stay_in_their_file(with_smollm2: Executed) -> None:
    load = with_smollm2.outcome("--as small --budget 100MiB")
    assert load["rung"] == "mapped"
    assert load["peak_bytes"] < 100 << 20 < load["mapped_bytes"]


def test_a_load_that_cannot_fit_is_refused_and_the_old_model_stays(with_smollm2: Executed) -> None:
    said = with_smollm2.printed("--budget 20MiB")
    assert "does not fit the budget of 20 MiB" in said
    assert "the old model is still bound" in with_smollm2.printed("assert model is before")
