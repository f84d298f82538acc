"""Generated code that means harm does nothing outside, and forges nothing; whoever runs it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest

from h2q_notebook.bench.fences import FENCES, FenceError, filter_program
from h2q_notebook.bench.sandbox import Limits, Sandbox, SandboxError
from tests.support.hostile import SNIPPETS, World, as_user, attack

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the fences are Linux's")
NOBODY = 65534
KERNEL_FENCES = tuple(one for one in FENCES if one != "audit-hook")


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


@pytest.mark.parametrize("fences", [FENCES, KERNEL_FENCES], ids=["all", "the system's alone"])
@pytest.mark.parametrize("name", SNIPPETS)
def test_a_hostile_answer_does_not_pass_and_harms_nothing(
    name: str, fences: tuple[str, ...], world: World
) -> None:
    verdict = attack(world, name, fences)
    assert not verdict.passed
    assert world.secret not in verdict.reason.split(", wanted ")[0]
    assert world.harm() == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("fences", [FENCES, KERNEL_FENCES], ids=["all", "the system's alone"])
def test_neither_does_it_where_an_ordinary_user_runs_the_bench(fences: tuple[str, ...]) -> None:
    told = as_user(NOBODY, fences)
    assert told["uid"] == NOBODY
    assert set(told["snippets"]) == set(SNIPPETS)
    wrong = {name: one for name, one in told["snippets"].items() if one["passed"] or one["harm"]}
    assert wrong == {}


def test_every_fence_is_told_held_or_why_not() -> None:
    with Sandbox() as box:
        assert set(box.fences) == set(FENCES)
        assert box.fences["rlimits"] == "held"
    with Sandbox(fences=("rlimits",)) as box:
        assert box.fences["landlock"] == "not asked for"


def test_without_its_fences_the_same_code_would_do_harm(world: World) -> None:
    # The world can be harmed, so that the tests above mean something.
    for name in ("write outside", "connect", "connect to a local socket", "kill the parent"):
        attack(world, name, ())
        assert world.harm() != [], name
        for one in (world.open_folder / "a",):
            one.unlink(missing_ok=True)
        world.signals.clear()


def test_a_sandbox_leaves_no_process_file_or_descriptor() -> None:
    before = set(os.listdir("/proc/self/fd"))
    with Sandbox(Limits(cpu_s=1.0, wall_s=2.0)) as box:
        folder = box._folder.name
        pid = box._process.pid
        with pytest.raises(SandboxError):
            box.run("while True: pass")
    assert set(os.listdir("/proc/self/fd")) == before
    assert not os.path.exists(folder)
    assert not os.path.exists(f"/proc/{pid}")


def test_an_unknown_processor_is_told_and_no_filter_is_guessed() -> None:
    for machine in ("x86_64", "aarch64"):
        assert len(filter_program(machine)) % 8 == 0
    with pytest.raises(FenceError, match="no table of system calls for riscv64"):
        filter_program("riscv64")
