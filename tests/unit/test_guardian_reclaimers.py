"""Reclaimers of the user's are called in order, judged by their effect, and never do harm."""

from __future__ import annotations

import pytest

from h2q_notebook.errors import BadArgument
from h2q_notebook.guardian.reclaimers import RECLAIMERS, Reclaimers, register_reclaimer
from h2q_notebook.units import MIB


class Kernel:
    def __init__(self) -> None:
        self.used, self.called = 1000 * MIB, list[str]()

    def reclaimer(self, name: str, *frees_mib: int) -> object:
        left = list(frees_mib)

        def reclaim() -> None:
            self.called.append(name)
            self.used -= left.pop(0) * MIB if left else 0

        return reclaim


def test_each_is_called_in_order_and_what_it_freed_is_told() -> None:
    kernel, mine = Kernel(), Reclaimers()
    mine.add(kernel.reclaimer("a", 100), "a")  # type: ignore[arg-type]
    mine.add(kernel.reclaimer("b", 50), "b")  # type: ignore[arg-type]
    done = mine.run(lambda: kernel.used)
    assert [(one.name, one.freed_bytes) for one in done] == [("a", 100 * MIB), ("b", 50 * MIB)]


def test_one_without_effect_is_left_alone_until_it_is_calm() -> None:
    kernel, mine = Kernel(), Reclaimers()
    mine.add(kernel.reclaimer("idle"), "idle")  # type: ignore[arg-type]
    for _ in range(4):
        mine.run(lambda: kernel.used)
    assert kernel.called == ["idle"] * 2
    mine.calm()
    mine.run(lambda: kernel.used)
    assert kernel.called == ["idle"] * 3


def test_one_that_raises_is_told_and_dropped_and_the_next_one_still_runs() -> None:
    kernel, mine = Kernel(), Reclaimers()

    def broken() -> None:
        raise KeyError("gone")

    mine.add(broken, "broken")
    mine.add(kernel.reclaimer("good", 10), "good")  # type: ignore[arg-type]
    done = mine.run(lambda: kernel.used)
    assert done[0].error == "KeyError: 'gone'"
    assert done[1].freed_bytes == 10 * MIB
    assert mine.names() == ("good",)


def test_it_can_be_taken_away_again_twice() -> None:
    forget = register_reclaimer(list.clear, name="mine")
    assert "mine" in RECLAIMERS.names()
    forget()
    forget()
    assert "mine" not in RECLAIMERS.names()


def test_what_cannot_be_called_is_refused() -> None:
    with pytest.raises(BadArgument, match="function: 5 cannot be called"):
        register_reclaimer(5)
