from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import Any

import pytest

from h2q_notebook.cell.contents import Contents

np = pytest.importorskip("numpy")
MIB = 1 << 20


def watch(value: object, mode: Any = "names", limit: int = 64 * MIB, **options: Any) -> Contents:
    return Contents({"x": value}, mode=mode, deep_limit_bytes=limit, time_limit_s=60, **options)


CHANGES: list[tuple[str, Callable[[], Any], Callable[[Any], object]]] = [
    ("append to an empty list", list, lambda x: x.append(1)),
    ("append", lambda: [1, 2, 3], lambda x: x.append(1)),
    ("append to a long list", lambda: list(range(5000)), lambda x: x.append(1)),
    ("replace an element", lambda: [1, 2, 3], lambda x: x.__setitem__(1, "b")),
    ("reverse a long list", lambda: list(range(5000)), lambda x: x.reverse()),
    ("append one level down", lambda: {"loss": [1]}, lambda x: x["loss"].append(2)),
    ("new key", dict, lambda x: x.update(a=1)),
    ("rebound key", lambda: {"a": 1}, lambda x: x.update(a=2)),
    ("defaultdict", lambda: defaultdict(list), lambda x: x["k"]),
    ("Counter", lambda: Counter("aab"), lambda x: x.update("c")),
    ("OrderedDict", lambda: OrderedDict(a=1), lambda x: x.update(b=1)),
    ("set", lambda: {1, 2}, lambda x: x.add(3)),
    ("deque", lambda: deque([1, 2]), lambda x: x.appendleft(3)),
    ("bytearray", lambda: bytearray(10), lambda x: x.__setitem__(3, 7)),
    ("large bytearray", lambda: bytearray(MIB), lambda x: x.__setitem__(slice(None), b"x" * MIB)),
    ("small array, one element", lambda: np.zeros(100), lambda x: x.__setitem__(50, 1)),
    ("large array", lambda: np.zeros(10**6), lambda x: x.__iadd__(1)),
    ("two dimensions, Fortran order", lambda: np.zeros((900, 900), order="F"), lambda x: x.fill(1)),
    ("view with holes", lambda: np.zeros((1000, 100))[::3, ::2], lambda x: x.fill(2)),
    ("object array", lambda: np.array([None, "a"], dtype=object), lambda x: x.fill(3)),
    ("dates", lambda: np.zeros(9, dtype="M8[s]"), lambda x: x.fill(5)),
    ("structured", lambda: np.zeros(9, dtype="i4,f8"), lambda x: x["f0"].fill(5)),
]


@pytest.mark.parametrize(("make", "change"), [c[1:] for c in CHANGES], ids=[c[0] for c in CHANGES])
def test_in_place_changes_are_noticed_and_undone_by_copies(make: Any, change: Any) -> None:
    value, twin = make(), make()
    plain, deep = watch(value), watch(value, "deep")
    assert plain.changed() == ()
    change(value)
    assert plain.changed() == ("x",)
    ns: dict[str, object] = {"x": value}
    done = deep.restore(ns)
    if isinstance(value, dict) and "loss" in value:  # copies are shallow, and say what they did
        return
    assert done.restored == ("x",)
    assert ns["x"] is value
    same = np.array_equal(value, twin) if isinstance(value, np.ndarray) else value == twin
    assert same


@pytest.mark.parametrize("make", [c[1] for c in CHANGES], ids=[c[0] for c in CHANGES])
def test_untouched_contents_are_not_reported(make: Any) -> None:
    value = make()
    contents = watch(value, "deep")
    assert contents.changed() == ()
    assert contents.restore({"x": value}).restored == ()


@pytest.mark.parametrize(
    ("value", "grow"),
    [
        ([], lambda x: x.extend(range(10**5))),
        (list(range(3000)), lambda x: x.extend(range(10**5))),
        ({"a": 1}, lambda x: x.update({n: n for n in range(1000)})),
        (defaultdict(list, a=[1]), lambda x: [x[n] for n in range(1000)]),
        (deque([1]), lambda x: x.extend(range(1000))),
        (bytearray(b"ab" * MIB), lambda x: x.extend(b"c" * MIB)),
        (set(), lambda x: x.update(range(100))),
    ],
    ids=["empty list", "list", "dict", "defaultdict", "deque", "bytearray", "empty set"],
)
def test_pure_growth_is_cut_back_without_a_copy(value: Any, grow: Any) -> None:
    old = value.copy()
    contents = watch(value)
    grow(value)
    done = contents.restore({"x": value})
    assert done.restored == ("x",)
    assert done.not_undone == ()
    assert value == old


