"""Settings are frozen, have sane defaults, and refuse what is out of range by name."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, asdict, fields
from typing import Any

import pytest

from h2q_notebook.config.settings import MemorySafeConfig, range_of
from h2q_notebook.errors import BadArgument

FIELDS = [field.name for field in fields(MemorySafeConfig)]
WRONG = {
    "switch": ["yes", 1, None],
    "choice": ["sideways", 3, None],
    "path": [3, None, "a\0b"],
    "number": [-1, 1 << 50, True, "5", float("nan"), float("inf")],
    "whole": [-1, 1 << 50, True, "5", None, 1e6],
}
CASES = [(name, value) for name in FIELDS for value in WRONG[range_of(name).kind]]


def test_the_defaults_are_inside_their_own_ranges() -> None:
    config = MemorySafeConfig()
    assert config.sample_interval_s == 0.005
    assert config.gauge_interval_s == 0.25
    assert (config.release_at, config.warn_at, config.clean_at) == (0.70, 0.80, 0.90)
    assert config.safety_bytes == 512 << 20
    assert config.max_bytes is None
    assert MemorySafeConfig(max_memory_mb=2048).max_bytes == 2 << 30


@pytest.mark.parametrize(("name", "value"), CASES)
def test_a_wrong_value_is_one_sentence_with_field_value_and_range(name: str, value: Any) -> None:
    with pytest.raises(BadArgument) as caught:
        MemorySafeConfig(**{name: value})
    text = str(caught.value)
    assert text.startswith(f"{name}: ")
    assert " is outside " in text
    assert range_of(name).words() in text
    assert text.count(" is outside ") == 1


def test_every_wrong_field_is_told_at_once() -> None:
    with pytest.raises(BadArgument) as caught:
        MemorySafeConfig(warn_at=7, gauge_delay_s=-1, device="toaster")
    assert [part.split(":")[0] for part in str(caught.value).split("; ")] == [
        "device", "warn_at", "gauge_delay_s",
    ]  # fmt: skip


def test_thresholds_must_rise() -> None:
    with pytest.raises(BadArgument, match=r"warn_at: 0.95 is outside release_at to clean_at"):
        MemorySafeConfig(warn_at=0.95)


def test_an_unknown_name_names_the_nearest() -> None:
    with pytest.raises(BadArgument, match=r"max_memory_gb: no such setting; did you mean max_mem"):
        MemorySafeConfig.from_mapping({"max_memory_gb": 2})


def test_a_setting_cannot_be_changed_behind_the_guardian() -> None:
    config = MemorySafeConfig()
    with pytest.raises(FrozenInstanceError):
        config.sample_interval_s = 1.0  # type: ignore[misc]


@pytest.mark.parametrize("name", FIELDS)
def test_every_setting_has_help_and_takes_its_own_default(name: str) -> None:
    (field,) = [one for one in fields(MemorySafeConfig) if one.name == name]
    assert field.metadata["help"]
    assert range_of(name).holds(asdict(MemorySafeConfig())[name])
