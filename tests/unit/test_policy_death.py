"""Why a kernel died is said as far as the evidence goes, and no further."""

from __future__ import annotations

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h2q_notebook.policy.death import CAUSES, DeathEvidence, explain
from h2q_notebook.units import GIB, MIB


def test_killed_for_memory_is_said_where_the_systems_counter_rose() -> None:
    found = explain(
        DeathEvidence(
            -9, kills=1, limit_bytes=8 * GIB, peak_bytes=int(7.9 * GIB), limit_source="cgroup limit"
        )
    )
    assert found.cause == "out_of_memory"
    assert found.text == "killed by the system for memory at 7.90 of 8.00 GiB (cgroup limit)"


@pytest.mark.parametrize("kills", [0, None])
def test_without_a_counter_that_rose_the_cause_is_unknown(kills: int | None) -> None:
    found = explain(DeathEvidence(-9, kills=kills, limit_bytes=GIB, peak_bytes=GIB))
    assert found.cause == "signal"
    assert found.text.startswith("exited with -9, cause unknown")


@given(
    code=st.none() | st.integers(-64, 255),
    kills=st.none() | st.just(0),
    peak=st.none() | st.integers(0, 1 << 50),
    held=st.none() | st.integers(0, 1 << 50),
)
def test_no_exit_code_alone_is_ever_called_out_of_memory(
    code: int | None, kills: int | None, peak: int | None, held: int | None
) -> None:
    found = explain(DeathEvidence(code, kills, 1 << 30, peak, "machine", held))
    assert found.cause in CAUSES
    assert found.cause != "out_of_memory"
    assert "killed by the system" not in found.text


def test_an_abort_at_the_limit_of_the_address_space_is_told_as_that() -> None:
    full = DeathEvidence(
        -signal.SIGABRT, address_used_bytes=1900 * MIB, address_limit_bytes=2000 * MIB
    )
    found = explain(full)
    assert found.cause == "address_space"
    assert "1.86 of 1.95 GiB of its address space" in found.text
    far = DeathEvidence(-signal.SIGABRT, address_used_bytes=MIB, address_limit_bytes=2000 * MIB)
    assert explain(far).cause == "crash"


@pytest.mark.parametrize(
    ("code", "cause", "word"),
    [
        (-signal.SIGSEGV, "crash", "SIGSEGV"),
        (-signal.SIGTERM, "signal", "SIGTERM"),
        (-40, "signal", "40"),
        (0, "exit", "exit code 0"),
        (137, "exit", "137"),
        (None, "unknown", "cause unknown"),
    ],
)
def test_other_ends_are_named(code: int | None, cause: str, word: str) -> None:
    found = explain(DeathEvidence(code))
    assert found.cause == cause
    assert word in found.text


def test_what_the_kernel_held_at_the_last_look_is_told_with_its_age() -> None:
    found = explain(DeathEvidence(-11, held_bytes=3 * GIB, held_before_s=0.8))
    assert found.text.endswith("; it held 3.00 GiB at the last look, 800 ms before")