def test_a_change_that_is_not_growth_is_told_with_its_sizes() -> None:
    rows = [1, 2, 3]
    contents = watch(rows)
    rows[0] = 9
    rows.append(4)
    done = contents.restore({"x": rows})
    assert done.restored == ()
    assert done.not_undone == ("x (list: 3 items → 4 items)",)


def test_every_name_of_a_shared_object_is_told() -> None:
    shared = {1}
    contents = Contents({"a": shared, "b": shared}, mode="names")
    shared.add(2)
    assert contents.changed() == ("a", "b")


def test_an_array_that_cannot_be_refilled_gives_its_name_to_the_copy() -> None:
    array = np.arange(10)
    contents = watch(array, "deep")
    array.resize(20, refcheck=False)
    ns: dict[str, Any] = {"x": array}
    done = contents.restore(ns)
    assert done.restored == ("x",)
    assert ns["x"] is not array
    assert ns["x"].tolist() == list(range(10))
    assert "copy of its old content" in done.notes[0]


def test_copies_stay_within_their_limit_smallest_first() -> None:
    names = {"small": np.zeros(1000), "large": np.zeros(10**6)}
    contents = Contents(names, mode="deep", deep_limit_bytes=100_000)
    assert contents.copied_bytes == 8000
    assert contents.uncopied == ("large",)
    names["small"] += 1
    names["large"] += 1
    done = contents.restore(dict(names))
    assert done.restored == ("small",)
    assert done.not_undone == ("large (ndarray: changed in place)",)


def test_what_time_does_not_allow_is_counted_not_claimed() -> None:
    ticks = iter(range(10**6))
    names = {f"n{at}": [at] * at for at in range(300)}
    contents = Contents(names, mode="names", time_limit_s=10, clock=lambda: next(ticks))
    assert contents.skipped > 0
    largest = names["n299"]
    largest.append(1)
    assert contents.changed() == ("n299",)  # the largest go first


def test_reading_maps_of_files_is_avoided(tmp_path: Any) -> None:
    mapped = np.memmap(tmp_path / "big", dtype="u1", mode="w+", shape=(1000,))
    contents = watch(np.asarray(mapped))
    mapped[:] = 1
    assert contents.changed() == ()


def test_frames_are_watched_and_restored_for_every_alias() -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"a": range(1000), "b": ["x"] * 1000, "c": [0.5] * 1000})
    frame["d"] = pd.date_range("2020", periods=1000)
    frame["e"] = pd.Categorical(["u", "v"] * 500)
    old, alias = frame.copy(deep=True), frame
    plain, deep = watch(frame), watch(frame, "deep")
    frame.sum(numeric_only=True), frame.to_numpy()
    assert plain.changed() == ()
    assert deep.restore({"x": frame}).restored == ()
    frame.loc[5, "c"] = 7.0
    frame["new"] = 1
    del frame["a"]
    assert plain.changed() == ("x",)
    assert deep.restore({"x": frame}).restored == ("x",)
    pd.testing.assert_frame_equal(alias, old)


@pytest.mark.parametrize("column", ["c", "b", "d", "e"])
def test_one_changed_column_is_noticed(column: str) -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"b": ["x", "y"] * 50, "c": 0.5})
    frame["d"] = pd.date_range("2020", periods=100)
    frame["e"] = pd.Categorical(["u", "v"] * 50)
    contents = watch(frame)
    frame.loc[5, column] = frame.loc[6, column] if column != "c" else 2.0
    assert contents.changed() == ("x",)


def test_tensors_and_modules_are_watched_by_their_versions() -> None:
    torch = pytest.importorskip("torch")
    tensor, layer = torch.zeros(1000), torch.nn.Linear(4, 4)
    frozen = torch.inference_mode()(torch.zeros)(5)
    names = {"t": tensor, "m": layer, "f": frozen}
    plain = Contents(names, mode="names", time_limit_s=60)
    deep = Contents(names, mode="deep", deep_limit_bytes=MIB)
    old = layer.weight.detach().clone()
    layer(torch.ones(1, 4))
    assert plain.changed() == ()
    tensor.add_(1)
    with torch.no_grad():
        layer.weight.mul_(3)
    assert set(plain.changed()) == {"t", "m"}
    assert set(deep.restore(dict(names)).restored) == {"t", "m"}
    assert tensor.sum() == 0
    assert torch.equal(layer.weight, old)


def test_off_watches_nothing() -> None:
    rows: list[int] = []
    contents = watch(rows, "off")
    rows.append(1)
    assert contents.changed() == ()
