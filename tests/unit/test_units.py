"""Sizes and times are read as people write them, and written as people read them."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h2q_notebook.errors import BadArgument
from h2q_notebook.units import (
    GIB,
    KIB,
    MIB,
    format_bytes,
    format_seconds,
    parse_bytes,
    parse_seconds,
    shorten,
)


def result_of(parse: Callable[[], float]) -> tuple[float, str]:
    """What was parsed, or the sentence of the refusal; the other one is harmless."""
    try:
        return parse(), "timeout: "
    except BadArgument as error:
        return 1, str(error)


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        ("2GiB", 2 << 30),
        ("2g", 2 << 30),
        ("512MB", 512 * 10**6),
        ("512 mib", 512 << 20),
        ("1.5g", 3 << 29),
        (".5G", 1 << 29),
        ("64k", 64 << 10),
        ("1kB", 1000),
        ("1T", 1 << 40),
        ("1048576", 1 << 20),
        ("7b", 7),
        (" 3 MiB ", 3 << 20),
    ],
)
def test_a_size_is_read_as_people_write_it(text: str, n_bytes: int) -> None:
    assert parse_bytes(text) == n_bytes


@pytest.mark.parametrize(
    "text",
    ["", "lots", "-1GiB", "+1GiB", "0", "0MB", "0.1b", "1e3MB", "1_000", "inf", "nan", "２GiB",
     "1 2GiB", "GiB", "5XB", "1,5g", "1PiB1", "99999999999999TiB", "0x10", "1..5g", "%", "\0"],
)  # fmt: skip
def test_what_is_no_size_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(BadArgument) as caught:
        parse_bytes(text, field="--budget")
    assert str(caught.value).startswith("--budget: ")
    assert "\n" not in str(caught.value)


def test_a_percentage_is_of_what_the_caller_says() -> None:
    assert parse_bytes("25%", of_bytes=4 * GIB) == GIB
    assert parse_bytes("100 %", of_bytes=GIB) == GIB
    for text in ("0%", "101%"):
        with pytest.raises(BadArgument, match="outside 0% to 100%"):
            parse_bytes(text, of_bytes=GIB)
    with pytest.raises(BadArgument, match="makes no sense here"):
        parse_bytes("25%")


@given(st.text(max_size=40))
def test_any_text_is_either_a_size_of_at_least_a_byte_or_refused(text: str) -> None:
    n_bytes, said = result_of(lambda: parse_bytes(text, of_bytes=GIB))
    assert 1 <= n_bytes <= 1 << 62
    assert said.isprintable()
    assert len(said) < 250


@given(
    st.integers(1, 4096),
    st.sampled_from([("", 1), ("KiB", KIB), ("MiB", MIB), ("g", GIB), ("MB", 10**6)]),
    st.sampled_from(["", " "]),
)
def test_number_times_unit_is_what_comes_out(
    number: int, unit: tuple[str, int], blank: str
) -> None:
    assert parse_bytes(f"{number}{blank}{unit[0]}") == number * unit[1]


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (0, "0 MiB"),
        (-1, "0 MiB"),
        (500, "0 MiB"),
        (2 * KIB, "2 KiB"),
        (3 * MIB // 2, "1.5 MiB"),
        (812 * MIB, "812 MiB"),
        (-30 * MIB, "-30 MiB"),
        (GIB + GIB // 4, "1.25 GiB"),
        (2048 * GIB, "2.00 TiB"),
    ],
)
def test_a_size_is_written_for_people(n_bytes: int, text: str) -> None:
    assert format_bytes(n_bytes) == text


@given(st.integers(10 * MIB, 1023 * GIB))
def test_a_written_size_can_be_read_again(n_bytes: int) -> None:
    # Two decimals of a GiB, or whole MiB: half a unit of the last digit shown.
    assert parse_bytes(format_bytes(n_bytes)) == pytest.approx(n_bytes, abs=GIB // 200 + MIB)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("1.5m", 90), ("2min", 120), ("250ms", 0.25), ("1h", 3600)],
)
def test_a_time_is_read_as_people_write_it(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@given(st.text(max_size=20))
def test_any_text_is_either_a_time_above_zero_or_refused(text: str) -> None:
    seconds, said = result_of(lambda: parse_seconds(text))
    assert seconds > 0
    assert said.startswith("timeout: ")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0042, "4 ms"), (1.26, "1.3 s"), (125, "2 min 05 s"), (3720, "1 h 02 min")],
)
def test_a_time_is_written_for_people(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


@given(st.text())
def test_echoed_text_is_short_and_harmless(text: str) -> None:
    shown = shorten(text, 30)
    assert len(shown) <= 30
    assert shown.isprintable()
    assert not re.search(r"[\x00-\x1f\x7f]", shown)
