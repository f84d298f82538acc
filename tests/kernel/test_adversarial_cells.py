"""No cell of the tables kills the kernel or its variables; no innocent cell is ever stopped."""

from __future__ import annotations

import pytest

from tests.support.adversary import Cell, KernelPool, attack, missing_need
from tests.support.cells import ADVERSARIAL_CELLS, INNOCENT_CELLS, OUT_OF_REACH


def test_the_tables_are_as_large_as_promised() -> None:
    assert len(ADVERSARIAL_CELLS) >= 60
    assert len(INNOCENT_CELLS) >= 17
    assert len(OUT_OF_REACH) <= 3
    assert all(cell.out_of_reach for cell in OUT_OF_REACH)
    names = [cell.name for cell in (*ADVERSARIAL_CELLS, *INNOCENT_CELLS, *OUT_OF_REACH)]
    assert len(names) == len(set(names))
    # Only a cell with a reason may end however it likes.
    assert all(cell.note for cell in ADVERSARIAL_CELLS if cell.expect == "lives")


@pytest.mark.parametrize("cell", ADVERSARIAL_CELLS, ids=lambda cell: cell.name)
def test_an_adversarial_cell_is_stopped_and_undone(pool: KernelPool, cell: Cell) -> None:
    if reason := missing_need(cell):
        pytest.skip(reason)
    assert attack(pool.get(cell.kernel), cell).problems == ()


@pytest.mark.parametrize("cell", INNOCENT_CELLS, ids=lambda cell: cell.name)
def test_an_innocent_cell_is_never_stopped(pool: KernelPool, cell: Cell) -> None:
    assert attack(pool.get(cell.kernel), cell).problems == ()
