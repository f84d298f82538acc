"""The compiled gate in this process: what it refuses, what it lets pass, and that it goes again."""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.util
import json
import mmap
import os
import shutil
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from h2q_notebook.guardian import extension_loading
from h2q_notebook.guardian.gate import Gate, compiled
from h2q_notebook.guardian.gate_rules import DOORS, RULES, Kind, Level, library_name
from h2q_notebook.guardian.page import SharedPage, Word
from h2q_notebook.units import MIB

_gate = compiled()
pytestmark = pytest.mark.skipif(_gate is None, reason="the gate is not built here")


class Armed:
    """A gate with so much room; what is asked for behind it."""

    def __init__(self) -> None:
        self.page = SharedPage()
        self.gate = Gate(_gate)
        assert self.gate.begin(), self.gate.reason
        self.gate.watch(self.page)

    def room(self, mib: int, level: Level = Level.SAFE) -> None:
        self.page[Word.LIMIT] = _gate.used() + mib * MIB
        self.page[Word.REFUSED] = 0
        self.gate.arm(level)

    def close(self) -> None:
        self.gate.close()
        self.page.close()


@pytest.fixture
def armed() -> Iterator[Armed]:
    one = Armed()
    yield one
    one.close()


@pytest.mark.parametrize(
    "request_code",
    [
        "b'x' * (100 << 20)",
        "'x'.join(['y' * 1000] * 100_000)",
        "[None] * 13_000_000",
        "1 << (8 * (100 << 20))",
        "bytearray(b'x') * (100 << 20)",
        "list(range(13_000_000))",
        "repr([0.5] * 1_000_000) * 20",
        "b''.join([b'x' * 1000] * 100_000)",
        "set(range(4_000_000))",
        "('x' * (60 << 20)).encode('utf-16')",
        "b'%s' % (b'x' * (90 << 20))",
    ],
)
def test_a_large_request_of_pythons_own_is_refused_before_it_grows(
    armed: Armed, request_code: str
) -> None:
    armed.room(50)
    with pytest.raises(MemoryError):
        eval(request_code)
    used = _gate.used()
    armed.gate.pause()
    assert used < armed.page[Word.LIMIT] + 16 * MIB
    assert armed.page[Word.REFUSED] >= 1
    assert armed.gate.refusals()[-1].what == "Python"
    assert len(eval("b'x' * (100 << 20)")) == 100 * MIB, "paused, it is granted"


def test_a_c_loop_over_small_objects_gets_its_memory_error_too(armed: Armed) -> None:
    text = json.dumps([[i] for i in range(1_500_000)])
    armed.room(40)
    with pytest.raises(MemoryError):
        json.loads(text)
    highest = _gate.used()
    armed.gate.pause()
    assert highest < armed.page[Word.LIMIT] + 16 * MIB
    assert len(json.loads(text)) == 1_500_000


def test_what_is_lazy_passes(armed: Armed) -> None:
    armed.room(20)
    assert len(bytes(1 << 30)) == 1 << 30
    assert armed.gate.refusals() == ()


def test_private_maps_of_files_and_anonymous_ones_pass(armed: Armed, tmp_path: Any) -> None:
    (tmp_path / "file").write_bytes(b"x" * (40 * MIB))
    armed.room(20)
    with (tmp_path / "file").open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        assert mapped[-1] == ord("x")
        mapped.close()
    mmap.mmap(-1, 1 << 30).close()
    assert armed.gate.refusals() == ()


def test_what_was_granted_and_is_not_yet_touched_counts(armed: Armed) -> None:
    np = pytest.importorskip("numpy")
    assert armed.gate.open("numpy")
    armed.room(100)
    first = np.empty(70 * MIB, dtype=np.uint8)
    with pytest.raises(MemoryError, match="Unable to allocate"):
        np.empty(70 * MIB, dtype=np.uint8)
    assert _gate.promised() > 60 * MIB
    first[:] = 1
    assert _gate.promised() < MIB
    del first
    assert np.ones(70 * MIB, dtype=np.uint8).sum() == 70 * MIB, "what was given back is free again"


