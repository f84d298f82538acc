from __future__ import annotations

from typing import Any

import pytest

from h2q_notebook.cell.sizes import largest

np = pytest.importorskip("numpy")
MIB = 1 << 20


def sizes(names: dict[str, Any], **options: Any) -> dict[str, int]:
    options = {"top": 50, "time_limit_s": 60.0, **options}
    return {held.name: held.n_bytes for held in largest(names, **options)}


def near(n_bytes: int) -> Any:
    return pytest.approx(n_bytes, rel=0.25)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"x" * 3 * MIB, 3 * MIB),
        (bytearray(3 * MIB), 3 * MIB),
        ("é" * 3 * MIB, 3 * MIB),
        (np.zeros(MIB), 8 * MIB),
        ([float(n) for n in range(200_000)], 200_000 * 32),
        ({n: [n] for n in range(1000, 51_000)}, 50_000 * (64 + 28) + 50_000 * 50),
        ([[1.5 * n + at for n in range(1000)] for at in range(100)], 100_000 * 32),
        (np.array([float(n) for n in range(200_000)], dtype=object), 200_000 * 32),
    ],
    ids=["bytes", "bytearray", "str", "array", "list", "dict", "nested", "object array"],
)
def test_sizes_are_near_the_truth(value: object, expected: int) -> None:
    assert sizes({"x": value}) == {"x": near(expected)}


def test_shared_memory_is_counted_once() -> None:
    array = np.zeros(MIB)
    names = {"array": array, "view": array[::2], "same": array, "listed": [array, array[:5]]}
    assert sizes(names) == {"array": 8 * MIB}
    assert sizes({"view": array[::2], "array": array}) == {"view": 8 * MIB}


def test_a_tensor_and_its_array_are_counted_once() -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.zeros(MIB)
    names = {"tensor": tensor, "half": tensor[: MIB // 2], "array": tensor.numpy()}
    names["model"] = torch.nn.Linear(1024, 1024)
    assert sizes(names) == {"tensor": 4 * MIB, "model": near(4 * MIB)}
    assert sizes({"meta": torch.zeros(MIB, device="meta")}) == {}


def test_frames_and_tables() -> None:
    pd = pytest.importorskip("pandas")
    names = {"frame": pd.DataFrame({"a": range(500_000), "b": 0.5})}
    names["series"] = pd.Series(np.arange(300_000))
    assert sizes(names) == {"frame": near(8_000_000), "series": near(2_400_000)}
    pl = pytest.importorskip("polars")
    pa = pytest.importorskip("pyarrow")
    tables = {"pl": pl.DataFrame({"a": range(500_000)}), "pa": pa.table({"a": range(500_000)})}
    assert sizes(tables) == {"pl": near(4_000_000), "pa": near(4_000_000)}


def test_the_users_code_is_never_run() -> None:
    class Hostile:
        def _refuse(self, *_: object) -> Any:
            raise AssertionError("the user's code was run")

        __len__ = __sizeof__ = __iter__ = __eq__ = __hash__ = __getattr__ = _refuse  # type: ignore
        __repr__ = __bool__ = _refuse  # type: ignore
        __class__ = nbytes = property(_refuse)  # type: ignore[assignment]

        def __init__(self) -> None:
            object.__getattribute__(self, "__dict__")["big"] = bytearray(2 * MIB)

    class Listed(list):  # type: ignore[type-arg]
        __len__ = __iter__ = __getitem__ = Hostile._refuse  # type: ignore[assignment]

    assert sizes({"x": Hostile(), "y": Listed()}) == {"x": near(2 * MIB)}


def test_cycles_and_deep_nesting_end() -> None:
    loop: list[Any] = [bytearray(2 * MIB)]
    loop.append(loop)
    deep: list[Any] = []
    for _ in range(10_000):
        deep = [deep]
    assert sizes({"loop": loop, "deep": deep}) == {"loop": near(2 * MIB)}


def test_only_what_is_asked_for_largest_first() -> None:
    names = {f"n{at}": bytearray((at + 1) * MIB) for at in range(8)} | {"_9": bytearray(50 * MIB)}
    assert [held.name for held in largest(names, top=3, time_limit_s=60)] == ["n7", "n6", "n5"]
    assert sizes(names, born={"n1", "n2"}).keys() == {"n1", "n2"}
    assert sizes(names, min_bytes=8 * MIB).keys() == {"n7"}
    (held,) = largest(names, top=1, time_limit_s=60)
    assert held.type_name == "bytearray"


def test_the_clock_ends_the_search() -> None:
    ticks = iter(range(10**6))
    names = {f"n{at}": bytearray(2 * MIB) for at in range(100)}
    found = largest(names, top=100, time_limit_s=10, clock=lambda: next(ticks))
    assert 0 < len(found) < 20
