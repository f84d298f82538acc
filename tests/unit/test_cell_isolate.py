"""The pure parts of ``--isolate``: what is sent, what has changed, how an ending is named."""

from __future__ import annotations

import signal
import threading
from typing import Any

import pytest

from h2q_notebook.cell.isolate_changes import VALUE, Sent, changes_of
from h2q_notebook.cell.isolate_facts import WorkerFacts, advice_for, ending_of, line_in
from h2q_notebook.cell.needs import copies_of, needed_names
from h2q_notebook.cell.outcome import CellOutcome, Isolation
from h2q_notebook.cell.pickling import digest_of, is_users, pack, unpack
from h2q_notebook.policy.strikes import Cause
from h2q_notebook.views import report, summary

MIB = 1 << 20


def notebook(source: str, **names: Any) -> dict[str, Any]:
    """The names after *source* has run in a namespace of its own, as in a notebook."""
    home: dict[str, Any] = {"__name__": "__main__", "__builtins__": __builtins__, **names}
    exec(source, home)
    return home


def crossed(home: dict[str, Any], names: list[str], other: dict[str, Any]) -> dict[str, Any]:
    """*names* of *home* as they arrive where *other* is the namespace."""
    packed = pack({name: home[name] for name in names}, home)
    buffers = [bytearray(one.raw()) for one in packed.buffers]
    return unpack(packed.blob, buffers, other)


# ---- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x", "_mine", "_x1", "i", "_helper", "__private", "_init"])
def test_names_of_the_user_cross(name: str) -> None:
    assert is_users(name)


@pytest.mark.parametrize(
    "name", ["_", "__", "___", "_3", "_i", "_ii", "_iii", "_i12", "_oh", "_dh", "_ih", "In", "Out",
             "__name__", "__builtins__", "get_ipython", "exit"],
)  # fmt: skip
def test_names_of_ipython_stay(name: str) -> None:
    assert not is_users(name)


def test_what_a_function_refers_to_goes_with_it_and_aliases_too() -> None:
    home = notebook(
        "def deep():\n    return hidden + 1\ndef outer():\n    return [deep() for _ in range(2)]\n"
        "hidden = 1\nunused = 2\nshared = [1]\nother = shared\nlate = {'f': deep}\n"
    )
    assert needed_names("outer(); shared", home) == ("outer", "shared")
    copies = copies_of(("outer", "shared"), home)
    assert set(copies.names) == {"outer", "deep", "hidden", "shared", "other"}
    # ``deep`` is inside a dict, and what it refers to is found only while that is pickled.
    assert set(copies_of(("late",), home).names) == {"late", "hidden"}


def test_what_cannot_be_pickled_is_named_and_keeps_no_function_back() -> None:
    home = notebook("def locked():\n    with lock:\n        return 1\n", lock=threading.Lock())
    copies = copies_of(("locked",), home)
    assert copies.names == ("locked",)
    assert copies.missing == (("lock", "lock"),)


# ---- pickles ------------------------------------------------------------------------------------


def test_a_function_sees_the_names_of_the_side_it_arrives_on() -> None:
    home = notebook("n = 1\ndef bump():\n    global n\n    n += 1\n    return n\n")
    other: dict[str, Any] = {"n": 10}
    bump = crossed(home, ["bump"], other)["bump"]
    assert bump.__globals__ is other
    assert bump() == 11
    assert (other["n"], home["n"]) == (11, 1)


def test_reading_changes_no_name_of_the_side_it_arrives_on() -> None:
    home = notebook("n = 1\nclass Box:\n    def get(self):\n        return n\nbox = Box()\n")
    other: dict[str, Any] = {"n": 10, "__builtins__": __builtins__}
    before = dict(other)
    assert crossed(home, ["box"], other)["box"].get() == 10
    assert other == before


def test_what_the_other_side_has_goes_as_a_reference() -> None:
    known = [1, 2]
    packed = pack({"x": {"in": known}, "y": known}, {}, {id(known): "known"})
    there = {"known": object()}
    values = unpack(packed.blob, [], {}, there)
    assert values["x"]["in"] is values["y"] is there["known"]