def test_numpy_is_refused_in_every_thread_and_its_zeros_and_resizes_are_not(armed: Armed) -> None:
    np = pytest.importorskip("numpy")
    assert armed.gate.open("numpy")
    said: list[str] = []

    def other_thread() -> None:
        try:
            np.ones(100 * MIB, dtype=np.uint8)
        except MemoryError as error:
            said.append(str(error))

    armed.room(30)
    thread = threading.Thread(target=other_thread)
    thread.start()
    thread.join()
    assert "Unable to allocate 100. MiB" in said[0]
    assert np.zeros(500 * MIB, dtype=np.uint8)[-1] == 0
    grown = np.ones(10, dtype=np.uint8)
    grown.resize(60 * MIB, refcheck=False)
    (refusal,) = armed.gate.refusals()
    assert (refusal.what, refusal.asked_bytes) == ("numpy", 100 * MIB)


def test_torchs_own_allocator_is_refused(armed: Armed) -> None:
    torch = pytest.importorskip("torch")
    assert armed.gate.open("torch")
    armed.room(40)
    with pytest.raises(RuntimeError, match="allocate memory: you tried to allocate 419430400"):
        torch.ones(100 * MIB)
    armed.gate.pause()
    assert armed.gate.refusals()[-1].what == "torch"
    assert torch.ones(20 * MIB).sum() == 20 * MIB


def test_raising_the_limit_in_the_page_is_enough_and_childrens_use_counts(armed: Armed) -> None:
    armed.room(20)
    with pytest.raises(MemoryError):
        b"x" * (50 * MIB)
    armed.page[Word.LIMIT] += 60 * MIB
    assert len(b"x" * (50 * MIB)) == 50 * MIB
    armed.page[Word.EXTRA] = 60 * MIB
    with pytest.raises(MemoryError):
        b"x" * (50 * MIB)


def test_a_c_extension_that_is_being_initialised_is_refused_nothing(armed: Armed) -> None:
    """numpy's own initialisation ended in a SIGSEGV when one arena was refused to it."""
    loader = importlib.machinery.ExtensionFileLoader
    path = importlib.util.find_spec("_testbuffer") or importlib.util.find_spec("_zoneinfo")
    assert path is not None
    spec = importlib.util.spec_from_file_location(path.name, path.origin)
    assert spec is not None
    seen: list[bool] = []
    armed.room(10)
    original = extension_loading._originals["exec_module"]
    module = importlib.util.module_from_spec(spec)

    def initialise(self: Any, given: Any) -> None:
        seen.append(len(b"x" * (50 * MIB)) == 50 * MIB)
        original(self, given)

    with pytest.MonkeyPatch.context() as patch:
        passing = extension_loading.letting_pass(_gate, initialise, lambda: None)
        patch.setattr(loader, "exec_module", passing)
        assert spec.loader is not None
        spec.loader.exec_module(module)
    assert seen == [True]
    with pytest.raises(MemoryError):
        b"x" * (50 * MIB)


def test_the_loader_of_extensions_is_as_it_was_once_the_gate_is_closed() -> None:
    before = importlib.machinery.ExtensionFileLoader.exec_module
    one = Armed()
    assert importlib.machinery.ExtensionFileLoader.exec_module is not before
    one.close()
    assert importlib.machinery.ExtensionFileLoader.exec_module is before


def test_a_forked_child_is_free(armed: Armed) -> None:
    armed.room(20)
    pid = os.fork()
    if pid == 0:
        try:
            b"x" * (80 * MIB)
            os._exit(0)
        except MemoryError:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    with pytest.raises(MemoryError):
        b"x" * (80 * MIB)


