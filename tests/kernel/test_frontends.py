"""The same promises in nbclient, papermill and terminal IPython."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpecManager

from tests.support.kernel import kernel_environment, write_kernelspec

GROW = "held = []\nfor n in range(1300):\n    held.append(b'x' * 1_000_000)"
CELLS = [
    "%load_ext h2q",
    "kept = 41",
    f"%%h2q_budget 200MiB --no-gauge\nkept = 0\n{GROW}",
    "%%h2q_budget 200MiB --no-gauge\nkept = kept + 1",
    "print('kept is', kept)",
]


def outcomes(cell: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        output["metadata"]["h2q"]
        for output in cell["outputs"]
        if "h2q" in output.get("metadata", {})
    ]


def assert_saved_outcomes(saved: dict[str, Any]) -> None:
    """The saved notebook tells each guarded cell's peak and end, and the variables lived on."""
    cells = saved["cells"][-len(CELLS) :]
    (overrun,), (good,) = outcomes(cells[2]), outcomes(cells[3])
    assert overrun["status"] == "overrun"
    assert overrun["peak_bytes"] > overrun["budget_bytes"] == 200 << 20
    assert good["status"] == "ok"
    assert good["peak_bytes"] >= 0
    printed = "".join("".join(output.get("text", "")) for output in cells[4]["outputs"])
    assert printed.strip() == "kept is 42"
    errors = [o["ename"] for o in cells[2]["outputs"] if o["output_type"] == "error"]
    assert errors == ["MemoryBudgetExceeded"]