def test_arrays_come_as_views_of_their_buffers_and_can_be_written() -> None:
    numpy = pytest.importorskip("numpy")
    packed = pack({"a": numpy.arange(1000.0)}, {})
    assert len(packed.blob) < 500
    assert packed.n_bytes - len(packed.blob) == packed.buffer_bytes == 8000
    array = unpack(packed.blob, [bytearray(one.raw()) for one in packed.buffers], {})["a"]
    array[0] = 5
    assert array.sum() == 499_505


def test_a_digest_is_of_the_content() -> None:
    numpy = pytest.importorskip("numpy")
    array = numpy.zeros(1000)
    first = digest_of(array, {})
    assert digest_of(array, {}) == first
    array[999] = 1
    assert digest_of(array, {}) != first
    assert digest_of(array[::2], {}) != digest_of(array[1::2], {}), "not in one piece"


# ---- changes ------------------------------------------------------------------------------------


def changes(home: dict[str, Any], cell: str, values: list[Any] | None = None) -> Any:
    sent = Sent({name: value for name, value in home.items() if is_users(name)}, home)
    exec(cell, home)
    return changes_of(home, sent, values or [])


def test_new_rebound_changed_and_deleted_names_are_told_apart() -> None:
    home = notebook("same = [1]; grown = [2]; gone = 3; bound = 4; used = {1: [5]}")
    found = changes(home, "new = 6; grown.append(7); del gone; bound = 8; used[1][0]")
    assert set(found.names) == {"new", "grown", "bound"}
    assert found.deleted == ("gone",)
    assert found.left == {}


def test_an_unchanged_object_under_a_new_name_is_a_reference() -> None:
    home = notebook("kept = [1, 2, 3]")
    kept = home["kept"]
    found = changes(home, "more = kept; held = {'it': kept}; del kept")
    there = [9]
    values = unpack(found.packed.blob, [], {}, {"kept": there})
    assert values["more"] is values["held"]["it"] is there
    assert values["more"] is not kept


def test_modules_come_back_by_name_and_the_last_value_too() -> None:
    found = changes(notebook(""), "import json as j", values=[[1]])
    assert found.modules == {"j": "json"}
    assert found.names == (VALUE,)


def test_what_cannot_be_pickled_is_left_with_its_type() -> None:
    found = changes(notebook("import threading"), "lock = threading.Lock(); fine = 1")
    assert found.left == {"lock": "lock"}
    assert found.names == ("fine",)


def test_what_can_be_pickled_and_not_read_again_is_left_too() -> None:
    home = notebook("class Odd:\n    def __reduce__(self):\n        return int, ('no number',)\n")
    found = changes(home, "odd = Odd(); fine = 1")
    assert found.left == {"odd": "Odd"}
    assert found.names == ("fine",)


# ---- endings ------------------------------------------------------------------------------------

GOOD = {"ename": "", "evalue": "", "trace": [], "no_memory": False, "line": 0}
RUST = "memory allocation of 9000000000 bytes failed\nstack backtrace:"


@pytest.mark.parametrize(
    ("facts", "status", "name", "says"),
    [
        ({"ended": GOOD}, "ok", "", ""),
        ({"cause": Cause.MEMORY}, "overrun", "MemoryBudgetExceeded", "stopped at its budget 1 GiB"),
        ({"cause": Cause.TIMEOUT}, "timeout", "CellTimeExceeded", "--timeout is over"),
        ({"cause": Cause.REQUEST}, "stopped", "CellStopRequested", "stopped on request"),
        (
            {"cause": Cause.REQUEST, "interrupted": True},
            "error", "KeyboardInterrupt", "interrupted",
        ),
        ({"code": -11}, "error", "WorkerLost", "the worker was ended by SIGSEGV"),
        ({"code": -9}, "error", "WorkerLost", "most likely by the system, for want of memory"),
        ({"code": 3}, "error", "WorkerLost", "ended itself with exit code 3"),
        ({"code": 1, "begun": False}, "error", "WorkerLost", "before the cell began"),
        ({"code": -6}, "error", "WorkerLost", "the worker was ended by SIGABRT"),
        ({"code": -6, "said": RUST}, "refused", "MemoryBudgetExceeded", "was refused memory"),
        (
            {"ended": {**GOOD, "ename": "MemoryError", "evalue": "no", "no_memory": True}},
            "refused", "MemoryError", "no",
        ),
        ({"ended": {**GOOD, "ename": "KeyError", "evalue": "'k'"}}, "error", "KeyError", "'k'"),
        ({"ended": GOOD, "refused": "large", "no_room": True}, "refused", "WorkerLost", "large"),
        ({"ended": GOOD, "refused": "cannot be read"}, "error", "WorkerLost", "cannot be read"),
        ({"ended": GOOD, "code": -11}, "error", "WorkerLost", "SIGSEGV"),
    ],
)  # fmt: skip
def test_every_ending_has_its_name(
    facts: dict[str, Any], status: str, name: str, says: str
) -> None:
    ending = ending_of(WorkerFacts(limit="budget 1 GiB", **facts))
    assert (ending.status, ending.name) == (status, name)
    assert says in ending.text
    if name and name not in ("KeyError", "MemoryError"):
        assert ending.text.endswith("the kernel has not changed")


