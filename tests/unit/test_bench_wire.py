"""Values cross between processes unchanged, and nothing but plain values crosses."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h2q_notebook.bench.wire import WireError, decode, encode, same

KEYS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.text(max_size=8), st.binary(max_size=8)
)
PLAIN = st.recursive(
    st.one_of(KEYS, st.floats(), st.complex_numbers(allow_nan=False)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.sets(KEYS, max_size=4),
        st.frozensets(KEYS, max_size=4),
        st.dictionaries(KEYS, inner, max_size=4),
    ),
    max_leaves=12,
)


@given(PLAIN)
def test_every_plain_value_arrives_as_it_was(value: Any) -> None:
    assert same(value, decode(json.loads(json.dumps(encode(value)))))


class Yes:
    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 1


class Five(int):
    pass


RECURSIVE: list[Any] = []
RECURSIVE.append(RECURSIVE)


@pytest.mark.parametrize(
    "value",
    [Yes(), Five(5), [Yes()], {1: object()}, len, type, range(3), RECURSIVE, "x" * 1_000_001,
     1 << 2_000_000, [0] * 200_001, iter([1])],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_is_not_plain_stays_behind(value: Any) -> None:
    with pytest.raises(WireError):
        encode(value)


@pytest.mark.parametrize(
    "message",
    [None, [], ["no such"], ["int"], ["int", 5], ["int", "0x"], ["int", "1 2"], ["list", 3],
     ["dict", [[["int", "0x1"]]]], ["set", [["list", []]]], ["float", "x"], ["bool", 1],
     ["bytes", "0"], "text", {"a": 1}, ["str", 1], ["int", "0x" + "f" * 300_000],
     ["complex", "0x0p+0"]],
    ids=repr,
)  # fmt: skip
def test_a_malformed_message_is_refused(message: Any) -> None:
    with pytest.raises(WireError):
        decode(message)


def test_a_message_nested_without_end_is_refused() -> None:
    message: list[Any] = ["list", []]
    for _ in range(500):
        message = ["list", [message]]
    with pytest.raises(WireError, match="deeper"):
        decode(message)


@pytest.mark.parametrize(
    ("expected", "got", "equal"),
    [
        (1, 1, True), (1, True, False), (1, 1.0, False), (0.1 + 0.2, 0.3, True),
        (0.3, 0.3001, False), (float("nan"), float("nan"), True), ((1,), [1], False),
        ({1: 2}, {True: 2}, False), ({1, 2}, {2, 1}, True), ({1}, {True}, False),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True), ({"a": 1}, {"a": 1, "b": 2}, False),
        ([1, [2, (3,)]], [1, [2, (3,)]], True), ("a", b"a", False), (None, False, False),
        (0.0, 5e-324, True), (10**400, 10**400, True),
    ],
)  # fmt: skip
def test_equal_means_equal_in_type_too(expected: Any, got: Any, equal: bool) -> None:
    assert same(expected, got) is equal
