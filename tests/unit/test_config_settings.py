"""Settings are frozen, have sane defaults, and refuse what is out of range by name."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest

from h2q_notebook.config.settings import MemorySafeConfig
from h2q_notebook.errors import BadArgument

FIELDS = [field.name for field in fields(MemorySafeConfig) if field.name != "data_dir"]


def test_the_defaults_are_inside_their_own_ranges() -> None:
    config = MemorySafeConfig()
    assert config.sample_interval_s == 0.005
    assert config.gauge_interval_s == 0.25


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("value", [-1, 1 << 50, True, "5", None, float("nan")], ids=repr)
def test_a_value_out_of_range_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(BadArgument, match=f"^{name}: .* is outside "):
        MemorySafeConfig(**{name: value})


def test_a_setting_cannot_be_changed_behind_the_guardian() -> None:
    config = MemorySafeConfig()
    with pytest.raises(FrozenInstanceError):
        config.sample_interval_s = 1.0  # type: ignore[misc]


@pytest.mark.parametrize("name", FIELDS)
def test_every_setting_says_its_range(name: str) -> None:
    import inspect

    source = inspect.getsource(MemorySafeConfig)
    after = source.split(f"{name}:", 1)[1]
    assert " to " in after.split('"""')[1]


@pytest.mark.parametrize("value", [3, None, "a\0b"], ids=repr)
def test_a_data_directory_that_is_no_path_is_refused_by_name(value: Any) -> None:
    with pytest.raises(BadArgument, match=r"^data_dir: "):
        MemorySafeConfig(data_dir=value)