def test_the_line_is_read_from_the_stack_of_a_worker_that_is_gone() -> None:
    trace = (
        'Current thread 0x1 (most recent call first):\n  File "/lib/zip.py", line 9 in inner\n'
        '  File "<ipython-input-3-abc>", line 7 in helper\n'
        '  File "<ipython-input-3-abc>", line 12 in <module>\n'
    )
    facts = WorkerFacts(code=-signal.SIGSEGV, trace=trace)
    assert line_in(facts) == 7
    assert "(line 7)" in ending_of(facts).text


def test_the_advice_names_a_larger_budget() -> None:
    facts = WorkerFacts(cause=Cause.MEMORY)
    assert "%%h2q_budget 768MiB" in advice_for("overrun", facts, 410 * MIB, 400 * MIB)
    assert advice_for("ok", facts, 0, MIB) == ""
    assert "del" in advice_for("refused", WorkerFacts(no_room=True), 0, MIB)


# ---- what is shown ------------------------------------------------------------------------------


def outcome(status: Any, isolated: Isolation, **more: Any) -> CellOutcome:
    return CellOutcome(
        label="", status=status, on_overrun="rollback", budget_bytes=400 * MIB,
        budget_source="budget 400 MiB", baseline_bytes=0, peak_bytes=410 * MIB, retained_bytes=0,
        returned_bytes=0, duration_s=1.3, isolated=isolated, **more,
    )  # fmt: skip


def test_a_good_cell_says_in_one_line_what_came_back() -> None:
    good = outcome("ok", Isolation(back=("a", "b"), back_bytes=12 * MIB, deleted=("c",)))
    assert report.line(good) == (
        "h2q ✓ peak 410 MiB of 400 MiB (102 %) · back from the worker: a, b (12 MiB), deleted: c"
        " · 1.3 s"
    )
    assert "no name changed" in report.line(outcome("ok", Isolation()))
    many = Isolation(back=tuple(f"n{i}" for i in range(9)))
    assert "n4 and 4 more" in report.line(outcome("ok", many))


def test_what_was_left_stands_below_with_what_to_do() -> None:
    shown = summary.bundle(outcome("ok", Isolation(left=("c (<b>)",))), chart=False)
    assert "left  c (<b>): cannot be pickled" in shown["text/plain"]
    assert "<b>)" not in shown["text/html"].replace("</b>", "")


def test_an_overrun_tells_that_the_kernel_has_not_changed() -> None:
    text = report.story_text(outcome("overrun", Isolation()))
    assert text.startswith("h2q: stopped after 1.3 s: used 410 MiB, over its budget of 400 MiB")
    assert text.endswith("The kernel is alive and has not changed: the cell ran in a worker, "
                         "and that is gone.")  # fmt: skip
    assert "given back" not in text


def test_a_refusal_that_is_ours_is_told_as_one_sentence() -> None:
    error = "WorkerLost: what it made takes 2 GiB; the kernel has not changed"
    text = report.story_text(outcome("refused", Isolation(), error=error))
    assert text.startswith("h2q: what it made takes 2 GiB\n")


def test_names_that_could_not_be_sent_are_told_where_the_cell_failed() -> None:
    isolated = Isolation(missing=("lock (lock)",))
    failed = summary.bundle(outcome("error", isolated, error="NameError: x"), chart=False)
    assert "missing  lock (lock): could not be copied" in failed["text/plain"]
    assert "missing" not in summary.bundle(outcome("ok", isolated), chart=False)["text/plain"]
