from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch.overrides import (  # noqa: E402
    TorchFunctionMode,
    _get_current_function_mode_stack,
)

from h2q_notebook.guardian.torch_hook import TorchHook  # noqa: E402
from h2q_notebook.units import MIB  # noqa: E402

THRESHOLD = 1 * MIB


def _refusing() -> TorchHook:
    return TorchHook(lambda: 0, lambda _what, _asked, _left: True, THRESHOLD)


@pytest.fixture
def refuse_all() -> Iterator[TorchHook]:
    """A hook that refuses whatever it is asked about."""
    hook = _refusing()
    assert hook.arm(), hook.reason
    yield hook
    hook.disarm()


def _wide() -> Any:
    return torch.ones(2000)


def _square() -> Any:
    return torch.ones(500, 500)  # 1 MB, below 1 MiB


LARGE: dict[str, Callable[[Any, Any], Any]] = {
    "ones": lambda v, s: torch.ones(10**6),
    "zeros": lambda v, s: torch.zeros(1000, 1000),
    "full": lambda v, s: torch.full((10**6,), 1.0),
    "rand with a generator": lambda v, s: torch.rand(10**6, generator=torch.Generator()),
    "randint": lambda v, s: torch.randint(0, 9, (10**6,)),
    "eye": lambda v, s: torch.eye(1000),
    "arange": lambda v, s: torch.arange(0, 1, 1e-6),
    "linspace": lambda v, s: torch.linspace(0, 1, 10**6),
    "ones_like": lambda v, s: torch.ones_like(s, dtype=torch.float64),
    "new_ones": lambda v, s: s.new_ones(10**6),
    "matmul operator": lambda v, s: v[:, None] @ v[None],
    "mm": lambda v, s: torch.mm(v[:, None], v[None]),
    "bmm": lambda v, s: torch.bmm(v[None, :, None], v[None, None]),
    "outer": lambda v, s: torch.outer(v, v),
    "einsum": lambda v, s: torch.einsum("i,j->ij", v, v),
    "linear": lambda v, s: torch.nn.functional.linear(v[:, None], v[:, None]),
    "broadcast add": lambda v, s: v[:, None] + v,
    "number minus tensor": lambda v, s: 1 - s.expand(3, 500, 500),
    "comparison": lambda v, s: v[:, None] < v,
    "cat": lambda v, s: torch.cat([s, s]),
    "stack": lambda v, s: torch.stack([s, s]),
    "repeat": lambda v, s: s.repeat(2, 1),
    "tile": lambda v, s: torch.tile(s, (2, 1)),
    "repeat_interleave": lambda v, s: s.repeat_interleave(2, 0),
    "double": lambda v, s: s.double(),
    "to dtype": lambda v, s: s.to("cpu", torch.float64),
    "contiguous of an expanded view": lambda v, s: s.expand(2, 500, 500).contiguous(),
    "clone": lambda v, s: s.expand(2, -1, -1).clone(memory_format=torch.contiguous_format),
}

INNOCENT: dict[str, Callable[[Any, Any], Any]] = {
    "empty": lambda v, s: torch.empty(10**7),
    "new_empty": lambda v, s: s.new_empty(10**7),
    "empty_like": lambda v, s: torch.empty_like(s, dtype=torch.float64),
    "a view": lambda v, s: s.expand(100, 500, 500),
    "to the same dtype": lambda v, s: s.expand(100, 500, 500).to(torch.float32),
    "contiguous already": lambda v, s: torch.empty(10**7).contiguous(),
    "reshape as a view": lambda v, s: torch.empty(10**7).reshape(10, -1),
    "out=": lambda v, s: torch.add(v[:, None], v, out=torch.empty(2000, 2000)),
    "in place": lambda v, s: torch.empty(10**7).add_(1),
    "relu in place": lambda v, s: torch.nn.functional.relu(torch.empty(10**7), inplace=True),
    "another device": lambda v, s: torch.ones(10**10, device="meta"),
    "to another device": lambda v, s: s.expand(9, 500, 500).to("meta"),
    "tensor of another device": lambda v, s: torch.empty(10**7, device="meta") + 1,
    "small": lambda v, s: s + s,
}


@pytest.mark.parametrize("name", LARGE)
def test_a_large_call_is_refused(name: str, refuse_all: TorchHook) -> None:
    with pytest.raises(MemoryError, match=r"asked for .* of this cell's memory budget are left"):
        LARGE[name](_wide(), _square())


@pytest.mark.parametrize("name", INNOCENT)
def test_a_call_that_adds_no_touched_memory_is_never_refused(
    name: str, refuse_all: TorchHook
) -> None:
    INNOCENT[name](_wide(), _square())


@pytest.mark.parametrize("name", LARGE)
def test_the_size_asked_for_is_the_size_of_the_result(name: str) -> None:
    asked: list[int] = []

    def note(_what: str, asked_bytes: int, _left: int) -> bool:
        asked.append(asked_bytes)
        return False

    hook = TorchHook(lambda: 0, note, THRESHOLD)
    hook.arm()
    try:
        result = LARGE[name](_wide(), _square())
    finally:
        hook.disarm()
    assert asked[-1] == result.untyped_storage().nbytes()