def test_many_threads_refusals_and_forks_beside_each_other_come_to_an_end(armed: Armed) -> None:
    np = pytest.importorskip("numpy")
    armed.gate.open("numpy")
    armed.room(30)
    counted = [0] * 4

    def ask(at: int) -> None:
        for _ in range(300):
            try:
                np.ones(40 * MIB, dtype=np.uint8)
            except MemoryError:
                counted[at] += 1

    threads = [threading.Thread(target=ask, args=(at,)) for at in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        armed.room(30)
    for thread in threads:
        thread.join()
    assert sum(counted) == 1200


def test_closing_puts_everything_back_and_it_can_begin_again() -> None:
    one = Armed()
    one.room(10)
    one.close()
    assert len(b"x" * (50 * MIB)) == 50 * MIB
    assert one.gate.refusals() == ()
    again = SharedPage()
    assert one.gate.begin()
    one.gate.watch(again)
    again[Word.LIMIT] = _gate.used() + 10 * MIB
    one.gate.arm()
    with pytest.raises(MemoryError):
        b"x" * (50 * MIB)
    one.gate.close()
    again.close()


def test_every_entry_of_every_library_is_put_back_when_it_is_closed() -> None:
    pytest.importorskip("numpy")
    assert _gate.hooked() == 0
    one = Armed()
    try:
        one.gate.open("numpy")
        doors = _gate.hooked()
        one.room(100, Level.WIDE)
        recorded = _gate.hooked()
    finally:
        one.close()
    assert 0 < doors < recorded, "the wide gate sees what other libraries ask for, too"
    assert _gate.hooked() == 0


def test_a_trial_that_fails_leaves_it_off_and_says_why() -> None:
    class Deaf:
        """It grants everything."""

        def __getattr__(self, name: str) -> Any:
            return lambda *given: 0

    gate = Gate(Deaf())
    assert not gate.begin()
    assert "its trial failed (granted True, refused False" in gate.reason
    gate.arm()
    assert not gate.open("numpy")
    gate.close()
    assert extension_loading._originals == {}


def test_without_a_compiler_it_says_so() -> None:
    gate = Gate(None)
    assert not gate.begin()
    assert gate.reason.startswith("not built")
    assert gate.refusals() == ()


def test_before_it_begins_nothing_is_changed_in_the_process() -> None:
    loader = importlib.machinery.ExtensionFileLoader.exec_module
    gate = Gate(_gate)
    assert gate.reason == "not started"
    assert importlib.machinery.ExtensionFileLoader.exec_module is loader
    assert _gate.objects() == []


def test_a_second_guardian_in_the_process_leaves_the_firsts_gate_alone(armed: Armed) -> None:
    armed.room(20)
    second = Gate(_gate)
    assert not second.begin()
    assert second.reason == "another guardian of this process has it"
    second.close()
    with pytest.raises(MemoryError):
        b"x" * (50 * MIB)
    armed.gate.close()
    assert second.begin(), "it is free again"
    second.close()
    assert armed.gate.begin()


BEHIND = """
import tracemalloc
from h2q_notebook.guardian import _gate
from h2q_notebook.guardian.gate import Gate
from h2q_notebook.guardian.page import SharedPage, Word
if {tracing}:
    tracemalloc.start()
gate, page = Gate(_gate), SharedPage()
print(gate.begin(), gate.reason)
if gate.works:
    gate.watch(page)
    page[Word.LIMIT] = _gate.used() + (90 << 20)
    gate.arm()
    grown = bytearray()
    try:
        for _ in range(300):
            grown += b"x" * (1 << 20)
    except MemoryError:
        pass
    try:
        b"x" * (200 << 20)
    except MemoryError:
        print("refused")
    gate.pause()
    print(len(grown) <= 90 << 20)
    tracemalloc.stop()
    gate.close()
    print(len(b"x" * (200 << 20)) == 200 << 20)
"""


@pytest.mark.parametrize("environment", ["plain", "PYTHONMALLOC", "PYTHONDEVMODE", "tracing"])
def test_debug_allocators_and_tracemalloc_go_with_it(environment: str) -> None:
    """A debug allocator's block is not malloc's: its size must not be asked of malloc."""
    extra = {"PYTHONMALLOC": "debug", "PYTHONDEVMODE": "1"}.get(environment, "")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BEHIND.format(tracing=environment == "tracing")],
        env={**os.environ, **({environment: extra} if extra else {})},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    told = done.stdout.split()
    assert told[:2] == ["True", "refused"]
    # A realloc is not asked about where its block is not malloc's; the watcher sees it grow.
    assert told[2:] == [str(environment == "plain"), "True"]


HEAP = """
import ctypes
from h2q_notebook.guardian import _gate
from h2q_notebook.guardian.gate import Gate
from h2q_notebook.guardian.page import SharedPage, Word
libc = ctypes.CDLL(None)
M_MMAP_MAX = -4
if {in_heap}:
    libc.mallopt(M_MMAP_MAX, 0)  # every block lies in the heap
grown = bytearray(b"x") * (120 << 20)
behind = bytearray(b"y") * (1 << 20)  # so that it cannot grow where it is
gate, page = Gate(_gate), SharedPage()
assert gate.begin()
gate.watch(page)
page[Word.LIMIT] = _gate.used() + (60 << 20)
gate.arm()
try:
    grown += b"z" * (1 << 20)
    print("granted")
except MemoryError:
    print("refused", gate.refusals()[-1].asked_bytes > 120 << 20)
gate.pause()
print(_gate.used() <= page[Word.LIMIT])
"""


