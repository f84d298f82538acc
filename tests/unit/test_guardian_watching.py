"""The watcher's loop with made-up effects: what it sees, when it strikes, what it reports."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from h2q_notebook.guardian.page import SharedPage, Word
from h2q_notebook.guardian.watching import Watching
from h2q_notebook.policy.strikes import Act, Cause, Orders

LIMIT, TOKEN = 400, 7


@dataclass
class FakeEffects:
    """A clock that moves only when told, and readings that are set."""

    time_s: float = 1000.0
    own: int = 0
    extra: int = 0
    tree_cost_s: float = 0.0
    tree_looks: int = 0
    marks: int = 0
    acts: list[tuple[float, Act]] = field(default_factory=list)

    def now_s(self) -> float:
        return self.time_s

    def own_bytes(self) -> int:
        return self.own

    def mark_start(self) -> None:
        self.marks += 1

    def extra_bytes(self, own_bytes: int) -> int:
        self.tree_looks += 1
        self.time_s += self.tree_cost_s
        return self.extra

    def born(self) -> list[int]:
        return [11, 12]

    def strike(self, act: Act) -> None:
        self.acts.append((self.time_s, act))


@dataclass
class Scene:
    effects: FakeEffects
    page: SharedPage
    watching: Watching

    def pass_time(self, seconds: float, step_s: float = 0.005) -> None:
        """Let time go by with a look every *step_s*."""
        end = self.effects.time_s + seconds
        while self.effects.time_s < end - 1e-9:
            self.effects.time_s += step_s
            self.watching.look()

    @property
    def acts(self) -> list[Act]:
        return [act for _, act in self.effects.acts]


@pytest.fixture
def scene() -> Iterator[Scene]:
    effects, page = FakeEffects(), SharedPage()
    page[Word.LIMIT] = LIMIT
    page[Word.PEAK], page[Word.STRIKES], page[Word.CAUSE] = 99, 99, 99  # of the arming before
    watching = Watching(effects, page, Orders(limit_bytes=LIMIT), TOKEN)
    watching.begin()
    yield Scene(effects, page, watching)
    page.close()


def test_nothing_of_the_cell_before_is_left(scene: Scene) -> None:
    assert scene.effects.marks == 1
    words = (Word.OWN, Word.EXTRA, Word.PEAK, Word.STRIKES, Word.CAUSE, Word.INSIST)
    assert [scene.page[word] for word in words] == [0] * 6


def test_a_cell_under_its_limit_is_left_alone(scene: Scene) -> None:
    scene.effects.own = LIMIT
    scene.pass_time(1.0)
    assert scene.acts == []
    assert scene.page[Word.PEAK] == LIMIT


def test_a_cell_over_its_limit_is_struck_at_the_next_look_and_then_every_interval(
    scene: Scene,
) -> None:
    scene.pass_time(0.1)
    scene.effects.own = LIMIT + 1
    scene.pass_time(0.005)
    assert [act.strike for act in scene.acts] == [1]
    scene.pass_time(0.145)
    assert [act.strike for act in scene.acts] == [1, 2, 3]
    assert (scene.page[Word.STRIKES], scene.page[Word.CAUSE]) == (3, Cause.MEMORY)


def test_a_cell_that_has_left_is_not_struck_again(scene: Scene) -> None:
    scene.effects.own = LIMIT + 1
    scene.pass_time(0.005)
    scene.page[Word.UNWOUND] = TOKEN
    scene.pass_time(1.0)
    assert [act.strike for act in scene.acts] == [1]


def test_the_farewell_of_another_arming_means_nothing(scene: Scene) -> None:
    scene.page[Word.UNWOUND] = TOKEN - 1
    scene.page[Word.STOP_REQUESTED] = TOKEN - 1
    scene.pass_time(0.05)
    assert scene.acts == []
    scene.effects.own = LIMIT + 1
    scene.pass_time(0.005)
    assert len(scene.acts) == 1


def test_stop_strikes_at_the_next_look(scene: Scene) -> None:
    scene.pass_time(0.1)
    scene.page[Word.STOP_REQUESTED] = TOKEN
    scene.pass_time(0.005)
    assert [act.cause for act in scene.acts] == [Cause.REQUEST]


def test_raise_gives_room_while_the_cell_runs(scene: Scene) -> None:
    scene.page[Word.LIMIT] = 2 * LIMIT
    scene.effects.own = LIMIT + 100
    scene.pass_time(0.5)
    assert scene.acts == []
    scene.effects.own = 2 * LIMIT + 1
    scene.pass_time(0.005)
    assert len(scene.acts) == 1


def test_children_count_and_are_frozen_when_they_are_what_is_over(scene: Scene) -> None:
    scene.effects.own, scene.effects.extra = 100, LIMIT
    scene.pass_time(0.03)
    assert scene.acts[0].freeze_children
    assert scene.page[Word.PEAK] == 100 + LIMIT
    assert scene.page[Word.EXTRA] == LIMIT


def test_the_tree_is_looked_at_less_often_than_the_process(scene: Scene) -> None:
    scene.pass_time(1.0)
    assert scene.watching.looks == 200
    assert scene.effects.tree_looks <= 51


def test_a_costly_tree_takes_at_most_a_fifth_of_the_time(scene: Scene) -> None:
    scene.effects.tree_cost_s = 0.1
    start_s = scene.effects.time_s
    for _ in range(1000):
        scene.effects.time_s += 0.005
        scene.watching.look()
    spent_s = scene.effects.tree_looks * scene.effects.tree_cost_s
    assert spent_s <= 0.21 * (scene.effects.time_s - start_s) + scene.effects.tree_cost_s


def test_a_spike_between_two_kept_points_is_in_the_result(scene: Scene) -> None:
    scene.effects.own = 10
    scene.pass_time(0.5)
    scene.effects.own = LIMIT
    scene.watching.look()
    scene.effects.own = 10
    scene.pass_time(30.0)
    result = scene.watching.result()
    assert result["peak_bytes"] == LIMIT
    assert max(used for _, used in result["points"]) == LIMIT
    assert len(result["points"]) <= 240


def test_the_result_tells_all_that_was_seen(scene: Scene) -> None:
    scene.pass_time(0.2)
    scene.effects.own = LIMIT + 5
    scene.pass_time(0.06)
    result = scene.watching.result()
    assert result["token"] == TOKEN
    assert result["looks"] == 52
    assert result["strikes"] == 2
    assert result["cause"] == Cause.MEMORY
    assert result["first_over_s"] == pytest.approx(0.205)
    assert result["seconds"] == pytest.approx(0.26)
    assert result["born"] == [11, 12]


def test_a_cell_that_resists_is_insisted_on(scene: Scene) -> None:
    scene.effects.own = LIMIT + 1
    scene.pass_time(0.15)
    assert scene.page[Word.INSIST] == 0
    scene.pass_time(0.5)
    assert scene.page[Word.INSIST] == 1
    assert scene.acts[-1].insist
