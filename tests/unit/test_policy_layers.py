"""The ledger balances: nothing negative, nothing lost, nothing given back twice."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from h2q_notebook.policy.layers import Ledger, balance

OWNERS = st.sampled_from(["model", "adder", "cell 3", "cell 4", "pipeline"])
SIZES = st.integers(0, 1 << 40)
LAYERS = st.sampled_from(["model", "working"])


class Books(RuleBasedStateMachine):
    """A ledger beside a plain dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.known: dict[str, tuple[str, int]] = {}

    @rule(owner=OWNERS, layer=LAYERS, size=SIZES)
    def reserve(self, owner: str, layer: str, size: int) -> None:
        self.ledger = self.ledger.reserve(owner, layer, size)  # type: ignore[arg-type]
        self.known[owner] = (layer, size)

    @rule(owner=OWNERS)
    def release(self, owner: str) -> None:
        self.ledger = self.ledger.release(owner).release(owner)
        self.known.pop(owner, None)

    @rule(layer=LAYERS, owners=st.dictionaries(OWNERS, SIZES, max_size=3))
    def keep(self, layer: str, owners: dict[str, int]) -> None:
        self.ledger = self.ledger.keep(layer, owners)  # type: ignore[arg-type]
        self.known = {n: one for n, one in self.known.items() if one[0] != layer}
        self.known |= {name: (layer, size) for name, size in owners.items()}

    @invariant()
    def sums_agree(self) -> None:
        for layer in ("model", "working"):
            total = sum(size for kind, size in self.known.values() if kind == layer)
            assert self.ledger.held(layer) == total  # type: ignore[arg-type]

    @rule(used=SIZES, free=SIZES, other=SIZES, safety=SIZES)
    def rows_are_the_whole(self, used: int, free: int, other: int, safety: int) -> None:
        rows = balance(
            self.ledger, used_bytes=used, free_bytes=free, total_bytes=used + free + other,
            safety_bytes=safety, model_limit_bytes=None, working_limit_bytes=None,
        )  # fmt: skip
        assert all(row.n_bytes >= 0 for row in rows)
        assert sum(row.n_bytes for row in rows) == used + free + other

    @rule(layer=LAYERS, limit=st.none() | SIZES, free=SIZES)
    def room_is_never_more_than_there_is(self, layer: str, limit: int | None, free: int) -> None:
        room = self.ledger.room(layer, limit, free)  # type: ignore[arg-type]
        assert 0 <= room <= free
        if limit is not None:
            assert room <= max(0, limit - self.ledger.held(layer))  # type: ignore[arg-type]


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)


def test_a_negative_promise_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be reserved"):
        Ledger().reserve("x", "model", -1)


def test_a_ledger_never_changes() -> None:
    first = Ledger()
    first.reserve("x", "model", 5)
    assert first.held("model") == 0