def test_what_fits_even_at_most_is_not_sized_exactly() -> None:
    hook = TorchHook(lambda: 1 << 40, lambda *_: pytest.fail("asked"), THRESHOLD)
    hook.arm()
    try:
        assert (torch.ones(600, 600) @ torch.ones(600, 600)).sum() == 600**3
    finally:
        hook.disarm()


def _exercise() -> list[Any]:
    """Forward, backward, optimiser, transforms, loader, random numbers; what came out."""
    torch.manual_seed(7)
    model = torch.nn.Sequential(
        torch.nn.Linear(300, 700), torch.nn.GELU(), torch.nn.Dropout(), torch.nn.Linear(700, 600)
    )
    optimiser = torch.optim.Adam(model.parameters())
    data = torch.utils.data.TensorDataset(torch.randn(1000, 300), torch.randn(1000, 600))
    loader = torch.utils.data.DataLoader(data, batch_size=500, shuffle=True)
    for inputs, wanted in loader:
        optimiser.zero_grad()
        torch.nn.functional.mse_loss(model(inputs), wanted).backward()
        optimiser.step()
    weight = torch.randn(400, 400, requires_grad=True)
    ((weight @ weight).exp().clamp(max=5) * torch.rand(3, 400, 400)).sum().backward()
    attention = torch.nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    return [
        *[p.detach() for p in model.parameters()],
        weight.grad,
        attention(torch.randn(8, 64, 32)).detach(),
        torch.func.vmap(lambda row: torch.outer(row, row))(torch.randn(9, 300)),
        torch.func.grad(lambda x: (x @ x.T).sum())(torch.randn(600, 600)),
        torch.cat([torch.ones(600, 600), torch.rand(600, 600)]),
        torch.arange(10**6).sort(descending=True).values,
        torch.randperm(10**6),
        torch.get_rng_state(),
    ]


def test_results_gradients_and_random_numbers_are_bit_equal_with_the_hook_on() -> None:
    asked: list[str] = []

    def note(what: str, _asked: int, _left: int) -> bool:
        asked.append(what)
        return False

    bare = _exercise()
    hook = TorchHook(lambda: 0, note, THRESHOLD)
    assert hook.arm(), hook.reason
    try:
        guarded = _exercise()
    finally:
        hook.disarm()
    assert asked  # the large calls really were looked at
    for without, with_hook in zip(bare, guarded, strict=True):
        assert torch.equal(without, with_hook)


def test_the_gradient_graph_is_the_same_with_the_hook_on(refuse_all: TorchHook) -> None:
    weight = torch.nn.Parameter(torch.ones(100, 100))
    result = weight @ weight + 1
    assert type(result.grad_fn).__name__ == "AddBackward0"
    assert result.is_leaf is False


def test_tensor_subclasses_are_left_alone(refuse_all: TorchHook) -> None:
    class Mine(torch.Tensor):
        pass

    assert isinstance(torch.ones(500, 500).as_subclass(Mine).double(), Mine)


def test_tracing_is_left_alone(refuse_all: TorchHook) -> None:
    def double(x: Any) -> Any:
        return torch.add(x, x)

    symbolic = torch.fx.symbolic_trace(double)
    assert [n.op for n in symbolic.graph.nodes] == ["placeholder", "call_function", "output"]


class _Other(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def test_modes_the_cell_pushed_stay_in_their_order() -> None:
    hook = _refusing()
    first, second = _Other(), _Other()
    first.__enter__()
    try:
        hook.arm()
        second.__enter__()
        hook.disarm()
        assert _get_current_function_mode_stack() == [first, second]
        second.__exit__(None, None, None)
    finally:
        first.__exit__(None, None, None)
    assert _get_current_function_mode_stack() == []


def test_a_mode_from_an_earlier_cell_can_be_left_in_a_guarded_one() -> None:
    hook = _refusing()
    earlier = _Other()
    earlier.__enter__()
    hook.arm()
    earlier.__exit__(None, None, None)
    with pytest.raises(MemoryError):
        torch.ones(10**6)
    hook.disarm()
    assert _get_current_function_mode_stack() == []


@pytest.mark.parametrize("before", [True, False])
def test_a_default_device_set_or_reset_in_the_cell_survives(before: bool) -> None:
    hook = _refusing()
    if before:
        torch.set_default_device("meta")
    hook.arm()
    try:
        torch.set_default_device("meta")
        assert torch.ones(10**9).device.type == "meta"
        hook.disarm()
        assert torch.ones(2).device.type == "meta"
        hook.arm()
    finally:
        torch.set_default_device(None)
        hook.disarm()
    assert torch.ones(2).device.type == "cpu"
    assert _get_current_function_mode_stack() == []


def test_a_compiled_function_gives_the_same_and_switches_the_hook_off() -> None:
    code = """
import torch
from h2q_notebook.guardian.torch_hook import TorchHook
hook = TorchHook(lambda: 0, lambda what, asked, left: True, 1 << 20)
assert hook.arm()
frames = []
def backend(graph, inputs):
    frames.append([n.op for n in graph.graph.nodes])
    return graph.forward
compiled = torch.compile(lambda x: (x + x).sum(), backend=backend)
assert compiled(torch.full((10,), 2.0)) == 40
assert frames == [["placeholder", *["call_method"] * 2, "output"]], frames  # one whole graph
hook.disarm()
assert compiled(torch.full((10,), 2.0)) == 40
assert not hook.arm() and "compile" in hook.reason
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=120)
