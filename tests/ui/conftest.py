"""One server of each kind and one browser for this folder; skipped where there is none.

Not for the whole session: Playwright keeps an event loop running in the main thread for as long as
the browser lives, and then no test after these could run one of its own.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .lab import CHROMIUM, Lab, chromium


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    pytest.importorskip("playwright.sync_api")
    if not Path(CHROMIUM).exists():
        pytest.skip("no chromium on this machine")
    with chromium() as running:
        yield running


def _server(app: str, module: str, factory: pytest.TempPathFactory) -> Iterator[Lab]:
    for needed in (module, "anywidget"):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed")
    lab = Lab(factory.mktemp(app), app=app)
    try:
        yield lab
    finally:
        lab.close()


@pytest.fixture(scope="package")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    yield from _server("lab", "jupyterlab", tmp_path_factory)


@pytest.fixture(scope="package")
def notebook7(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    yield from _server("notebook", "notebook", tmp_path_factory)
