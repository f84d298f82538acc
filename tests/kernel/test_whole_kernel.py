"""The kernel as a whole stays inside its ceiling, and its settings change while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.kernel import Kernel

GROW = (
    "import threading, time\nkept = []\ndef grow():\n    while True:\n"
    "        kept.append(bytearray(b'x') * (20 << 20))\n        time.sleep(0.1)\n"
    "thread = threading.Thread(target=grow)\nthread.start()"
)


def heard(kernel: Kernel, code: str, until: Callable[[str], bool], limit_s: float = 30) -> str:
    """What is shown under a cell, also after it has returned, until that is enough."""
    import queue

    msg_id = kernel.send(code)
    shown, deadline_s = "", time.monotonic() + limit_s
    while not until(shown) and time.monotonic() < deadline_s:
        try:
            message = kernel.client.get_iopub_msg(timeout=0.5)
        except queue.Empty:
            continue
        if message["parent_header"].get("msg_id") == msg_id:
            shown += message["content"].get("text", "")
    return shown


def test_a_thread_that_grows_after_its_cell_is_warned_about_and_stopped_and_the_kernel_lives(
    fresh_kernel: Kernel,
) -> None:
    kernel = fresh_kernel
    kernel.run("precious = 'still here'")
    kernel.run("%config H2Q.max_memory_mb = 600")
    shown = heard(kernel, GROW, lambda text: "was ended" in text)
    assert "of its ceiling 600 MiB (max_memory_mb)" in shown
    assert "a background thread of yours was ended" in shown
    assert shown.index("of its ceiling") < shown.index("was ended")
    assert kernel.value("[thread.is_alive(), precious]") == [False, "still here"]
    assert kernel.used_bytes() < 900 << 20
    kernel.run("kept.clear()")
    kinds = kernel.run("%h2q_status").shown
    assert "stop" in kinds
    assert "max_memory_mb  600" in kinds


def test_a_ceiling_holds_for_cells_that_name_no_budget(fresh_kernel: Kernel) -> None:
    kernel = fresh_kernel
    kernel.run("%config H2Q.max_memory_mb = 500")
    reply = kernel.run("eaten = [bytearray(b'x') * (1 << 20) for _ in range(1200)]", timeout=60)
    assert reply.status == "error"
    assert "over its budget of what max_memory_mb can spare" in reply.shown
    assert kernel.value("'eaten' in globals()") is False
    assert "more than" not in kernel.run("x = 1").shown
    kernel.run("%config H2Q.max_memory_mb = None")
    assert kernel.run("x = bytearray(b'x') * (600 << 20); del x").status == "ok"


def test_a_wrong_setting_is_one_sentence_and_the_old_one_stays(fresh_kernel: Kernel) -> None:
    kernel = fresh_kernel
    for line, says in (
        ("warn_at = 7", "warn_at: 7 is outside 0.1 to 1"),
        ("warn_at = 0.95", "warn_at: 0.95 is outside release_at to clean_at (0.7 to 0.9)"),
    ):
        shown = kernel.run(f"%config H2Q.{line}").shown
        assert says in shown
        assert "Traceback" not in shown
    shown = kernel.run("%h2q_status").shown
    assert "settings that are no defaults" not in shown
    assert "max_memory_mb" in kernel.run("%config H2Q").shown


def test_the_settings_file_is_followed_while_the_kernel_runs(tmp_path: Path) -> None:
    path = tmp_path / "h2q.toml"
    path.write_text("safety_buffer_mb = 256\n")
    path.chmod(0o600)
    with Kernel(load=False) as kernel:
        kernel.run(f"import os; os.environ['H2Q_CONFIG'] = {str(path)!r}")
        kernel.run("os.environ['H2Q_HISTORY_LENGTH'] = '5'")
        kernel.run("%load_ext h2q", timeout=60)
        shown = kernel.run("%h2q_status").shown
        assert "safety_buffer_mb  256" in shown.replace("256.0", "256")
        assert "environment" in shown

        def put(text: str) -> None:
            path.write_text(text)

        put("safety_buffer_mb = 128\nhistory_length = 9\n")
        shown = heard(kernel, "import time\nfor _ in range(40): time.sleep(0.1)",
                      lambda text: "settings were read" in text)  # fmt: skip
        assert "a running cell keeps what it began with" in shown
        shown = kernel.run("%h2q_status").shown
        assert "128" in shown
        assert "history_length" in shown
        put("safety_buffer_mb = -1\n")
        shown = heard(kernel, "import time\nfor _ in range(40): time.sleep(0.1)",
                      lambda text: "stay as they were" in text)  # fmt: skip
        assert "safety_buffer_mb: -1 is outside 0 to" in shown
        assert "128" in kernel.run("%h2q_status").shown


def test_a_wrong_file_or_variable_at_the_start_is_told_and_left_out(tmp_path: Path) -> None:
    path = tmp_path / "h2q.toml"
    path.write_text("warn_at = 9\n")
    path.chmod(0o600)
    with Kernel(load=False) as kernel:
        kernel.run(f"import os; os.environ['H2Q_CONFIG'] = {str(path)!r}")
        kernel.run("os.environ['H2Q_GAUGE_DELAY_S'] = 'soon'")
        shown = kernel.run("%load_ext h2q", timeout=60).shown
        assert "settings of the file are left out" in shown
        assert "warn_at: 9 is outside" in shown
        assert "H2Q_GAUGE_DELAY_S: 'soon' is outside 0 to 60" in shown
        assert "h2q is ready" in shown


def test_limits_for_models_and_for_cells_that_name_no_budget_hold(
    fresh_kernel: Kernel, tmp_path: Path
) -> None:
    pytest.importorskip("transformers")
    from tests.support.tiny_models import save_dense

    kernel = fresh_kernel
    where = save_dense(tmp_path / "m", 120)
    kernel.run("%config H2Q.model_memory_limit_mb = 64")
    reply = kernel.run(f"%h2q_load {where} --ladder full", timeout=90)
    assert reply.status == "error"
    assert "does not fit the budget of 64 MiB" in reply.shown
    kernel.run("%config H2Q.working_memory_mb = 64")
    reply = kernel.run("%%h2q_budget\nx = bytearray(b'x') * (200 << 20)", timeout=60)
    assert reply.status == "error"
    assert kernel.value("'x' in globals()") is False


def test_figures_are_exported_while_the_kernel_runs(fresh_kernel: Kernel, tmp_path: Path) -> None:
    kernel, path = fresh_kernel, tmp_path / "h2q.prom"
    kernel.run(f"%config H2Q.metrics_textfile = {str(path)!r}")
    kernel.run("%config H2Q.metrics_interval_s = 1")
    kernel.run("%%h2q_budget 100MB\nx = 1")
    deadline_s = time.monotonic() + 20
    while ',status="ok"} 1' not in (path.read_text() if path.exists() else ""):
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
    assert str(tmp_path) not in path.read_text()


@pytest.mark.parametrize("again", [1, 2])
def test_unloading_takes_the_guard_and_the_settings_away(fresh_kernel: Kernel, again: int) -> None:
    kernel = fresh_kernel
    for _ in range(again):
        kernel.run("%unload_ext h2q")
        threads = "[t.name for t in __import__('threading').enumerate() if 'h2q' in t.name]"
        assert kernel.value(threads) == []
        listed = "[type(c).__name__ for c in get_ipython().configurables]"
        assert "H2Q" not in kernel.value(listed)
        kernel.run("%load_ext h2q", timeout=60)
    assert kernel.value(listed).count("H2Q") == 1


def test_a_cell_is_stopped_where_others_took_the_memory_it_was_promised(
    fresh_kernel: Kernel,
) -> None:
    kernel = fresh_kernel
    kernel.run(
        "import time\nimport h2q_notebook.notebook.session as _s\n"
        "from h2q_notebook.readings.limits import Headroom\n"
        "_used = _s.current().guardian.used_bytes\n_full = _used() + (300 << 20)\n"
        "_s.read_headroom = lambda: Headroom(max(0, _full - _used()), 8 << 30, 'machine')"
    )
    reply = kernel.run(
        "%%h2q_budget 1GiB\ndata = []\nwhile True:\n"
        "    data.append(bytearray(b'x') * (1 << 20)); time.sleep(0.02)",
        timeout=60,
    )
    assert reply.ename == "MemoryBudgetExceeded"
    outcome = reply.outcome
    assert outcome is not None
    assert outcome["budget_bytes"] < 500 << 20
    assert "others took memory while it ran: of the 1.00 GiB it was granted" in reply.shown
    assert kernel.value("'data' in globals()") is False


def test_a_reclaimer_of_the_users_is_called_when_the_kernel_fills_up(fresh_kernel: Kernel) -> None:
    kernel = fresh_kernel
    kernel.run(
        "import h2q\ncache = {'a': bytearray(b'x') * (300 << 20)}\n"
        "forget = h2q.register_reclaimer(cache.clear, name='my cache')"
    )
    held = (
        int(
            kernel.value(
                "__import__('h2q_notebook.notebook.session').notebook.session"
                ".current().keeper.view().used_bytes"
            )
        )
        >> 20
    )
    kernel.run(f"%config H2Q.max_memory_mb = {held * 100 // 93}")
    deadline_s = time.monotonic() + 20
    while kernel.value("len(cache)"):
        assert time.monotonic() < deadline_s
        time.sleep(0.2)
    assert "my cache gave back 300 MiB" in kernel.run("%h2q_status").shown


def test_no_model_is_loaded_into_a_kernel_that_is_nearly_full(fresh_kernel: Kernel) -> None:
    kernel = fresh_kernel
    kernel.run("ballast = bytearray(b'x') * (300 << 20)")
    held = (
        int(
            kernel.value(
                "__import__('h2q_notebook.notebook.session').notebook.session"
                ".current().keeper.view().used_bytes"
            )
        )
        >> 20
    )
    kernel.run(f"%config H2Q.max_memory_mb = {held * 100 // 95}")
    reply = kernel.run("%h2q_load h2q://tiny-deepseek", timeout=90)
    assert reply.status == "error"
    assert "of its ceiling" in reply.shown
    assert "free memory first" in reply.shown


def test_a_cell_that_will_not_fit_is_warned_about_before_it_runs(fresh_kernel: Kernel) -> None:
    kernel = fresh_kernel
    cell = "ballast = bytearray(b'x') * (150 << 20)\ndel ballast"
    assert "will probably be stopped" not in kernel.run(f"%%h2q_budget 400MiB\n{cell}").shown
    again = kernel.run(f"%%h2q_budget 100MiB --on-overrun warn\n{cell}")
    assert "this cell took 150 MiB in the last run, and its budget is 100 MiB" in again.text
