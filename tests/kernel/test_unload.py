"""``%unload_ext`` puts back everything that ``%load_ext`` touched, five times over."""

from __future__ import annotations

from tests.support.kernel import Kernel

# Everything h2q may touch, as text that two moments can be compared by. psutil finds children.
STATE = """
import json, os, resource, signal, sys, threading
def h2q_state():
    shell = get_ipython()
    return {
        'events': {k: [repr(f) for f in v] for k, v in shell.events.callbacks.items()},
        'cleanup': [repr(f) for f in shell.input_transformers_cleanup],
        'post': [repr(f) for f in shell.input_transformers_post],
        'ast': [repr(f) for f in shell.ast_transformers],
        'SIGURG': repr(signal.getsignal(signal.SIGURG)),
        'SIGINT': repr(signal.getsignal(signal.SIGINT)),
        'exceptions': repr(shell.custom_exceptions),
        'handler': repr(getattr(shell.CustomTB, '__func__', shell.CustomTB)),
        'limits': [resource.getrlimit(getattr(resource, n)) for n in dir(resource)
                   if n.startswith('RLIMIT_')],
        'magics': sorted(n for kind in shell.magics_manager.magics.values() for n in kind
                         if 'h2q' in n),
        'threads': sorted(t.name for t in threading.enumerate()),
        'excepthook': repr(sys.excepthook),
        'showtraceback': repr(getattr(shell.showtraceback, '__func__', shell.showtraceback)),
        'meta_path': [repr(f) for f in sys.meta_path],
        'children': sorted(int(p) for t in os.listdir('/proc/self/task')
                           for p in open(f'/proc/self/task/{t}/children').read().split()),
        'descriptors': len(os.listdir('/proc/self/fd')),
        'names': sorted(n for n in shell.user_ns if not n.startswith('_')),
    }
"""
GROW = "held = []\nfor n in range(1300):\n    held.append(b'x' * 1_000_000)"
TWO_CELLS = ["%%h2q_budget 200MiB --no-gauge\nvalue = 1", f"%%h2q_budget 200MiB --no-gauge\n{GROW}"]


def test_unloading_restores_what_loading_touched_and_reloading_works() -> None:
    with Kernel(load=False, setup=STATE + "value = 0\nimport numpy, mmap") as kernel:
        bare = kernel.value("h2q_state()")
        for _ in range(5):
            loaded = kernel.run("%load_ext h2q", timeout=60)
            assert loaded.status == "ok", loaded.shown
            assert kernel.value("h2q_state()['SIGURG']") != bare["SIGURG"]
            good, over = (kernel.run(code) for code in TWO_CELLS)
            assert (good.status, over.ename) == ("ok", "MemoryBudgetExceeded")
            unloaded = kernel.run("%unload_ext h2q")
            assert unloaded.status == "ok", unloaded.shown
            after = kernel.value("h2q_state()")
            for field in bare:
                assert after[field] == bare[field], field
        assert kernel.run("%%h2q_budget 1MiB\n1").status == "error"


def test_loading_twice_is_harmless_and_says_one_line() -> None:
    with Kernel(load=False) as kernel:
        first = kernel.run("%load_ext h2q", timeout=60)
        assert len(first.shown.strip().splitlines()) == 1
        children = kernel.children()
        again = kernel.run("%load_ext h2q")
        reloaded = kernel.run("%reload_ext h2q")
        assert (again.status, reloaded.status) == ("ok", "ok")
        assert len(kernel.children()) == len(children)
        for code, ename in zip(TWO_CELLS, ("", "MemoryBudgetExceeded"), strict=True):
            reply = kernel.run(code)
            assert (reply.ename, len(reply.h2q)) == (ename, 1)