@pytest.mark.parametrize(
    ("in_heap", "told"), [(True, ["refused", "True", "True"]), (False, ["granted", "True"])]
)
def test_a_block_that_may_have_to_be_copied_to_grow_is_asked_about_as_a_whole(
    in_heap: bool, told: list[str]
) -> None:
    if "libasan" in os.environ.get("LD_PRELOAD", ""):
        told = ["refused", "True", "True"]  # its blocks are none that glibc could move by pages
    code = HEAP.format(in_heap=in_heap)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == told


def test_an_allocator_of_python_that_is_not_mallocs_keeps_it_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONMALLOC", "mimalloc")
    gate = Gate(_gate)
    assert not gate.begin()
    assert gate.reason == "not with PYTHONMALLOC=mimalloc"


def test_wrong_use_of_the_extension_is_an_exception() -> None:
    with mmap.mmap(-1, mmap.PAGESIZE) as page:
        with pytest.raises(IndexError):
            _gate.watch(page, 2, 4, 512)
        with pytest.raises(TypeError):
            _gate.watch("no page", 2, 4, 9)
        with pytest.raises(RuntimeError, match="page first"):
            _gate.arm()
        with pytest.raises(ValueError, match="no door for free"):
            _gate.open_door("libc10.so", "free")
        assert _gate.open_door("no such library", "malloc") == 0


# -- who asks -----------------------------------------------------------------------------------

