"""What the compiled gate costs where it refuses nothing: an allocation, arming, real work.

    python -m benchmarks.gate_cost

Allocations are timed by a small extension of its own, whose ``malloc`` is behind a door as numpy's
is, in three states that take turns: without the gate, disarmed, armed. Real work (tokens of a
small model, a pandas groupby) runs in pairs, without the gate and armed, in alternating order; the
spread of pairs in which nothing changes ("none" against "none") says what noise is. Needs gcc and
Python's headers; an otherwise idle machine. Writes results/gate_cost.json; about four minutes.
"""

from __future__ import annotations

import importlib.util
import shutil
import statistics
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine, write_result
from h2q_notebook.guardian import _gate
from h2q_notebook.guardian.gate import Gate
from h2q_notebook.guardian.gate_rules import Level
from h2q_notebook.guardian.page import SharedPage, Word

_ROUNDS, _CALLS, _PAIRS = 61, 400_000, 30
_LOOPS = """
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdlib.h>
#include <time.h>
static long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return t.tv_sec * 1000000000L + t.tv_nsec;
}
#define LOOP(name, get, give)                                        \\
    static PyObject *name(PyObject *self, PyObject *args) {          \\
        (void)self;                                                  \\
        long n;                                                      \\
        Py_ssize_t size;                                             \\
        if (!PyArg_ParseTuple(args, "ln", &n, &size)) return NULL;   \\
        long began = now();                                          \\
        for (long i = 0; i < n; i++) {                               \\
            volatile char *block = get(size);                        \\
            block[0] = 1;                                            \\
            give((void *)block);                                     \\
        }                                                            \\
        return PyFloat_FromDouble((double)(now() - began) / n);      \\
    }
LOOP(libc, malloc, free)
LOOP(raw, PyMem_RawMalloc, PyMem_RawFree)
static PyMethodDef methods[] = {{"libc", libc, METH_VARARGS, ""},
                                {"raw", raw, METH_VARARGS, ""}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "h2q_loops", "", -1, methods, NULL, NULL, NULL, NULL};
PyMODINIT_FUNC PyInit_h2q_loops(void) { return PyModule_Create(&definition); }
"""


class States:
    """The gate in one of three states."""

    def __init__(self) -> None:
        self.gate, self.page = Gate(_gate), SharedPage()

    def set(self, state: str) -> None:
        """``none`` (every entry as it was), ``disarmed`` or ``armed``."""
        self.gate.pause()
        if state == "none":
            self.gate.close()
            return
        if not self.gate.works:
            assert self.gate.begin(), self.gate.reason
            self.gate.watch(self.page)
            self.gate.open("numpy")
            self.gate.open("torch")
            _gate.open_door("h2q_loops", "malloc")
        if state == "armed":
            self.page[Word.LIMIT] = 1 << 50
            self.gate.arm()


