"""``--isolate``: a cell runs in a worker; what it made comes back, whole or not at all."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.kernel import Kernel, Reply

MIB = 1 << 20
SETUP = """
import numpy as np, pandas as pd, threading, h2q
data = np.arange(1000.0)
same = data
table = pd.DataFrame({"a": range(5), "s": list("abcde")})
inner = [1, 2]; box = {"inner": inner, "more": inner}
n = 1
def bump():
    global n
    n += 1
class Point:
    def __init__(self, x):
        self.x = x
    def shifted(self):
        return Point(self.x + n)
point = Point(1)
lock = threading.Lock()
"""
IDS = "{k: id(v) for k, v in list(globals().items()) if not k.startswith('_')}"


@pytest.fixture(scope="module")
def shared() -> Iterator[Kernel]:
    with Kernel(setup=SETUP) as kernel:
        yield kernel


@pytest.fixture
def notebook(shared: Kernel) -> Kernel:
    """The shared kernel, with its names as they were in the beginning."""
    shared.run("%h2q_budget off")
    shared.run(SETUP)
    return shared


def isolated(
    kernel: Kernel, cell: str, line: str = "400MiB", timeout: float = 90, **more: Any
) -> Reply:
    return kernel.run(f"%%h2q_budget {line} --no-gauge --isolate\n{cell}", timeout=timeout, **more)


def good(kernel: Kernel, cell: str, line: str = "400MiB", **more: Any) -> dict[str, Any]:
    reply = isolated(kernel, cell, line, **more)
    assert reply.status == "ok", reply.shown
    assert len(reply.h2q) == 1, "one outcome, and the cell itself is not guarded"
    outcome = reply.h2q[0]
    assert outcome["status"] == "ok"
    assert outcome["isolated"] is not None
    return {**outcome, "shown": reply.shown, "reply": reply}


def unchanged(kernel: Kernel, cell: str, line: str = "400MiB", **more: Any) -> dict[str, Any]:
    """Run a cell that must not change the kernel at all."""
    children = set(kernel.children())
    before, used = kernel.value(IDS), kernel.used_bytes()
    reply = isolated(kernel, cell, line, **more)
    assert reply.status == "error", reply.shown
    assert kernel.value(IDS) == before
    assert kernel.used_bytes() - used < 24 * MIB
    assert set(kernel.children()) <= children
    outcome = reply.outcome
    assert outcome is not None
    assert "has not changed" in reply.shown
    return {**outcome, "shown": reply.shown, "reply": reply}


# ---- what no guard in the process can bound -----------------------------------------------------

HOSTILE = {
    "polars": "import polars as pl\na = pl.DataFrame({'a': range(12_000)})\n"
    "n = 0; data[:] = 0\nb = a.join(a, how='cross')",
    "small steps": "n = 0\nrows = []\nwhile True:\n    rows.append(bytearray(1 << 20))",
    "zlib bomb": "import zlib\nparts = zlib.compressobj()\n"
    "bomb = b''.join(parts.compress(bytes(1 << 20)) for _ in range(1500)) + parts.flush()\n"
    "n = 0\nout = zlib.decompress(bomb)",
    "str * n": "n = 0\nx = 'ab' * (1 << 30)",
    "children": "import subprocess, sys\nn = 0\nsubprocess.run([sys.executable, '-c', "
    "'import time; x = [bytearray(1 << 20) for _ in range(700)]; time.sleep(60)'])",
    "stop signals ignored": "import signal\n"
    "for s in (signal.SIGINT, signal.SIGTERM, signal.SIGURG, signal.SIGUSR2):\n"
    "    signal.signal(s, signal.SIG_IGN)\n"
    "rows = []\nwhile True:\n    try:\n        while True: rows.append(bytearray(1 << 20))\n"
    "    except BaseException: pass",
}


@pytest.mark.parametrize("cell", HOSTILE.values(), ids=HOSTILE)
def test_over_its_budget_the_worker_goes_and_the_kernel_has_not_changed(
    notebook: Kernel, cell: str
) -> None:
    found = unchanged(notebook, cell, timeout=120)
    assert found["status"] in ("overrun", "refused")
    assert found["reply"].ename in ("MemoryBudgetExceeded", "MemoryError")
    assert found["peak_bytes"] < 550 * MIB
    assert notebook.value("[n, float(data[5]), data is same]") == [1, 5.0, True]


def test_the_report_says_where_it_was_stopped(notebook: Kernel) -> None:
    found = unchanged(notebook, HOSTILE["small steps"])
    assert found["status"] == "overrun"
    assert found["line"] == {"number": 5, "text": "    rows.append(bytearray(1 << 20))"}
    assert "over its budget of 400 MiB" in found["shown"]
    assert "MemoryBudgetExceeded: the cell was stopped at its budget 400 MiB" in found["shown"]
    assert found["reply"].traceback.count("\n") == 0


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ("import ctypes\nctypes.string_at(0)", "the worker was ended by SIGSEGV (line 3)"),
        ("import os\nos.abort()", "the worker was ended by SIGABRT (line 3)"),
        ("import os\nos._exit(3)", "the worker ended itself with exit code 3"),
        ("import os\nos._exit(0)", "the worker ended itself with exit code 0"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "was ended by SIGKILL"),
    ],
    ids=["segfault", "abort", "exit 3", "exit 0", "kill"],
)
def test_a_worker_that_dies_is_told_with_how(notebook: Kernel, cell: str, says: str) -> None:
    found = unchanged(notebook, f"print('before')\nn = 6\n{cell}")
    assert found["status"] == "error"
    assert found["reply"].ename == "WorkerLost"
    assert says.replace("(line 3)", "(line 5)") in found["shown"]
    assert "before" in found["reply"].text


def test_a_flood_of_output_waits_at_its_pipe_and_does_not_fill_the_kernel(
    notebook: Kernel,
) -> None:
    cell = "for i in range(600_000):\n    print('x' * 1000)"
    found = unchanged(notebook, cell, "400MiB --timeout 8s", sample=True)
    assert found["status"] == "timeout"
    assert found["reply"].peak_bytes < 250 * MIB
    assert "xxxx" in found["reply"].text


# ---- stops --------------------------------------------------------------------------------------


def after_begin(kernel: Kernel, cell: str, act: Any, line: str = "400MiB") -> Reply:
    """Run *cell*, which makes the file ``begun``, and call *act* once it has."""
    flag = kernel.home / "begun"
    flag.unlink(missing_ok=True)
    sent = kernel.send(f"%%h2q_budget {line} --isolate\nopen('begun', 'w').close()\n{cell}")
    deadline_s = time.monotonic() + 60
    while not flag.exists():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    act()
    return kernel.wait(sent, timeout=60)


def test_an_interrupt_ends_the_cell_as_it_would_in_the_kernel(notebook: Kernel) -> None:
    children = set(notebook.children())
    reply = after_begin(
        notebook,
        "import time; n = 7\ntry:\n    time.sleep(60)\nfinally:\n    print('closed')",
        notebook.interrupt,
    )
    assert (reply.status, reply.ename) == ("error", "KeyboardInterrupt")
    assert "time.sleep(60)" in reply.shown
    assert "worker_side" not in reply.shown
    assert "closed" in reply.text
    assert "the kernel has not changed" in reply.shown
    assert notebook.value("n") == 1
    assert set(notebook.children()) <= children


def test_a_cell_that_will_not_be_interrupted_is_ended(notebook: Kernel) -> None:
    cell = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass"
    reply = after_begin(notebook, cell, notebook.interrupt)
    assert reply.ename == "KeyboardInterrupt"
    assert notebook.value("n") == 1


def test_a_stop_ends_it(notebook: Kernel) -> None:
    stop = "import os, time\ndef stop():\n    while not os.path.exists('begun'): time.sleep(0.05)\n"
    (notebook.home / "begun").unlink(missing_ok=True)
    notebook.run(f"{stop}    time.sleep(0.3); h2q.stop()\nthreading.Thread(target=stop).start()")
    reply = after_begin(notebook, "n = 9\nimport time\ntime.sleep(60)", lambda: None)
    assert reply.ename == "CellStopRequested"
    assert reply.outcome is not None
    assert reply.outcome["status"] == "stopped"
    assert notebook.value("n") == 1


def test_it_ends_at_its_timeout(notebook: Kernel) -> None:
    found = unchanged(notebook, "n = 3\nimport time\ntime.sleep(60)", "400MiB --timeout 1s")
    assert found["status"] == "timeout"
    assert found["reply"].ename == "CellTimeExceeded"
    assert found["line"]["number"] == 4


def test_more_can_be_given_while_it_runs(notebook: Kernel) -> None:
    notebook.run(
        "import os, time\nos.path.exists('begun') and os.unlink('begun')\ndef more():\n"
        "    while not os.path.exists('begun'): time.sleep(0.05)\n"
        "    h2q.raise_budget('500MiB')\n    open('raised', 'w').close()\n"
        "threading.Thread(target=more).start()"
    )
    found = good(
        notebook,
        "import os, time\nopen('begun', 'w').close()\n"
        "while not os.path.exists('raised'): time.sleep(0.05)\n"
        "x = np.ones(50_000_000)\nx = x.size",
        "200MiB",
    )
    assert found["budget_bytes"] == 700 * MIB
    assert found["peak_bytes"] > 300 * MIB


def test_the_worker_and_what_it_started_end_with_the_kernel() -> None:
    with Kernel() as kernel:
        own = set(kernel.children())
        flag = kernel.home / "begun"
        kernel.send(
            "%%h2q_budget 400MiB --isolate\nimport subprocess\nsubprocess.Popen(['sleep', '99'])\n"
            "open('begun', 'w').close()\nsum(range(10**12))  # C code that holds the GIL"
        )
        deadline_s = time.monotonic() + 60
        while not flag.exists():
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        born = [pid for pid in kernel.children() if pid not in own]
        assert len(born) == 2
        os.kill(kernel.pid, 9)
        deadline_s = time.monotonic() + 20
        while any(_runs(pid) for pid in born):
            assert time.monotonic() < deadline_s
            time.sleep(0.1)


def test_a_daemon_that_the_cell_started_counts_and_ends_with_it(notebook: Kernel) -> None:
    daemon = notebook.home / "daemon"
    daemon.unlink(missing_ok=True)
    code = (
        "import os, time\nif os.fork(): os._exit(0)\nos.setsid()\n"
        "print(os.getpid(), file=open('daemon', 'w'), flush=True)\n"
        "x = [bytearray(1 << 20) for _ in range(700)]\ntime.sleep(90)"
    )
    found = unchanged(
        notebook,
        f"import subprocess, sys, time\nsubprocess.run([sys.executable, '-c', {code!r}])\n"
        "time.sleep(60)",
    )
    assert found["status"] == "overrun"
    deadline_s = time.monotonic() + 20
    while _runs(int(daemon.read_text())):
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# ---- what it shows ------------------------------------------------------------------------------


def test_output_displays_and_the_last_value_appear_as_in_any_cell(notebook: Kernel) -> None:
    found = good(
        notebook,
        "import sys\nfrom IPython.display import display, HTML\n"
        "print('one')\nprint('two', file=sys.stderr)\ndisplay(HTML('<b>three</b>'))\n"
        "print('four', end='')\n!echo five\nimport os\nos.system('echo six; echo seven >&2')\n"
        "handle = display(HTML('old'), display_id=True)\nhandle.update(HTML('new'))\ntable",
    )
    reply = found["reply"]
    assert reply.text.startswith("one\ntwo\nfourfive")
    assert "six" in reply.text
    assert "seven" in reply.text
    html = [each.get("text/html", "") for each in reply.display]
    assert html[:3] == ["<b>three</b>", "old", "new"]
    assert "<table" in html[3]
    assert notebook.value("Out[max(Out)] is _ and type(_).__name__") == "DataFrame"
    assert notebook.value("_ is table") is True, "an unchanged name stays what it is"


def test_an_expression_that_is_silenced_shows_nothing(notebook: Kernel) -> None:
    found = good(notebook, "41 + 1;")
    assert len(found["reply"].display) == 1


def test_await_and_magics_work_in_it(notebook: Kernel) -> None:
    good(notebook, "import asyncio\nawait asyncio.sleep(0)\nn = await asyncio.sleep(0, 5)")
    assert notebook.value("n") == 5
    found = good(notebook, "%%capture caught\nprint('held back')")
    assert "held back" not in found["reply"].text
    good(notebook, "%time bump()")
    assert notebook.value("n") == 6


def test_forked_children_print_too(notebook: Kernel) -> None:
    found = good(
        notebook,
        "import os, sys\npid = os.fork()\nif pid == 0:\n    print('from the child', flush=True)\n"
        "    os._exit(0)\nos.waitpid(pid, 0)\nprint('from the parent')",
    )
    assert "from the child" in found["reply"].text
    assert "from the parent" in found["reply"].text


def test_input_is_refused_with_a_sentence(notebook: Kernel) -> None:
    found = unchanged(notebook, "name = input('who? ')")
    assert "input() has nobody to ask in a cell with --isolate" in found["shown"]


# ---- what comes back ----------------------------------------------------------------------------


def test_values_functions_classes_frames_and_modules_come_back(notebook: Kernel) -> None:
    found = good(
        notebook,
        "import math\nlabel = 'x'; rows = [data, data]; counted = {'k': (1, 2)}\n"
        "frame = table.assign(b=table.a * 2)\n"
        "def area(r):\n    return math.pi * r * r + n\n"
        "class Circle(Point):\n    def area(self):\n        return area(self.x)\n"
        "circle = Circle(2)\nn = 10",
    )
    assert set(found["isolated"]["back"]) >= {"math", "label", "frame", "area", "Circle", "circle"}
    assert notebook.value("circle.area() == area(2) == math.pi * 4 + 10") is True
    assert notebook.value("isinstance(circle, Circle) and isinstance(circle, Point)") is True
    assert notebook.value("area.__globals__ is globals()") is True
    assert notebook.value("rows[0] is data and rows[1] is data and data is same") is True
    assert notebook.value("[frame.shape, list(frame.b), label, counted]") == [
        [5, 3], [0, 2, 4, 6, 8], "x", {"k": [1, 2]},
    ]  # fmt: skip
    assert "back from the worker: " in found["shown"]


def test_tensors_and_models_come_back(notebook: Kernel) -> None:
    pytest.importorskip("torch")
    good(notebook, "import torch\nlayer = torch.nn.Linear(3, 2)\nw = layer.weight", "800MiB")
    assert notebook.value("w is layer.weight and list(w.shape)") == [2, 3]
    found = good(notebook, "y = layer(torch.ones(3)).tolist()", "800MiB")
    assert found["isolated"]["back"] == ["y"], "nothing that was only used"
    good(notebook, "with torch.no_grad():\n    layer.weight[0, 0] = 9", "800MiB")
    assert notebook.value("float(layer.weight[0, 0])") == 9.0


def test_what_was_changed_in_place_comes_back_changed_under_all_its_names(
    notebook: Kernel,
) -> None:
    found = good(notebook, "data[0] = 7\ninner.append(3)\npoint.x = 5\ntable.shape")
    assert set(found["isolated"]["back"]) == {"data", "same", "inner", "point"}
    assert notebook.value("[float(data[0]), data is same, inner, point.x]") == [
        7.0, True, [1, 2, 3], 5,
    ]  # fmt: skip
    assert notebook.value("type(point) is Point") is True


def test_two_names_for_one_object_stay_one_object(notebook: Kernel) -> None:
    good(notebook, "box['inner'].append(9)\nfresh = [0]; also = fresh; held = {'it': fresh}")
    assert notebook.value("box['inner'] is box['more'] and box['inner'][-1]") == 9
    assert notebook.value("fresh is also is held['it']") is True
    good(notebook, "again = box; inner")
    assert notebook.value("again is box and box['inner'][-1]") == 9


def test_a_function_of_the_notebook_changes_the_notebooks_names(notebook: Kernel) -> None:
    good(notebook, "bump(); bump()\nmoved = point.shifted()")
    assert notebook.value("[n, moved.x]") == [3, 4]
    notebook.run("bump()")
    assert notebook.value("n") == 4


def test_deleted_names_are_deleted(notebook: Kernel) -> None:
    found = good(notebook, "del table, n")
    assert found["isolated"]["deleted"] == ["table", "n"]
    assert notebook.value("'table' in globals() or 'n' in globals()") is False
    assert "deleted: table, n" in found["shown"]


def test_what_cannot_be_pickled_is_listed_and_the_rest_comes_back(notebook: Kernel) -> None:
    found = good(
        notebook,
        "import sqlite3\ncon = sqlite3.connect(':memory:')\ngen = (i for i in range(3))\n"
        "one = con.execute('select 1').fetchone()",
    )
    assert set(found["isolated"]["left"]) == {"con (Connection)", "gen (generator)"}
    assert "con (Connection), gen (generator): cannot be pickled" in found["shown"]
    assert notebook.value("[one, 'con' in globals()]") == [[1], False]


def test_what_the_worker_cannot_read_is_told_and_nothing_runs(notebook: Kernel) -> None:
    notebook.run(
        "import os\ndef only_here(pid):\n    import os\n    if os.getpid() != pid:\n"
        "        raise ValueError('not there')\n"
        "class Homely:\n    def __reduce__(self):\n        return only_here, (os.getpid(),)\n"
        "homely = Homely()"
    )
    found = unchanged(notebook, "n = 3; homely; open('has_run', 'w').close()")
    assert "cannot be read in the worker: ValueError: not there" in found["shown"]
    assert not (notebook.home / "has_run").exists()


def test_classes_of_rust_libraries_cross(notebook: Kernel) -> None:
    pytest.importorskip("safetensors")
    good(notebook, "from safetensors import safe_open\nn = 4")
    found = good(notebook, "kind = safe_open; n = 5")
    assert found["isolated"]["left"] == []
    assert notebook.value("kind is safe_open and n") == 5


def test_what_cannot_be_sent_is_told_where_the_cell_misses_it(notebook: Kernel) -> None:
    found = unchanged(notebook, "with lock:\n    n = 4")
    assert "NameError" in found["reply"].ename
    assert "lock (lock): could not be copied to the worker" in found["shown"]


def test_an_error_changes_nothing_and_is_shown_as_any_other(notebook: Kernel) -> None:
    found = unchanged(notebook, "n = 99; data[0] = 99; new = 1\ndel table\n1 / 0")
    assert found["status"] == "error"
    assert found["reply"].ename == "ZeroDivisionError"
    assert "----> 4 1 / 0" in found["shown"]
    assert found["error"] == "ZeroDivisionError: division by zero"
    assert "nothing came back from the worker" in found["shown"]
    found = unchanged(notebook, "def broken(:\n    pass")
    assert found["reply"].ename == "SyntaxError"


def test_what_cannot_be_read_here_changes_nothing(notebook: Kernel) -> None:
    notebook.run("import os as kernels_os\nkernel_pid = kernels_os.getpid()")
    found = unchanged(
        notebook,
        "def read(pid):\n    import os\n    if os.getpid() == pid: raise ValueError('not here')\n"
        "class Odd:\n    def __reduce__(self):\n        return read, (kernel_pid,)\n"
        "odd = Odd(); n = 12",
    )
    assert "what it made cannot be read here: ValueError: not here" in found["shown"]
    assert notebook.value("n") == 1


def test_what_has_no_room_here_is_refused_before_it_is_read(notebook: Kernel) -> None:
    held = notebook.used_bytes() // MIB
    low = f"H2Q.max_memory_mb = {held + 120}"
    notebook.run(
        "import os, time\nos.path.exists('begun') and os.unlink('begun')\ndef lower():\n"
        "    while not os.path.exists('begun'): time.sleep(0.05)\n"
        f"    get_ipython().run_line_magic('config', {low!r})\n"
        "    open('lowered', 'w').close()\n"
        "threading.Thread(target=lower).start()"
    )
    try:
        found = unchanged(
            notebook,
            "import os, time\nopen('begun', 'w').close()\n"
            "while not os.path.exists('lowered'): time.sleep(0.05)\n"
            "x = np.ones(25_000_000); n = 8",
        )
    finally:
        notebook.run("%config H2Q.max_memory_mb = None")
    assert found["status"] == "refused"
    assert "what it made takes about 191 MiB to be brought back and" in found["shown"]
    assert "are free in the kernel" in found["shown"]


def test_what_has_no_room_as_a_pickle_is_refused_there_or_here(notebook: Kernel) -> None:
    held = notebook.used_bytes() // MIB
    notebook.run(f"%config H2Q.max_memory_mb = {held + 260}")
    try:
        # Bytes lie in the pickle itself: while it is made there are two of each.
        found = unchanged(notebook, "rows = [bytes(1 << 20) for _ in range(170)]; n = 8", "250MiB")
    finally:
        notebook.run("%config H2Q.max_memory_mb = None")
    assert found["status"] == "refused"
    assert "what it made" in found["shown"]


def test_what_is_only_mapped_there_may_not_become_more_than_the_budget_here(
    notebook: Kernel,
) -> None:
    found = unchanged(notebook, "z = np.zeros(100_000_000); z.shape", "400MiB")
    assert found["status"] == "refused"
    assert "takes 763 MiB once it is brought back, over its budget of 400 MiB" in found["shown"]
    good(notebook, "z = np.zeros(100_000_000)[:10].copy()", "400MiB")


def test_one_object_that_can_be_pickled_and_not_read_again_keeps_no_other_back(
    notebook: Kernel,
) -> None:
    found = good(
        notebook,
        "def broken():\n    raise ValueError('never again')\n"
        "class Handle:\n    def __reduce__(self):\n        return broken, ()\n"
        "handle = Handle(); n = 6",
    )
    assert found["isolated"]["left"] == ["handle (Handle)"]
    assert notebook.value("n") == 6


def test_where_there_is_no_room_for_copies_it_says_so(notebook: Kernel) -> None:
    notebook.run("large = np.ones(8_000_000)")
    held = notebook.used_bytes() // MIB
    notebook.run(f"%config H2Q.max_memory_mb = {held + 150}")
    try:
        reply = isolated(notebook, "y = large + 1", "100MiB")
    finally:
        notebook.run("%config H2Q.max_memory_mb = None\ndel large")
    assert reply.status == "error"
    assert "--isolate: it needs copies of 61 MiB (large 61 MiB)" in reply.shown
    assert "Traceback" not in reply.shown


# ---- as an outcome, and its options -------------------------------------------------------------


def test_it_is_an_outcome_like_any_other(notebook: Kernel) -> None:
    good(notebook, "x = np.ones(10_000_000)", "400MiB --name etl")
    notebook.run("last = h2q.last")
    told = notebook.value("[last.label, last.status, last.isolated.back, last is h2q.history[-1]]")
    assert told == ["etl", "ok", ["x"], True]
    assert notebook.value("last.peak_bytes // 2**20 in range(76, 100)") is True
    assert notebook.value("last.retained_bytes // 2**20 in range(60, 120)") is True
    quiet = isolated(notebook, "x = 1", "400MiB --quiet")
    assert quiet.h2q == []


def test_it_is_not_guarded_as_a_cell_though_every_cell_is(notebook: Kernel) -> None:
    notebook.run("%h2q_budget 100MiB")
    good(notebook, "x = np.ones(25_000_000); del x", "1GiB")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--probe", "--isolate: it cannot go with --probe"),
        ("--strict", "--isolate: it cannot go with --strict"),
        ("--gate on", "--isolate: it cannot go with --gate"),
        ("--gpu 1GiB", "--isolate: it cannot go with --gpu"),
        ("--rollback deep", "--isolate: it cannot go with --rollback deep"),
        ("--on-overrun keep", "--isolate: it cannot go with --on-overrun keep"),
        ("--on-overrun warn", "--isolate: it cannot go with --on-overrun warn"),
    ],
)
def test_options_that_make_no_sense_with_it_are_refused(
    notebook: Kernel, options: str, says: str
) -> None:
    reply = isolated(notebook, "n = 77", f"400MiB {options}")
    assert reply.status == "error"
    assert says in reply.shown
    assert "Traceback" not in reply.shown
    assert notebook.value("n") == 1


def test_it_is_for_one_cell_only(notebook: Kernel) -> None:
    reply = notebook.run("%h2q_budget 1GiB --isolate")
    assert "--isolate: it is for one cell" in reply.shown
