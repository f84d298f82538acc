"""The extension of Jupyter's server: who may ask, what it answers, and why a kernel died."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.control_groups import limited_group
from tests.support.server import Server

parser = pytest.importorskip("prometheus_client.openmetrics.parser")
ADDRESSES = ("h2q/metrics", "h2q/kernels")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    one = Server(tmp_path_factory.mktemp("server"))
    yield one
    one.close()
    gc.collect()


@pytest.fixture
def guarded(server: Server) -> str:
    """A kernel with h2q in it, that the server has heard of."""
    kernel_id = server.start_kernel()
    server.run(kernel_id, "%load_ext h2q")
    until(lambda: row(server, kernel_id)["guarded"])
    return kernel_id


def row(server: Server, kernel_id: str) -> dict[str, Any]:
    (found,) = [one for one in server.kernels()["kernels"] if one["kernel_id"] == kernel_id]
    return dict(found)


def until(true: Callable[[], Any], timeout: float = 30) -> Any:
    deadline = time.monotonic() + timeout
    while not (found := true()):
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.1)
    return found


def pid_of(server: Server, kernel_id: str) -> int:
    return int(server.run(kernel_id, "import os; print(os.getpid())"))


def death(server: Server, kernel_id: str) -> dict[str, Any]:
    def mine() -> list[dict[str, Any]]:
        return [one for one in server.kernels()["deaths"] if one["kernel_id"] == kernel_id]

    found: dict[str, Any] = until(mine)[-1]
    return found


@pytest.mark.parametrize("path", ADDRESSES)
def test_only_who_has_the_token_is_answered(server: Server, path: str) -> None:
    assert server.status(path) == 200
    assert server.status(path, token=None) in (401, 403)
    assert server.status(path, token="wrong") in (401, 403)


@pytest.mark.parametrize("path", ADDRESSES)
def test_a_page_of_another_origin_is_refused(server: Server, path: str) -> None:
    # A page of a stranger can send the user's cookie, never the token.
    cookie = {"Cookie": session_cookie(server)}
    own = f"http://127.0.0.1:{server.port}"
    assert server.status(path, token=None, Origin=own, **cookie) == 200
    assert server.status(path, token=None, Origin="http://evil.example", **cookie) in (403, 404)


def session_cookie(server: Server) -> str:
    import urllib.request

    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *args: Any, **more: Any) -> None:
            return None

    opener = urllib.request.build_opener(Stay)
    address = f"http://127.0.0.1:{server.port}/login?token={server.token}"
    try:
        with opener.open(address, timeout=10) as answer:
            cookies = answer.headers.get_all("Set-Cookie")
    except urllib.error.HTTPError as error:
        cookies = error.headers.get_all("Set-Cookie")
        error.close()
    return "; ".join(one.split(";")[0] for one in cookies)


def test_a_parser_of_openmetrics_reads_every_kernels_figures(server: Server, guarded: str) -> None:
    text = server.get("h2q/metrics").decode()
    found = {
        sample.name: sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
        if sample.labels.get("kernel_id") == guarded
    }
    assert found["h2q_kernel_used_bytes"] > 20 << 20
    assert found["h2q_kernel_limit_bytes"] > found["h2q_kernel_used_bytes"]
    assert str(server.folder) not in text


def test_a_running_cells_budget_and_a_kernel_without_h2q_are_told_apart(
    server: Server, guarded: str
) -> None:
    bare = server.start_kernel()
    assert row(server, bare)["guarded"] is False
    until(lambda: (row(server, bare)["used_bytes"] or 0) > 10 << 20)  # it is starting
    cell = "%%h2q_budget 300MiB\nimport time\nfor _ in range(300):\n    time.sleep(0.01)"
    with server.running(guarded, cell):
        until(lambda: row(server, guarded)["budget_bytes"] == 300 << 20)
    until(lambda: row(server, guarded)["budget_bytes"] == 0)
    until(lambda: row(server, guarded)["cells"].get("ok", 0) == 1)


def test_a_kernel_killed_by_somebody_is_not_called_out_of_memory(
    server: Server, guarded: str
) -> None:
    os.kill(pid_of(server, guarded), signal.SIGKILL)
    found = death(server, guarded)
    assert found["cause"] == "signal"
    assert found["text"].startswith("exited with -9, cause unknown")
    # The kernel that comes after it tells its user.
    until(lambda: row(server, guarded)["used_bytes"])
    said = server.run(guarded, "%load_ext h2q")
    assert "this notebook's last kernel died" in said
    assert "exited with -9, cause unknown" in said
    assert "last kernel died" not in server.run(guarded, "%reload_ext h2q")


def test_a_kernel_that_the_system_killed_for_memory_is_told_with_its_limit(
    server: Server, guarded: str
) -> None:
    with limited_group(400 << 20) as group:
        group.take(pid_of(server, guarded))
        time.sleep(2.5)  # the server looks once a second: it has to see the group before the end
        server.run(guarded, "hoard = b'x' * (1 << 30)", timeout=6)
        found = death(server, guarded)
    assert found["cause"] == "out_of_memory"
    assert "killed by the system for memory at 400 of 400 MiB (cgroup limit)" in found["text"]


def test_a_kernel_that_aborts_at_the_limit_of_its_address_space_is_told_as_that(
    server: Server, guarded: str
) -> None:
    server.run(guarded, "import polars as pl; s = pl.Series(range(3_000_000))")
    server.run(
        guarded,
        "import resource\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * 4096\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20),) * 2)",
    )
    time.sleep(2.5)
    server.run(guarded, "t = pl.concat([s] * 400).sort()", timeout=6)
    found = death(server, guarded)
    assert found["cause"] == "address_space", found["text"]
    assert "RLIMIT_AS" in found["text"]


def test_a_kernel_that_is_asked_to_end_or_restart_has_not_died(
    server: Server, guarded: str
) -> None:
    server.get(f"api/kernels/{guarded}/restart", "POST", {})
    time.sleep(2.5)
    server.get(f"api/kernels/{guarded}", "DELETE")
    time.sleep(2.5)
    assert [one for one in server.kernels()["deaths"] if one["kernel_id"] == guarded] == []
    left = Path(server.runtime / "h2q")
    assert not list(left.glob(f"*{guarded}*"))


def test_deaths_are_counted_for_collectors(server: Server) -> None:
    counted = {
        sample.labels["cause"]: sample.value
        for family in parser.text_string_to_metric_families(server.get("h2q/metrics").decode())
        for sample in family.samples
        if sample.name == "h2q_kernel_deaths_total"
    }
    told = [one["cause"] for one in server.kernels()["deaths"]]
    assert sum(counted.values()) == len(told)
    assert "h2q: kernel" in server.log.read_text() or not told
