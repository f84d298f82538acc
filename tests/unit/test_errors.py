"""One tree of errors: what catches what."""

from __future__ import annotations

import pytest

from h2q_notebook import errors
from h2q_notebook.errors import CellStopped, H2QError, MissingExtra

ALL = [getattr(errors, name) for name in errors.__all__]


@pytest.mark.parametrize("error", ALL, ids=lambda error: error.__name__)
def test_every_error_is_an_ordinary_one_or_a_stop(error: type[BaseException]) -> None:
    assert issubclass(error, H2QError) != issubclass(error, CellStopped)


@pytest.mark.parametrize(
    "stop", [e for e in ALL if issubclass(e, CellStopped)], ids=lambda e: e.__name__
)
def test_a_cell_full_of_except_exception_cannot_swallow_its_stop(
    stop: type[CellStopped],
) -> None:
    assert not issubclass(stop, Exception)


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (errors.BadArgument, ValueError),
        (errors.MissingExtra, ImportError),
        (errors.LoadRefused, MemoryError),
        (errors.GuardUnavailable, OSError),
    ],
)
def test_code_that_knows_only_builtins_catches_ours(
    error: type[Exception], builtin: type[Exception]
) -> None:
    assert issubclass(error, builtin)


def test_a_missing_extra_names_the_command_that_installs_it() -> None:
    error = MissingExtra("torch", "models")
    assert str(error) == (
        "torch is not installed; install it with: pip install 'h2q-notebook[models]'"
    )
    assert error.extra == "models"


def test_the_tree_in_the_docstring_is_complete() -> None:
    assert errors.__doc__ is not None
    assert all(error.__name__ in errors.__doc__ for error in ALL)
