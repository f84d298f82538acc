"""On a real NVIDIA device; elsewhere it says so and skips. The same promises hold with fakes."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("no CUDA device here", allow_module_level=True)

import nbformat  # noqa: E402
from nbclient import NotebookClient  # noqa: E402

from h2q_notebook.guardian.device_limit import DeviceLimit, is_device_full  # noqa: E402
from h2q_notebook.readings.devices import DeviceReader  # noqa: E402

MIB = 1 << 20


def test_torchs_own_allocator_keeps_to_the_budget_and_is_given_back() -> None:
    kept = torch.empty(100 * MIB, dtype=torch.uint8, device="cuda")
    limit = DeviceLimit()
    limit.arm("512MiB")
    more = torch.empty(300 * MIB, dtype=torch.uint8, device="cuda")
    with pytest.raises(torch.OutOfMemoryError) as caught:
        torch.empty(400 * MIB, dtype=torch.uint8, device="cuda")
    assert is_device_full(caught.value)
    (used,) = limit.disarm()
    assert 300 * MIB <= used.peak_bytes <= 512 * MIB
    del more
    assert torch.empty(900 * MIB, dtype=torch.uint8, device="cuda").numel() == 900 * MIB
    del kept


def test_the_reading_is_that_of_torch_and_of_the_driver() -> None:
    kept = torch.empty(200 * MIB, dtype=torch.uint8, device="cuda")
    reader = DeviceReader()
    one = reader.read()[0]
    reader.close()
    assert one.used_bytes >= 200 * MIB
    assert one.reserved_bytes >= one.used_bytes
    assert one.free_bytes is not None
    assert one.free_bytes < one.total_bytes
    del kept


def test_a_full_device_in_a_real_kernel_is_undone_and_the_kernel_lives() -> None:
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [
        nbformat.v4.new_code_cell(source)
        for source in (
            "%load_ext h2q\nimport torch\nx = torch.ones(1, device='cuda')\nname = 'before'",
            "%%h2q_budget 4GiB --gpu 512MiB\nname = 'after'\n"
            "held = [torch.empty(100 << 20, dtype=torch.uint8, device='cuda') for _ in range(9)]",
            "print(name, 'held' in globals(), torch.cuda.memory_allocated() < (64 << 20))",
        )
    ]
    client = NotebookClient(notebook, timeout=120, allow_errors=True)
    client.execute()
    second, third = notebook.cells[1].outputs, notebook.cells[2].outputs
    assert any(one.get("ename") == "OutOfMemoryError" for one in second)
    assert any("on cuda:0 was refused" in str(one.get("data", "")) for one in second)
    assert third[0]["text"].strip() == "before False True"
