"""The budget line: recognised only where it is one, parsed strictly, taken off without a trace."""

from __future__ import annotations

import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h2q_notebook.cell.options import BudgetOptions
from h2q_notebook.errors import BadArgument
from h2q_notebook.magics.budget import (
    BudgetMagics,
    budget_line,
    options_of,
    parse_budget,
    strip_budget_line,
)


@pytest.mark.parametrize(
    ("line", "options"),
    [
        ("", BudgetOptions()),
        ("2GiB", BudgetOptions(size="2GiB")),
        ("25%", BudgetOptions(size="25%")),
        ("'800 MiB'", BudgetOptions(size="800 MiB")),
        ("1g --on-overrun keep", BudgetOptions(size="1g", on_overrun="keep")),
        ("--on-overrun=warn", BudgetOptions(on_overrun="warn")),
        (
            "1g --rollback deep --deep-limit 1MiB",
            BudgetOptions(size="1g", contents="deep", deep_limit_bytes=1 << 20),
        ),
        ("1g --strict --quiet", BudgetOptions(size="1g", strict=True, quiet=True)),
        ("1g --no-gauge --timeout 2m", BudgetOptions(size="1g", gauge=False, timeout_s=120.0)),
        ("1g --isolate --timeout 5", BudgetOptions(size="1g", isolate=True, timeout_s=5.0)),
        ("--name 'my label' 1g", BudgetOptions(size="1g", label="my label")),
    ],
)
def test_a_line_says_what_is_wanted(line: str, options: BudgetOptions) -> None:
    assert parse_budget(line) == options


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("lots", "size: cannot read 'lots'"),
        ("1g 2g", "unrecognized arguments: 2g"),
        ("1g --on-overrun explode", "invalid choice: 'explode'"),
        ("1g --strict --on-overrun warn", "--strict: it stops cells"),
        ("1g --deep-limit 1MiB", "--deep-limit: it needs --rollback deep"),
        ("1g --isolate --strict", "--isolate: it cannot go with --strict: the worker has a hard"),
        ("1g --isolate --on-overrun keep", "--isolate: it cannot go with --on-overrun keep"),
        ("1g --timeout 0", "--timeout: cannot read '0'"),
        ("1g --stri", "unrecognized arguments: --stri"),
        (f"1g --name {'x' * 201}", "--name: longer than 200 characters"),
    ],
)
def test_a_wrong_line_is_refused_in_one_sentence(line: str, says: str) -> None:
    with pytest.raises(BadArgument) as caught:
        parse_budget(line)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("cell", "line"),
    [
        ("%%h2q_budget 2GiB\nx = 1", "2GiB"),
        ("%%h2q_budget\nx = 1", ""),
        ("%%h2q_budget", ""),
        ("%%h2q_budget  \t 1g \r\nx", "1g"),
        ("\n\n%%h2q_budget 1g\nx", "1g"),
        ("%%h2q_budgets 1g\nx", None),
        ("x = 1\n%%h2q_budget 1g", None),
        ("# %%h2q_budget 1g\nx", None),
        ("%h2q_budget 1g", None),
        ("'%%h2q_budget 1g'", None),
        ("", None),
    ],
)
def test_only_the_first_line_can_be_a_budget_line(cell: str, line: str | None) -> None:
    assert budget_line(cell) == line
    assert (options_of(cell) is None) is (line is None)


def test_a_broken_budget_line_is_told_and_not_ignored() -> None:
    with pytest.raises(BadArgument):
        options_of("%%h2q_budget lots\nx = 1")


LINES = st.lists(
    st.sampled_from(["x = 1\n", "\n", "    y\n", "'''a\n", "b'''\n", "%time z\n", "await q\n"]),
    max_size=8,
)


@given(LINES)
def test_the_cells_own_lines_stay_what_and_where_they_were(body: list[str]) -> None:
    stripped = strip_budget_line(["%%h2q_budget 1g\n", *body])
    assert stripped[1:] == body
    assert ast.parse(stripped[0]).body == []


@given(LINES)
def test_a_cell_without_a_budget_line_is_not_touched(body: list[str]) -> None:
    assert strip_budget_line(body) == body


def test_before_another_cell_magic_the_line_goes_altogether() -> None:
    assert strip_budget_line(["%%h2q_budget 1g\n", "%%time\n", "x\n"]) == ["%%time\n", "x\n"]


def test_a_line_that_cannot_be_parsed_stays_for_the_magic_to_complain() -> None:
    lines = ["%%h2q_budget lots\n", "x = 1\n"]
    assert strip_budget_line(lines) == lines


@pytest.mark.parametrize("option", ["--probe", "--isolate"])
def test_a_cell_that_runs_elsewhere_keeps_its_line_and_is_not_guarded(option: str) -> None:
    lines = [f"%%h2q_budget 1g {option}\n", "x = 1\n"]
    assert strip_budget_line(lines) == lines
    assert options_of("".join(lines)) is None


def test_the_help_names_every_option() -> None:
    text = BudgetMagics.h2q_budget.__doc__ or ""
    for option in ("--on-overrun", "--rollback", "--deep-limit", "--strict", "--no-gauge",
                   "--quiet", "--timeout", "--name", "--isolate", "25%"):  # fmt: skip
        assert option in text
    assert "25%%" not in text
