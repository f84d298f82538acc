from __future__ import annotations

import weakref
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h2q_notebook.cell.snapshot import is_bookkeeping, take


class Plain:
    """Something a weak reference can point at."""


class Hostile:
    """Every way of looking at it but identity is an error."""

    def _refuse(self, *_: object) -> Any:
        raise AssertionError("the user's code was run")

    __eq__ = __ne__ = __repr__ = __str__ = __len__ = __bool__ = __iter__ = _refuse  # type: ignore
    __hash__ = __sizeof__ = __deepcopy__ = __copy__ = __getattr__ = __contains__ = _refuse  # type: ignore
    __class__ = property(_refuse)  # type: ignore[assignment]


def shell_names() -> dict[str, Any]:
    out: dict[int, object] = {}
    history = [""]
    return {"In": history, "_ih": history, "Out": out, "_oh": out, "_dh": [], "_": "", "__": ""}


def test_added_rebound_and_deleted_names_are_put_back() -> None:
    ns = shell_names() | {"old": 1, "gone": 2, "same": 3}
    before = take(ns)
    ns["new"], ns["old"] = "x", "changed"
    del ns["gone"]
    assert before.born(ns) == {"new", "old"}
    undone = before.restore(ns)
    assert (undone.added, undone.rebound, undone.deleted) == (("new",), ("old",), ("gone",))
    assert (ns["old"], ns["gone"], ns["same"]) == (1, 2, 3)
    assert "new" not in ns


VALUES = st.one_of(st.integers(), st.text(max_size=3), st.lists(st.integers(), max_size=3))
SPACES = st.dictionaries(st.text(min_size=1, max_size=3), VALUES, max_size=12)


@given(start=SPACES, end=SPACES, kept=st.sets(st.text(min_size=1, max_size=3)))
def test_any_namespace_comes_back_as_it_was(
    start: dict[str, Any], end: dict[str, Any], kept: set[str]
) -> None:
    ns = dict(start)
    before = take(ns)
    for name in [name for name in ns if name not in kept and not is_bookkeeping(name)]:
        del ns[name]
    ns.update({name: value for name, value in end.items() if not is_bookkeeping(name)})
    before.restore(ns)
    assert ns.keys() == start.keys()
    assert all(ns[name] is start[name] for name in start)
    assert before.restore(ns).count == 0


def test_history_names_are_left_alone() -> None:
    ns = shell_names()
    before = take(ns)
    ns.update(_i="a", _ii="b", _iii="c", _i12="d", _exit_code=1)
    ns["In"].append("cell")
    undone = before.restore(ns)
    assert undone.count == 0
    assert (ns["_i12"], ns["_exit_code"], ns["In"]) == ("d", 1, ["", "cell"])
    assert not is_bookkeeping("_index")


def test_displayed_results_leave_all_three_places() -> None:
    ns = shell_names()
    hidden: dict[str, Any] = {"_": "", "__": "", "get_ipython": 1}
    display: dict[str, Any] = {"_": "", "__": "", "___": "", "other": 5}
    before = take(ns, hidden=hidden, display=display)
    value = Plain()
    gone = weakref.ref(value)
    for space in (ns, hidden):
        space.update({"_": value, "_7": value})
    hidden["_i7"] = "input"
    ns["Out"][7] = display["_"] = value
    del value
    undone = before.restore(ns, hidden=hidden, display=display)
    assert undone.count == 0  # the output cache is not the user's names
    assert gone() is None
    assert hidden == {"_": "", "__": "", "get_ipython": 1, "_i7": "input"}
    assert display == {"_": "", "__": "", "___": "", "other": 5}
    assert ns["Out"] == {}
    assert "_7" not in ns


def test_nothing_of_the_cell_is_kept_alive_after_restore() -> None:
    ns: dict[str, Any] = {"x": 1, "rows": []}
    before = take(ns)
    made = [Plain(), Plain(), Plain()]
    ns["new"], ns["x"] = made[0], made[1]
    ns["rows"].append(made[2])
    gone = [weakref.ref(value) for value in made]
    del made
    before.restore(ns)
    assert [ref() for ref in gone] == [None, None, None]


def test_release_lets_old_objects_go() -> None:
    ns: dict[str, Any] = {"x": Plain()}
    gone = weakref.ref(ns["x"])
    before = take(ns)
    ns["x"] = None
    assert gone() is not None
    before.release()
    assert gone() is None


@pytest.mark.parametrize("mode", ["off", "names", "deep"])
def test_hostile_values_are_never_asked_anything(mode: Any) -> None:
    first, second = Hostile(), Hostile()
    ns: dict[str, Any] = {"a": first, "rows": [first], "table": {"k": first}}
    before = take(ns, contents=mode, deep_limit_bytes=1 << 20)
    ns["a"], ns["b"] = second, second
    ns["rows"].append(second)
    before.born(ns)
    before.restore(ns)
    assert ns["a"] is first
    assert "b" not in ns


def test_destructors_see_the_names_back() -> None:
    seen: list[object] = []
    ns: dict[str, Any] = {"x": "old"}
    before = take(ns)

    class Dying:
        def __del__(self) -> None:
            seen.append(ns["x"])

    ns["a"], ns["x"] = Dying(), "new"
    before.restore(ns)
    assert seen == ["old"]


def test_keys_that_are_not_names_are_left_alone() -> None:
    ns: dict[Any, Any] = {"x": 1}
    before = take(ns)
    ns[5] = "five"
    before.restore(ns)
    assert ns == {"x": 1, 5: "five"}


def test_what_was_filled_counts_as_born() -> None:
    ns: dict[str, Any] = {"rows": [], "still": []}
    before = take(ns)
    ns["rows"].append(1)
    assert before.born(ns) == {"rows"}