@pytest.fixture
def kernel_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with our limited kernel installed as ``h2q-limited``."""
    for key, value in kernel_environment(tmp_path).items():
        monkeypatch.setenv(key, value)
    write_kernelspec(tmp_path / "data" / "kernels")
    return tmp_path


def write_notebook(path: Path, sources: list[str]) -> None:
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(source) for source in sources]
    notebook.metadata["kernelspec"] = {
        "name": "h2q-limited", "display_name": "h2q-limited", "language": "python"
    }  # fmt: skip
    nbformat.write(notebook, path)


def test_a_notebook_run_by_nbclient_keeps_each_cells_outcome(kernel_folder: Path) -> None:
    from nbclient import NotebookClient

    path = kernel_folder / "book.ipynb"
    write_notebook(path, CELLS)
    notebook = nbformat.read(path, as_version=4)
    specs = KernelSpecManager(kernel_dirs=[str(kernel_folder / "data" / "kernels")])
    client = NotebookClient(notebook, allow_errors=True, timeout=60, kernel_name="h2q-limited")
    client.create_kernel_manager()
    client.km.kernel_spec_manager = specs
    client.execute()
    nbformat.write(notebook, path)
    assert_saved_outcomes(json.loads(path.read_text(encoding="utf-8")))


def test_a_notebook_run_by_papermill_keeps_each_cells_outcome(kernel_folder: Path) -> None:
    pytest.importorskip("papermill")
    load, _, overrun, _, _ = CELLS
    good = "%%h2q_budget 200MiB --no-gauge\nkept = 42"
    write_notebook(kernel_folder / "book.ipynb", [load, good, overrun])
    # In a process of its own: papermill brings warnings of its dependencies.
    done = subprocess.run(
        [sys.executable, "-m", "papermill", "book.ipynb", "out.ipynb", "--no-progress-bar"],
        cwd=kernel_folder, env=os.environ.copy(), capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    # papermill ends at the first error, as it should, and says which.
    assert "MemoryBudgetExceeded: the cell was stopped" in done.stderr
    saved = json.loads((kernel_folder / "out.ipynb").read_text(encoding="utf-8"))
    code = [cell for cell in saved["cells"] if cell["cell_type"] == "code"]
    guarded = [outcomes(cell) for cell in code if outcomes(cell)]
    assert [outcome["status"] for (outcome,) in guarded] == ["ok", "overrun"]
    assert all(outcome["peak_bytes"] >= 0 for (outcome,) in guarded)


TERMINAL = [
    "%load_ext h2q",
    "kept = 41",
    "from IPython import get_ipython; shell = get_ipython(); import os; pid = os.getpid()",
    "grow = 'held = []\\nfor n in range(1300):\\n    held.append(b\"x\" * 1_000_000)'",
    "one = shell.run_cell('%%h2q_budget 200MiB\\nkept = 0\\n' + grow)",
    "two = shell.run_cell('%%h2q_budget 200MiB\\nimport asyncio\\nkept = 0\\n'"
    " + grow.replace('000_000)', '000_000); await asyncio.sleep(0)'))",
    "three = shell.run_cell('%%h2q_budget 200MiB\\nkept = kept + 1')",
    "print('END', type(one.error_in_exec).__name__, type(two.error_in_exec).__name__,"
    " three.success, kept, pid == os.getpid())",
]


def test_terminal_ipython_survives(tmp_path: Path) -> None:
    """A real terminal shell fed through its standard input."""
    done = subprocess.run(
        ["/bin/sh", "-c", 'ulimit -v 6291456; exec "$@"', "sh", sys.executable, "-m", "IPython",
         "--simple-prompt", "--no-banner", "--no-confirm-exit", "--colors=NoColor"],
        input="\n".join([*TERMINAL, "exit()", ""]), env=kernel_environment(tmp_path), text=True,
        capture_output=True, timeout=90, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    expected = "END MemoryBudgetExceeded MemoryBudgetExceeded True 42 True"
    assert expected in done.stdout, done.stdout[-3000:]


ISOLATED = [
    "%load_ext h2q",
    "kept = 41",
    f"%%h2q_budget 200MiB --no-gauge --isolate\nkept = 0\n{GROW}",
    "%%h2q_budget 200MiB --no-gauge --isolate\nkept = kept + 1\nprint('in the worker')\nkept",
    "print('kept is', kept, 'and', _)",
]


def test_an_isolated_cell_run_by_nbclient_is_saved_as_any_other(kernel_folder: Path) -> None:
    from nbclient import NotebookClient

    path = kernel_folder / "book.ipynb"
    write_notebook(path, ISOLATED)
    notebook = nbformat.read(path, as_version=4)
    specs = KernelSpecManager(kernel_dirs=[str(kernel_folder / "data" / "kernels")])
    client = NotebookClient(notebook, allow_errors=True, timeout=60, kernel_name="h2q-limited")
    client.create_kernel_manager()
    client.km.kernel_spec_manager = specs
    client.execute()
    nbformat.validate(notebook)
    cells = notebook.cells
    (overrun,), (good,) = outcomes(cells[2]), outcomes(cells[3])
    assert overrun["status"] == "overrun"
    assert good["isolated"]["back"] == ["kept"]
    assert [o.ename for o in cells[2].outputs if o.output_type == "error"] == [
        "MemoryBudgetExceeded"
    ]
    kinds = [output.output_type for output in cells[3].outputs]
    assert kinds == ["stream", "execute_result", "display_data"]
    assert cells[3].outputs[1].execution_count == cells[3].execution_count
    assert cells[4].outputs[0].text == "kept is 42 and 42\n"


TERMINAL_ISOLATED = [
    "%load_ext h2q",
    "kept = 41; import os; pid = os.getpid()",
    "shell = get_ipython()",
    "one = shell.run_cell('%%h2q_budget 200MiB --isolate\\nkept = 0\\n' + " + repr(GROW) + ")",
    "two = shell.run_cell('%%h2q_budget 200MiB --isolate\\nkept = kept + 1\\n"
    'print("from the worker")\\nkept * 100\')',
    "print('END', type(one.error_in_exec).__name__, two.success, kept, _, two.result,"
    " pid == os.getpid())",
]


def test_an_isolated_cell_works_in_terminal_ipython(tmp_path: Path) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", 'ulimit -v 6291456; exec "$@"', "sh", sys.executable, "-m", "IPython",
         "--simple-prompt", "--no-banner", "--no-confirm-exit", "--colors=NoColor"],
        input="\n".join([*TERMINAL_ISOLATED, "exit()", ""]), env=kernel_environment(tmp_path),
        text=True, capture_output=True, timeout=90, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "END MemoryBudgetExceeded True 42 4200 4200 True" in done.stdout, done.stdout[-3000:]
    assert "from the worker" in done.stdout
