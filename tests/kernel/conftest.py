"""Kernels shared by the tests of this folder; a dead or silent one is replaced."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from tests.support.adversary import KernelPool
from tests.support.cells import SETUPS
from tests.support.kernel import Kernel


@pytest.fixture(scope="module")
def pool() -> Iterator[KernelPool]:
    kernels = KernelPool(SETUPS)
    yield kernels
    kernels.close()
    gc.collect()


@pytest.fixture
def kernel(pool: KernelPool) -> Kernel:
    """The plain kernel with h2q loaded and nothing else, shared by the tests of one module."""
    return pool.get("plain")


@pytest.fixture
def fresh_kernel() -> Iterator[Kernel]:
    """A kernel of one's own."""
    with Kernel() as own:
        yield own
