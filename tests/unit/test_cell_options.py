"""Which budget binds: what was asked, or what is free, whichever is less."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h2q_notebook.cell.options import resolve_budget
from h2q_notebook.errors import BadArgument
from h2q_notebook.readings.limits import Headroom

MIB, GIB = 1 << 20, 1 << 30
ROOM = Headroom(free_bytes=8 * GIB, total_bytes=16 * GIB, source="cgroup limit")


def test_a_size_that_fits_is_the_budget() -> None:
    budget = resolve_budget("2GiB", ROOM, 0)
    assert (budget.n_bytes, budget.source) == (2 * GIB, "budget 2.00 GiB")


def test_a_percentage_is_of_the_limit_that_binds() -> None:
    assert resolve_budget("25%", ROOM, 0).n_bytes == 4 * GIB


def test_more_than_is_free_is_cut_to_what_is_free_and_told() -> None:
    budget = resolve_budget("12GiB", ROOM, 0)
    assert budget.n_bytes == 8 * GIB
    assert budget.source == "what is free (cgroup limit): 8.00 GiB of the 12.00 GiB asked for"


def test_no_size_takes_what_the_machine_can_spare() -> None:
    budget = resolve_budget(None, ROOM, GIB)
    assert budget.n_bytes == 7 * GIB
    assert budget.source == "budget of what the cgroup limit can spare: 7.00 GiB"


@given(st.integers(0, 20 * GIB), st.integers(0, 20 * GIB))
def test_a_budget_is_never_under_a_mebibyte_however_full_the_machine(
    free: int, reserve: int
) -> None:
    room = Headroom(free_bytes=free, total_bytes=16 * GIB, source="machine")
    assert resolve_budget(None, room, reserve).n_bytes >= MIB


@given(st.integers(1, 64))
def test_a_budget_is_never_more_than_is_free(gib: int) -> None:
    assert resolve_budget(f"{gib}GiB", ROOM, 0).n_bytes <= ROOM.free_bytes


@pytest.mark.parametrize("size", ["1023k", "1", "lots", "0", "101%"])
def test_no_cell_can_run_in_that(size: str) -> None:
    with pytest.raises(BadArgument):
        resolve_budget(size, ROOM, 0)


def test_a_ceiling_of_ones_own_keeps_nothing_back() -> None:
    budget = resolve_budget(None, Headroom(2 * GIB, 4 * GIB, "max_memory_mb"), 1 * GIB)
    assert budget.n_bytes == 2 * GIB
    assert budget.source == "budget of what max_memory_mb can spare: 2.00 GiB"