def build_loops(folder: Path) -> Any:
    """The extension with the loops."""
    compiler = shutil.which("gcc")
    if compiler is None:
        raise SystemExit("gate_cost: gcc is absent; install it and Python's headers")
    source, built = (
        folder / "loops.c",
        folder / f"h2q_loops{sysconfig.get_config_var('EXT_SUFFIX')}",
    )
    source.write_text(_LOOPS, encoding="utf-8")
    headers = f"-I{sysconfig.get_path('include')}"
    subprocess.run(
        [compiler, "-O2", "-shared", "-fPIC", headers, str(source), "-o", str(built)], check=True
    )
    spec = importlib.util.spec_from_file_location("h2q_loops", built)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def allocations(states: States, loops: Any) -> dict[str, dict[str, float]]:
    """Nanoseconds of processor time for one block got and given back; medians of the rounds."""
    import numpy as np
    import torch

    def timed(make: Callable[[], object], calls: int) -> float:
        began = time.thread_time_ns()
        for _ in range(calls):
            make()
        return (time.thread_time_ns() - began) / calls

    cases: dict[str, Callable[[], float]] = {
        "malloc, 64 bytes": lambda: loops.libc(_CALLS, 64),
        "malloc, 700 bytes": lambda: loops.libc(_CALLS, 700),
        "PyMem_RawMalloc, 700 bytes": lambda: loops.raw(_CALLS, 700),
        "bytearray(700)": lambda: timed(lambda: bytearray(700), _CALLS // 20),
        "np.empty(1000)": lambda: timed(lambda: np.empty(1000), _CALLS // 20),
        "torch.empty(1000)": lambda: timed(lambda: torch.empty(1000), _CALLS // 40),
        "np.empty(4_000_000), 32 MB": lambda: timed(lambda: np.empty(4_000_000), _CALLS // 1000),
    }
    found: dict[str, dict[str, list[float]]] = {name: {} for name in cases}
    order = ["none", "disarmed", "armed"]
    for _ in range(_ROUNDS):
        for state in order:
            states.set(state)
            for name, measure in cases.items():
                found[name].setdefault(state, []).append(measure())
        order.reverse()
    return {
        name: {state: round(statistics.median(times), 2) for state, times in one.items()}
        for name, one in found.items()
    }


def arming(states: States) -> dict[str, float]:
    """Microseconds; medians of single calls."""
    states.set("armed")
    page, gate = states.page, states.gate

    def each(action: Callable[[], object], before: Callable[[], object], n: int = 2000) -> float:
        times = []
        for _ in range(n):
            before()
            began = time.perf_counter_ns()
            action()
            times.append(time.perf_counter_ns() - began)
        return round(statistics.median(times) / 1000, 3)

    found = {
        "arm_us": each(gate.arm, gate.pause),
        "disarm_us": each(gate.pause, gate.arm),
        "arm_wide_us": each(lambda: gate.arm(Level.WIDE), gate.pause),
    }
    page[Word.LIMIT] = _gate.used()

    def refused() -> None:
        with suppress(MemoryError):
            b"x" * (64 << 20)

    found["refusal_us"] = each(refused, gate.arm, 200)
    states.set("none")
    began = time.perf_counter_ns()
    states.set("disarmed")
    found["begin_ms"] = round((time.perf_counter_ns() - began) / 1e6, 2)
    began = time.perf_counter_ns()
    gate.arm(Level.WIDE)
    found["first_wide_arm_ms"] = round((time.perf_counter_ns() - began) / 1e6, 2)
    began = time.perf_counter_ns()
    states.set("none")
    found["close_ms"] = round((time.perf_counter_ns() - began) / 1e6, 2)
    return found


def pairs(states: States, work: Callable[[], object], on: str) -> dict[str, Any]:
    """Percent of time more than without the gate: median and quartiles of the pairs."""
    changes = []
    work()
    for at in range(_PAIRS):
        took = {}
        for place, state in enumerate(("none", on) if at % 2 else (on, "none")):
            states.set(state)
            began = time.perf_counter()
            work()
            took[state if on != "none" else str(place)] = time.perf_counter() - began
        first, second = ("none", on) if on != "none" else ("0", "1")
        changes.append((took[second] / took[first] - 1) * 100)
    low, middle, high = statistics.quantiles(changes, n=4)
    return {"median": round(middle, 2), "quartiles": [round(low, 2), round(high, 2)]}


def real_work() -> dict[str, Callable[[], object]]:
    """A groupby of three million rows, and the answer of a small DeepSeek-V3."""
    import numpy as np
    import pandas as pd
    import torch
    import transformers

    import h2q_notebook

    torch.set_num_threads(1)
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"k": rng.integers(0, 100_000, 3_000_000), "v": 1.0, "w": 2.0})
    where = Path(h2q_notebook.__file__).parent / "models/tiny_deepseek"
    model = transformers.AutoModelForCausalLM.from_pretrained(where)
    prompt = torch.arange(5, 13).unsqueeze(0)
    options = {"max_new_tokens": 110, "min_new_tokens": 110, "do_sample": False}
    return {
        "pandas groupby, 3 million rows": lambda: frame.groupby("k").agg(["sum", "mean", "std"]),
        "110 tokens of h2q://tiny-deepseek": lambda: model.generate(prompt, **options),
    }


def main() -> None:
    states = States()
    with tempfile.TemporaryDirectory() as folder:
        result: dict[str, Any] = {
            "allocations_ns": allocations(states, build_loops(Path(folder))),
            "arming": arming(states),
        }
        print(result)
        result["work_percent"] = {}
        for name, work in real_work().items():
            row = {"armed": pairs(states, work, "armed"), "noise": pairs(states, work, "none")}
            result["work_percent"][name] = row
            print(name, row, flush=True)
    states.set("none")
    write_result("gate_cost", {"machine": describe_machine(), "pairs": _PAIRS, **result})


if __name__ == "__main__":
    main()