ASKING = """
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdlib.h>
#include <string.h>

static PyObject *blind(PyObject *self, PyObject *args) {
    (void)self;
    Py_ssize_t n;
    if (!PyArg_ParseTuple(args, "n", &n)) return NULL;
    PyObject *made = PyBytes_FromStringAndSize(NULL, n);
    memset(PyBytes_AS_STRING(made), 'x', n); /* it does not look whether it got any */
    return made;
}

static PyObject *pile(PyObject *self, PyObject *args) {
    (void)self;
    Py_ssize_t n;
    if (!PyArg_ParseTuple(args, "n", &n)) return NULL;
    PyObject *list = PyList_New(0);
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *one = PyFloat_FromDouble(i + 0.5);
        Py_INCREF(one);
        PyList_Append(list, one);
        Py_DECREF(one);
        Py_DECREF(one);
    }
    return list;
}

static PyObject *own(PyObject *self, PyObject *args) {
    (void)self;
    Py_ssize_t n;
    if (!PyArg_ParseTuple(args, "n", &n)) return NULL;
    volatile char *block = malloc(n);
    for (Py_ssize_t i = 0; i < n; i += 4096) block[i] = 1;
    free((void *)block);
    Py_RETURN_NONE;
}

static PyObject *call(PyObject *self, PyObject *function) {
    (void)self;
    return PyObject_CallNoArgs(function);
}

static PyMethodDef methods[] = {{"blind", blind, METH_VARARGS, ""},
                                {"pile", pile, METH_VARARGS, ""},
                                {"call", call, METH_O, ""},
                                {"own", own, METH_VARARGS, ""},
                                {NULL, NULL, 0, NULL}};
static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "h2q_stranger", "", -1, methods, NULL, NULL, NULL, NULL};
PyMODINIT_FUNC PyInit_h2q_stranger(void) { return PyModule_Create(&definition); }
"""


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An extension that nobody knows, and that never looks at what it got."""
    compiler, headers = shutil.which("gcc"), Path(sysconfig.get_path("include"))
    if compiler is None or not (headers / "Python.h").exists():
        pytest.skip("no gcc, or no headers of this Python")
    folder = tmp_path_factory.mktemp("packages") / "site-packages" / "stranger"
    folder.mkdir(parents=True)
    (folder / "asking.c").write_text(ASKING)
    built = folder / f"h2q_stranger{sysconfig.get_config_var('EXT_SUFFIX')}"
    command = [compiler, "-O1", "-shared", "-fPIC", f"-I{headers}", str(folder / "asking.c")]
    subprocess.run([*command, "-o", str(built)], check=True)
    spec = importlib.util.spec_from_file_location("h2q_stranger", built)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_unknown_extension_is_refused_nothing_and_told_of(armed: Armed, stranger: Any) -> None:
    armed.room(20)
    assert len(stranger.blind(60 * MIB)) == 60 * MIB
    assert armed.gate.refusals() == ()
    (passed,) = armed.gate.passed()
    assert (passed.what, passed.count) == ("stranger", 1)
    assert passed.asked_bytes >= 60 * MIB
    assert 0 < passed.left_bytes <= 20 * MIB
    with pytest.raises(MemoryError):
        b"x" * (60 * MIB)


def test_an_unknown_extension_that_makes_many_small_objects_is_refused_no_arena(
    armed: Armed, stranger: Any
) -> None:
    armed.room(10)
    made = stranger.pile(2_000_000)
    assert armed.gate.refusals() == ()
    assert {one.what for one in armed.gate.passed()} == {"stranger"}
    del made


def test_what_an_unknown_extension_calls_passes_but_python_code_that_it_calls_back_does_not(
    armed: Armed, stranger: Any
) -> None:
    armed.room(20)
    with pytest.raises(MemoryError):
        max([1, 2], key=lambda _: len(b"x" * (60 * MIB)))
    with pytest.raises(MemoryError):
        stranger.call(lambda: len(b"x" * (60 * MIB)))
    assert armed.gate.passed() == ()
    assert len(stranger.call(functools.partial(b"x".__mul__, 60 * MIB))) == 60 * MIB
    assert [one.what for one in armed.gate.passed()] == ["stranger"]


def test_only_the_wide_gate_sees_what_an_unknown_library_asks_of_the_system(
    armed: Armed, stranger: Any
) -> None:
    armed.room(20)
    stranger.own(60 * MIB)
    assert armed.gate.passed() == ()
    armed.room(20, Level.WIDE)
    stranger.own(60 * MIB)
    (passed,) = armed.gate.passed()
    assert (passed.what, passed.count, passed.asked_bytes) == ("stranger", 1, 60 * MIB)
    armed.room(20)
    stranger.own(60 * MIB)
    assert armed.gate.passed() == (), "and the next cell is as before"


def test_a_library_that_is_imported_within_the_cell_is_seen_too(armed: Armed) -> None:
    armed.room(200, Level.WIDE)
    before = {path for path, *_ in _gate.objects()}
    import _xxtestfuzz  # an extension that nothing has imported

    del _xxtestfuzz
    new = {path for path, *_ in _gate.objects()} - before
    assert any("_xxtestfuzz" in path for path in new)


IMPORTED = """
import sys
from h2q_notebook.guardian import _gate
from h2q_notebook.guardian.gate import Gate
from h2q_notebook.guardian.page import SharedPage, Word
gate, page = Gate(_gate), SharedPage()
assert gate.begin()
gate.watch(page)
page[Word.LIMIT] = 1 << 50
gate.arm()
import numpy._core.multiarray
print([doors for path, _, _, doors in _gate.objects() if "_multiarray_umath" in path])
"""


def test_the_doors_of_a_library_are_open_as_soon_as_it_is_loaded() -> None:
    pytest.importorskip("numpy", minversion="2.0")
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED], capture_output=True, text=True, check=True
    )
    (doors,) = json.loads(done.stdout)
    assert doors > 0


def test_every_object_has_its_kind() -> None:
    np = pytest.importorskip("numpy")
    torch = pytest.importorskip("torch")
    del np, torch
    one = Armed()
    one.room(100)
    paths = {path: Kind(kind) for path, kind, *_ in _gate.objects()}
    kinds = {Path(path).name: kind for path, kind in paths.items()}
    one.close()
    found = {
        start: {kind for name, kind in kinds.items() if name.startswith(start)}
        for start in ("libc.so", "libstdc++", "_multiarray_umath", "libc10.so")
    }
    assert found["libc.so"] == found["libstdc++"] == {Kind.SYSTEM}
    assert found["_multiarray_umath"] == found["libc10.so"] == {Kind.LIBRARY}
    of_python = {kind for path, kind in paths.items() if "/lib-dynload/" in path}
    assert of_python <= {Kind.PYTHON}
    assert not [name for name, kind in kinds.items() if "_gate." in name and kind != Kind.PYTHON]


def test_no_rule_is_wider_than_its_name() -> None:
    texts = [rule.text for rule in RULES]
    assert len(texts) == len(set(texts))
    assert all(len(text) >= 5 for text in texts)
    assert {door.library for door in DOORS if door.level is Level.SAFE} == {"numpy", "torch"}


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/x/lib/python3.11/site-packages/_polars_runtime_32/_polars_runtime.abi3.so", "polars"),
        ("/usr/lib/python3/dist-packages/numpy/core/_multiarray_umath.so", "numpy"),
        ("/x/site-packages/scipy.libs/libopenblas.so", "scipy"),
        ("/opt/lib/libfoo.so.3", "libfoo"),
        ("", "code made at run time"),
    ],
)
def test_a_library_is_named_as_its_user_knows_it(path: str, name: str) -> None:
    assert library_name(path) == name
