"""How long the live gauge takes from deciding to show itself to being on the page.

Runs a real JupyterLab and headless Chromium, shows one gauge after another while a pure-Python
cell keeps the kernel busy, and takes, for each, Date.now() at the first ``.main-svg`` minus
time.time() at the decision (one machine, one clock). The first is cold in the page, the rest warm;
the kernel side is warmed as ``%load_ext`` does. Prints and writes JSON.

    python -m benchmarks.gauge_paint [--runs 7] [--out benchmarks/results/gauge_paint.json]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.ui.lab import Lab, Notebook, chromium, opened

SETUP = """
import time
from h2q_notebook.views import gauge
from h2q_notebook.views.gauge import GaugeFrame, LiveGauge
gauge.warm().join()

def show(seconds=4.0):
    began = time.monotonic()
    def read():
        t = time.monotonic() - began
        return GaugeFrame(t, int(t * 2e7), 400 << 20, int(t * 2e7), 'calm', 'running', 20 - t)
    one = LiveGauge(read, label='paint', on_raise=lambda n: None, on_stop=lambda: None)
    one.start()
    while time.monotonic() - began < seconds:
        sum(range(1000))
    one.finish({'text/plain': 'done'})
    print(one.shown_at * 1000)
"""
# The moment of the first plotly drawing after it was armed.
ARM = """() => {
  window.painted = null;
  const seen = new MutationObserver(() => {
    if (document.querySelector('.h2q-gauge .main-svg')) {
      window.painted = Date.now();
      seen.disconnect();
    }
  });
  seen.observe(document.body, {childList: true, subtree: true});
}"""


def _paint_ms(notebook: Notebook, cell: int) -> float:
    notebook.page.evaluate(ARM)
    notebook.run(cell)
    decided = float(notebook.text(cell).strip().splitlines()[-1])
    return round(float(notebook.page.evaluate("() => window.painted")) - decided, 1)


def measure(runs: int) -> dict[str, Any]:
    """Show *runs* + 1 gauges in one page; milliseconds from decision to first paint."""
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(Path(folder))
        try:
            cells = [SETUP, *["show()"] * (runs + 1)]
            with chromium() as browser, opened(lab, browser, *cells) as notebook:
                notebook.run(0)
                first, *warm = [_paint_ms(notebook, i + 1) for i in range(runs + 1)]
        finally:
            lab.close()
    return {
        "what": "ms from the decision to show until .main-svg is in the page, kernel busy",
        "first_ms": first,
        "warm_ms": warm,
        "warm_median_ms": statistics.median(warm),
        "cores": os.cpu_count(),
        "load_1min": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{name: version(name) for name in ("jupyterlab", "ipykernel", "anywidget")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gauge_paint.json"))
    options = parser.parse_args()
    result = json.dumps(measure(options.runs), indent=2)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(result + "\n")
    print(result)


if __name__ == "__main__":
    main()
