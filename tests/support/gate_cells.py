"""Cells whose one large request outgrows 400 MiB, for the compiled gate: a test and a benchmark.

Each prepares in a cell of its own what is not to be counted. Where a library asks in steps, the
steps are large. ``INNOCENT`` cells stay within their budget, or ask for what they do not touch.
"""

from __future__ import annotations

__all__ = ["BUDGET_MIB", "GREEDY", "INNOCENT", "SETUP"]

BUDGET_MIB = 400
SETUP = """
import itertools, json, os, tempfile
import numpy as np, pandas as pd, torch
torch.rand(300, 300) @ torch.rand(300, 300)
numbers = list(range(9_000_000))
halves = [0.5] * 20_000_000
text = "[" + ",".join(["[1]"] * 9_000_000) + "]"
frame = pd.DataFrame({"k": np.arange(3_000_000) % 1_000_000, "v": 1.0, "w": 2.0, "x": 3.0})
small = frame[:8000].copy()
big = tempfile.mktemp()
with open(big, "wb") as file:
    file.truncate(1 << 30)
image = torch.rand(16, 3, 512, 512)
"""
GREEDY: dict[str, str] = {
    "torch.ones": "x = torch.ones(400_000_000)",
    "torch.zeros": "x = torch.zeros(400_000_000) + 1",
    "torch matmul": "a = torch.ones(20_000, 2_000); x = a @ a.T",
    "torch.cat": "x = torch.cat([torch.ones(25_000_000)] * 8)",
    "torch conv2d": "x = torch.nn.functional.conv2d(image, torch.ones(64, 3, 5, 5))",
    "torch autograd": (
        "a = torch.ones(25_000_000, requires_grad=True); b = a\n"
        "for _ in range(12): b = b.exp()\nb.sum().backward()"
    ),
    "pandas merge cross": "x = small.merge(small, how='cross')",
    "pandas copy": "x = [frame.copy() for _ in range(12)]",
    "pandas groupby": "x = pd.concat([frame] * 5).groupby('k').agg(['sum', 'mean', 'std'])",
    "str.join": "x = ''.join(['y' * 1000] * 1_000_000)",
    "bytes doubling": "x = b'y' * 1000\nwhile True: x += x",
    "1 << n": "x = 1 << (8 * (900 << 20))",
    "[None] * n": "x = [None] * 120_000_000",
    "repr of a list": "x = [repr(halves) for _ in range(9)]",
    "json.loads": "x = json.loads(text)",
    "itertools into a list": "x = list(itertools.product(range(5000), repeat=2))",
    "list(range(n))": "x = list(range(40_000_000))",
    "set, dict": "x = {n: str(n) for n in numbers}",
    "read() of a file": "with open(big, 'rb') as file: x = file.read()",
    "np.ones": "x = np.ones(200_000_000)",
    "np.outer": "x = np.outer(np.ones(15_000), np.ones(15_000))",
    "np.ones in a thread": (
        "import threading\nkept = []\n"
        "t = threading.Thread(target=lambda: kept.append(np.ones(200_000_000)))\n"
        "t.start(); t.join()"
    ),
}
INNOCENT: dict[str, str] = {
    "np.zeros 2 GB, untouched": "x = np.zeros(250_000_000)",
    "np.zeros 2 GB, 100 MB touched": "x = np.zeros(250_000_000); x[:12_000_000] = 1",
    "bytes(1 << 30)": "x = bytes(1 << 30)",
    "torch.empty 2 GB, 100 MB touched": "x = torch.empty(500_000_000); x[:25_000_000] = 1",
    "torch.empty_like, new_empty": (
        "a = torch.empty(150_000_000); x = torch.empty_like(a); x = a.new_empty(150_000_000)"
    ),
    "np.memmap of 1 GiB": "x = np.memmap(big, dtype=np.uint8, mode='r'); y = x[::4096].sum()",
    "mmap, private": (
        "import mmap\nwith open(big, 'rb') as file:\n"
        "    x = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)\n    y = x[5]"
    ),
    "anonymous map of 1 GiB": "import mmap\nx = mmap.mmap(-1, 1 << 30); x[7] = 1; del x",
    "safetensors": (
        "from safetensors.torch import save_file, load_file\n"
        "f = tempfile.mktemp(); save_file({'a': torch.ones(40_000_000)}, f)\n"
        "x = load_file(f)['a'].sum(); os.unlink(f)"
    ),
    "torch.load, mapped": (
        "f = tempfile.mktemp(); torch.save({'a': torch.ones(40_000_000)}, f)\n"
        "x = torch.load(f, mmap=True)['a'].sum(); os.unlink(f)"
    ),
    "300 MB, given back, ten times": ("for _ in range(10):\n    x = np.ones(37_000_000); del x"),
    "350 MB of small objects": "x = [bytes(1000) for _ in range(300_000)]",
    "sixty threads": (
        "import threading\n"
        "ts = [threading.Thread(target=lambda: np.ones(300_000).sum()) for _ in range(60)]\n"
        "[t.start() for t in ts]; [t.join() for t in ts]"
    ),
    "fork pool": (
        "import multiprocessing as mp\n"
        "with mp.get_context('fork').Pool(2) as pool:\n"
        "    x = pool.map(len, [b'x' * 1000] * 50)"
    ),
    "DataLoader with workers": (
        "from torch.utils.data import DataLoader, TensorDataset\n"
        "d = TensorDataset(torch.ones(2000, 100))\n"
        "x = sum(b[0].sum() for b in DataLoader(d, batch_size=100, num_workers=2))"
    ),
    "a child process of 600 MB": (
        "import subprocess, sys\n"
        "subprocess.run([sys.executable, '-c', 'x = bytes(600 << 20); print(len(x))'])"
    ),
    "imports": "import polars, pyarrow, transformers, sqlite3, asyncio, unittest.mock",
    "polars group_by": (
        "import polars as pl\nd = pl.DataFrame({'k': range(1_000_000)})\n"
        "x = d.group_by(pl.col('k') % 100).len()"
    ),
    "pyarrow": "import pyarrow as pa\nx = pa.array(range(2_000_000)).to_numpy()",
    "train steps": (
        "m = torch.nn.Linear(1000, 1000); o = torch.optim.Adam(m.parameters())\n"
        "for _ in range(5):\n"
        "    o.zero_grad(); m(torch.ones(200, 1000)).sum().backward(); o.step()"
    ),
    "generate": (
        "import h2q_notebook, pathlib, transformers\n"
        "w = pathlib.Path(h2q_notebook.__file__).parent / 'models/tiny_deepseek'\n"
        "m = transformers.AutoModelForCausalLM.from_pretrained(w)\n"
        "x = m.generate(torch.arange(5, 9).unsqueeze(0), max_new_tokens=8)"
    ),
    "sympy-like recursion": "f = lambda n: 1 if n < 2 else f(n - 1) + f(n - 2)\nx = f(20)",
    "big text, joined and split": "x = ' '.join(map(str, numbers[:2_000_000])).split()",
    "svd": "x = np.linalg.svd(np.random.rand(700, 700))",
    "await": "import asyncio\nx = await asyncio.gather(*[asyncio.sleep(0.01) for _ in range(9)])",
}
