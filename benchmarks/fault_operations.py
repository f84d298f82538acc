"""The operations that ``gate_faults`` refuses memory to, by library.

Each entry prepares its data and returns what is done under the gate. Sizes are a few to some tens
of MiB, so that the budgets from 0 to 260 MiB cut each operation at many places.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

__all__ = ["GROUPS", "operations"]

Make = Callable[[], Callable[[], Any]]
GROUPS = (
    "stdlib", "numpy", "pandas", "torch", "torch threads", "transformers", "tokenizers", "polars",
    "pyarrow", "sklearn", "matplotlib", "pillow", "wide torch", "wide pyarrow",
)  # fmt: skip
"""A group named ``wide`` runs with the doors of the wide gate open too."""


def operations(group: str) -> dict[str, Make]:
    """Every operation of a group; imports what it needs."""
    return {
        "stdlib": _stdlib, "numpy": _numpy, "pandas": _pandas, "torch": _torch,
        "torch threads": lambda: _torch(threads=2), "transformers": _transformers,
        "tokenizers": _tokenizers, "polars": _polars, "pyarrow": _pyarrow, "sklearn": _sklearn,
        "matplotlib": _matplotlib, "pillow": _pillow, "wide torch": _wide_torch,
        "wide pyarrow": _wide_pyarrow,
    }[group]()  # fmt: skip


def _plain(**functions: Callable[[], Any]) -> dict[str, Make]:
    """Those that need no preparation."""
    return {name: (lambda function=function: function) for name, function in functions.items()}


def _stdlib() -> dict[str, Make]:
    import ast
    import base64
    import bz2
    import collections
    import copy
    import csv
    import decimal
    import difflib
    import hashlib
    import heapq
    import itertools
    import json
    import lzma
    import pickle
    import re
    import sqlite3
    import struct
    import tempfile
    import zipfile
    import zlib

    numbers = list(range(1_500_000))
    text = " ".join(map(str, numbers))
    packed = zlib.compress(b"x" * (200 << 20))
    document = json.dumps([{"a": n, "b": [n, str(n)]} for n in range(120_000)])
    pickled = pickle.dumps([{"a": n, "b": str(n)} for n in range(200_000)])
    source = "\n".join(f"x{n} = [{n}, 'text {n}', {n} + 1]" for n in range(20_000))

    def database() -> int:
        with sqlite3.connect(":memory:") as made:
            made.execute("create table t (a int, b text)")
            made.executemany("insert into t values (?, ?)", ((n, "x" * 50) for n in range(200_000)))
            return len(made.execute("select * from t order by b, a").fetchall())

    def rows() -> int:
        file = io.StringIO()
        csv.writer(file).writerows([n, n * 2, "text"] for n in range(400_000))
        return sum(1 for _ in csv.reader(io.StringIO(file.getvalue())))

    def archive() -> int:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
            made.writestr("a", b"x" * (60 << 20))
        return len(zipfile.ZipFile(file).read("a"))

    def on_disk() -> int:
        with tempfile.TemporaryFile() as file:
            file.write(b"x" * (64 << 20))
            file.seek(0)
            return len(file.read()) + len(memoryview(b"y" * (32 << 20)).tobytes())

    def deep() -> int:
        return len(copy.deepcopy([[n, {n: str(n)}] for n in range(100_000)]))

    class Point:
        def __init__(self, n: int) -> None:
            self.x, self.y, self.name = n, n, str(n)

    return _plain(
        **{
            "str join": lambda: ",".join(["text"] * 8_000_000),
            "str format": lambda: f"{text}{text}{text}",
            "str encode": lambda: (text * 3).encode("utf-16"),
            "str split": lambda: (text * 2).split(),
            "str replace": lambda: text.replace(" ", "----"),
            "str upper, casefold": lambda: (text.upper(), ("ß" * 8_000_000).casefold()),
            "bytes times": lambda: b"x" * (180 << 20),
            "bytearray grows": lambda: _grown(bytearray(), b"x" * (1 << 20), 180),
            "big integers": lambda: (1 << 400_000_000) >> 3,
            "int to str, str to int": lambda: int("7" * 4000) ** 3000,
            "list times": lambda: [None] * 20_000_000,
            "list of range": lambda: list(range(3_000_000)),
            "list sort": lambda: sorted(numbers, key=lambda n: -n),
            "list grows, is sliced": lambda: (numbers + numbers)[::2] * 3,
            "dict comprehension": lambda: {n: str(n) for n in range(700_000)},
            "set operations": lambda: set(numbers) ^ {n * 3 for n in numbers},
            "tuples, zip": lambda: list(zip(numbers, numbers, numbers, strict=True)),
            "objects with dicts": lambda: [Point(n) for n in range(300_000)],
            "itertools": lambda: list(itertools.permutations(range(9))),
            "collections": lambda: collections.Counter(collections.deque(numbers)),
            "heapq merge": lambda: list(heapq.merge(numbers, numbers, numbers)),
            "deepcopy": deep,
            "repr": lambda: repr(numbers) * 4,
            "json loads": lambda: json.loads(document),
            "json dumps": lambda: json.dumps(numbers * 3),
            "pickle loads": lambda: pickle.loads(pickled),
            "pickle dumps": lambda: pickle.dumps(numbers * 3),
            "re findall": lambda: re.findall(r"\d+", text * 2),
            "re sub": lambda: re.sub(r"(\d)", r"<\1>", text),
            "zlib": lambda: zlib.decompress(packed),
            "bz2, lzma": lambda: bz2.decompress(
                lzma.decompress(lzma.compress(bz2.compress(b"x" * (20 << 20))))
            ),
            "zipfile": archive,
            "base64": lambda: base64.b64decode(base64.b64encode(b"x" * (60 << 20))),
            "hashlib": lambda: hashlib.sha256(b"x" * (90 << 20)).hexdigest(),
            "struct": lambda: struct.pack("1000000d", *[0.5] * 1_000_000),
            "csv": rows,
            "sqlite3": database,
            "ast, compile": lambda: compile(ast.parse(source), "x", "exec"),
            "decimal": lambda: decimal.Decimal(7) ** 60_000,
            "difflib": lambda: difflib.ndiff(["a" * 1000] * 300, ["b" * 1000] * 300),
            "file read": on_disk,
            "StringIO": lambda: io.StringIO(text * 4).getvalue(),
        }
    )


def _grown(block: bytearray, piece: bytes, times: int) -> bytearray:
    for _ in range(times):
        block += piece
    return block


def _numpy() -> dict[str, Make]:
    import numpy as np

    def over(build: Callable[[Any], Callable[[], Any]]) -> Make:
        return lambda: build(np.random.default_rng(1).random(2_000_000))

    return {
        "ones, full": lambda: lambda: (np.ones(9_000_000), np.full(9_000_000, 2)),
        "arithmetic": over(lambda x: lambda: x * 2 + x**2 - np.sqrt(x)),
        "broadcast": over(lambda x: lambda: x[:3000, None] + x[:3000]),
        "outer": over(lambda x: lambda: np.outer(x[:3000], x[:3000])),
        "sort": over(lambda x: lambda: np.sort(x)),
        "argsort stable": over(lambda x: lambda: np.argsort(x, kind="stable")),
        "unique": over(lambda x: lambda: np.unique((x * 1000).astype(int), return_inverse=True)),
        "matmul": over(lambda x: lambda: x[:1_440_000].reshape(1200, 1200) @ np.ones((1200, 1200))),
        "inv": over(lambda x: lambda: np.linalg.inv(x[:640_000].reshape(800, 800))),
        "svd": over(lambda x: lambda: np.linalg.svd(x[:160_000].reshape(400, 400))),
        "fft": over(lambda x: lambda: np.fft.fft(x)),
        "einsum": over(lambda x: lambda: np.einsum("ij,jk->ik", x[:10**6].reshape(1000, 1000),
                                                   x[:10**6].reshape(1000, 1000))),
        "concatenate, stack": over(lambda x: lambda: (np.concatenate([x] * 4), np.stack([x] * 4))),
        "astype str": over(lambda x: lambda: x[:300_000].astype(str)),
        "object arrays": over(lambda x: lambda: x[:500_000].astype(object) + 1),
        "histogram": over(lambda x: lambda: np.histogram(x, 1_000_000)),
        "cumsum, diff, where": over(lambda x: lambda: np.where(np.cumsum(x) > 5, np.diff(x, append=0), 0)),
        "save, load": over(lambda x: lambda: _saved(np, x)),
        "loadtxt": lambda: lambda: np.loadtxt([f"{n} {n}" for n in range(60_000)]),
        "random": lambda: lambda: np.random.default_rng(2).normal(size=9_000_000),
        "take, fancy index": over(lambda x: lambda: x[np.arange(2_000_000)[::-1]]),
        "resize, append": over(lambda x: lambda: np.append(np.resize(x, 6_000_000), x)),
        "masked, structured": over(lambda x: lambda: np.ma.masked_where(x > 0.5, x).mean()),
    }  # fmt: skip


def _saved(np: Any, x: Any) -> Any:
    file = io.BytesIO()
    np.savez_compressed(file, x=x[:500_000])
    file.seek(0)
    return np.load(file)["x"]


def _pandas() -> dict[str, Make]:
    import numpy as np
    import pandas as pd

    def over(build: Callable[[Any], Callable[[], Any]]) -> Make:
        def make() -> Callable[[], Any]:
            rng = np.random.default_rng(1)
            keys = rng.integers(0, 300_000, 600_000)
            return build(pd.DataFrame({"k": keys, "v": 1.0, "w": keys * 2, "s": keys % 97}))

        return make

    return {
        "copy, astype": over(lambda d: lambda: (d.copy(), d.astype("float32"))),
        "merge": over(lambda d: lambda: d.merge(d, on="k")),
        "merge cross": over(lambda d: lambda: d[:2500].merge(d[:2500], how="cross")),
        "groupby agg": over(lambda d: lambda: d.groupby("k").agg(["sum", "mean"])),
        "groupby apply": over(lambda d: lambda: d.groupby("s")["v"].apply(lambda p: p.sum())),
        "groupby transform": over(lambda d: lambda: d.groupby("s")["v"].transform("mean")),
        "sort_values": over(lambda d: lambda: d.sort_values(["k", "w"])),
        "unique": over(lambda d: lambda: pd.unique(d["k"])),
        "factorize": over(lambda d: lambda: pd.factorize(d["k"])),
        "value_counts": over(lambda d: lambda: d["k"].value_counts()),
        "value_counts strings": over(lambda d: lambda: d["k"].astype(str).value_counts()),
        "duplicated": over(lambda d: lambda: d.duplicated()),
        "pivot_table": over(lambda d: lambda: d[:60_000].pivot_table(index="k", columns="s", values="v")),
        "get_dummies": over(lambda d: lambda: pd.get_dummies(d["s"])),
        "concat": over(lambda d: lambda: pd.concat([d] * 4)),
        "reindex": over(lambda d: lambda: d.set_index("k").groupby(level=0).first().reindex(range(400_000))),
        "str methods": over(lambda d: lambda: d["k"].astype(str).str.upper()),
        "rolling": over(lambda d: lambda: d["v"].rolling(1000).max()),
        "isin": over(lambda d: lambda: d["k"].isin(d["w"])),
        "to_csv, read_csv": over(lambda d: lambda: pd.read_csv(io.StringIO(d[:150_000].to_csv()))),
        "melt, stack": over(lambda d: lambda: (d.melt(), d.stack())),
        "to_datetime": over(lambda d: lambda: pd.to_datetime(d["k"], unit="s").dt.strftime("%Y")),
        "categorical": over(lambda d: lambda: d["k"].astype("category").cat.codes),
        "query, eval": over(lambda d: lambda: d.query("k > 100 and w < 500000")),
    }  # fmt: skip


def _torch(threads: int = 1) -> dict[str, Make]:
    import torch

    torch.set_num_threads(threads)

    def over(build: Callable[[Any], Callable[[], Any]]) -> Make:
        return lambda: build(torch.rand(4_000_000, generator=torch.Generator().manual_seed(1)))

    def learn(x: Any) -> Callable[[], Any]:
        model = torch.nn.Sequential(torch.nn.Linear(1000, 2000), torch.nn.ReLU(),
                                    torch.nn.Linear(2000, 10))  # fmt: skip
        optimizer = torch.optim.AdamW(model.parameters())

        def step() -> float:
            loss = model(x[:1_000_000].reshape(1000, 1000)).square().mean()
            loss.backward()
            optimizer.step()
            return float(loss)

        return step

    def saved(x: Any) -> Any:
        file = io.BytesIO()
        torch.save({"x": x}, file)
        file.seek(0)
        return torch.load(file)["x"]

    square = slice(0, 1_440_000)
    return {
        "ones, zeros": lambda: lambda: (torch.ones(9_000_000), torch.zeros(9_000_000)),
        "empty": lambda: lambda: torch.empty(60_000_000),
        "arithmetic": over(lambda x: lambda: x * 2 + x**2 - x.sqrt()),
        "matmul": over(lambda x: lambda: x[square].view(1200, 1200) @ x[square].view(1200, 1200)),
        "bmm": over(lambda x: lambda: torch.bmm(x[:2_097_152].view(8, 512, 512), x[:2_097_152].view(8, 512, 512))),
        "cat, stack": over(lambda x: lambda: (torch.cat([x] * 4), torch.stack([x] * 3))),
        "sort": over(lambda x: lambda: x.sort()),
        "topk": over(lambda x: lambda: x.topk(1_000_000)),
        "unique": over(lambda x: lambda: (x * 1000).int().unique(return_inverse=True)),
        "svd": over(lambda x: lambda: torch.linalg.svd(x[:160_000].view(400, 400))),
        "fft": over(lambda x: lambda: torch.fft.fft(x)),
        "conv2d": over(lambda x: lambda: torch.nn.functional.conv2d(x[:1_572_864].view(8, 3, 256, 256), torch.ones(16, 3, 5, 5))),
        "autograd": over(lambda x: lambda: x.clone().requires_grad_().exp().sum().backward()),
        "train step": over(learn),
        "cdist": over(lambda x: lambda: torch.cdist(x[:600_000].view(3000, 200), x[:600_000].view(3000, 200))),
        "index, gather": over(lambda x: lambda: x[torch.randperm(4_000_000)]),
        "scatter": over(lambda x: lambda: torch.zeros(4_000_000).scatter_add_(0, torch.randint(0, 4_000_000, (4_000_000,)), x)),
        "sparse": over(lambda x: lambda: torch.sparse_coo_tensor(torch.stack([torch.arange(500_000) % 999, torch.arange(500_000)]), x[:500_000]).coalesce()),
        "softmax, layer_norm": over(lambda x: lambda: torch.nn.functional.layer_norm(x.view(4000, 1000).softmax(-1), (1000,))),
        "attention": over(lambda x: lambda: torch.nn.functional.scaled_dot_product_attention(*[x[:1_048_576].view(1, 8, 2048, 64)] * 3)),
        "embedding": over(lambda x: lambda: torch.nn.functional.embedding(torch.randint(0, 4000, (50_000,)), x.view(4000, 1000)[:, :200])),
        "quantile, median": over(lambda x: lambda: (x.median(), x.kthvalue(100))),
        "to numpy, from numpy": over(lambda x: lambda: torch.from_numpy(x.double().numpy() * 2)),
        "save, load": over(lambda x: lambda: saved(x)),
        "dtype changes": over(lambda x: lambda: (x.half(), x.bfloat16(), x.to(torch.complex64))),
    }  # fmt: skip


def _wide_torch() -> dict[str, Make]:
    import torch

    def over(build: Callable[[Any], Callable[[], Any]]) -> Make:
        return lambda: build(torch.rand(1_000_000, generator=torch.Generator().manual_seed(1)))

    def recurrent(x: Any) -> Callable[[], Any]:
        model = torch.nn.LSTM(100, 200, 2)
        return lambda: model(x.view(100, 100, 100))[0].sum().backward()

    def compiled(_: Any) -> Callable[[], Any]:
        function = torch.jit.trace(lambda a: (a @ a).relu().sum(), torch.ones(500, 500))
        return lambda: [function(torch.rand(500, 500)) for _ in range(20)]

    return {
        **_torch(),
        "lstm": over(recurrent),
        "jit": over(compiled),
        "quantised": over(lambda x: lambda: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8).dequantize()),
        "unique_consecutive, bincount": over(lambda x: lambda: (x.sort()[0].unique_consecutive(), (x * 1000).long().bincount())),
        "nonzero, masked_select": over(lambda x: lambda: ((x > 0.5).nonzero(), x.masked_select(x > 0.5))),
        "conv3d, pooling": over(lambda x: lambda: torch.nn.functional.max_pool3d(torch.nn.functional.conv3d(x[:884_736].view(1, 1, 96, 96, 96), torch.ones(8, 1, 3, 3, 3)), 2)),
        "einsum, tensordot": over(lambda x: lambda: torch.einsum("ij,jk,kl->il", *[x.view(1000, 1000)] * 3)),
    }  # fmt: skip


def _transformers() -> dict[str, Make]:
    from pathlib import Path

    import torch
    import transformers

    import h2q_notebook

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    where = Path(h2q_notebook.__file__).parent / "models/tiny_deepseek"
    config = transformers.Qwen2Config(
        hidden_size=256, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=4, vocab_size=20_000, tie_word_embeddings=True,
    )  # fmt: skip
    ids = torch.arange(512).unsqueeze(0) % 100

    def made() -> Any:
        return transformers.Qwen2ForCausalLM(config)

    def training() -> Callable[[], Any]:
        model = made()
        optimizer = torch.optim.AdamW(model.parameters())

        def step() -> float:
            loss = model(input_ids=ids, labels=ids).loss
            loss.backward()
            optimizer.step()
            return float(loss)

        return step

    return {
        "construct": lambda: made,
        "forward": lambda: (lambda model=made(): model(input_ids=ids).logits),
        "generate": lambda: (
            lambda model=made(): model.generate(ids[:, :64], max_new_tokens=16, do_sample=False)
        ),
        "train step": training,
        "from_pretrained": lambda: lambda: transformers.AutoModelForCausalLM.from_pretrained(where),
        "tokenizer": lambda: lambda: transformers.AutoTokenizer.from_pretrained(where)("1 + 1 " * 40_000),
    }  # fmt: skip


def _tokenizers() -> dict[str, Make]:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    words = ["a text with some words in it, number %d" % n for n in range(4000)]

    def trained() -> Any:
        one = Tokenizer(models.BPE())
        one.pre_tokenizer = pre_tokenizers.Whitespace()
        one.train_from_iterator(words, trainers.BpeTrainer(vocab_size=300, show_progress=False))
        return one

    return {
        "train": lambda: trained,
        "encode": lambda: lambda one=trained(): one.encode(" ".join(words * 10)),
        "encode_batch": lambda: lambda one=trained(): one.encode_batch(words * 5),
    }


def _polars() -> dict[str, Make]:
    import polars as pl

    def over(build: Callable[[Any], Callable[[], Any]]) -> Make:
        return lambda: build(pl.DataFrame({"k": range(400_000), "v": [1.5] * 400_000}))

    return {
        "group_by": over(lambda d: lambda: d.group_by("k").agg(pl.col("v").sum())),
        "join": over(lambda d: lambda: d.join(d, on="k")),
        "sort": over(lambda d: lambda: d.sort("v", "k")),
        "cross join": over(lambda d: lambda: d[:2000].join(d[:2000], how="cross")),
        "strings": over(lambda d: lambda: d.with_columns(pl.col("k").cast(pl.String) + "x")),
        "to_pandas": over(lambda d: lambda: d.to_numpy()),
    }


def _pyarrow() -> dict[str, Make]:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    def over(build: Callable[[Any], Callable[[], Any]]) -> Make:
        return lambda: build(pa.table({"k": range(600_000), "v": [1.5] * 600_000}))

    def parquet(table: Any) -> Any:
        file = io.BytesIO()
        pq.write_table(table, file)
        return pq.read_table(io.BytesIO(file.getvalue()))

    return {
        "sort": over(lambda t: lambda: t.sort_by("v")),
        "group_by": over(lambda t: lambda: t.group_by("k").aggregate([("v", "sum")])),
        "join": over(lambda t: lambda: t.join(t.rename_columns(["k", "b"]), "k")),
        "concat, combine": over(lambda t: lambda: pa.concat_tables([t] * 6).combine_chunks()),
        "cast to strings": over(lambda t: lambda: pc.cast(t["k"], pa.string())),
        "take": over(lambda t: lambda: t.take(pa.array(range(600_000)))),
        "from pylist": over(lambda t: lambda: pa.array([{"a": n} for n in range(100_000)])),
        "to_pylist": over(lambda t: lambda: t["k"].to_pylist()),
        "parquet": over(lambda t: lambda: parquet(t)),
        "to_pandas": over(lambda t: lambda: t.to_pandas()),
    }


def _wide_pyarrow() -> dict[str, Make]:
    import tempfile
    from pathlib import Path

    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.csv as pcsv
    import pyarrow.dataset as ds
    import pyarrow.json as pjson
    from pyarrow import feather

    pa.set_memory_pool(pa.system_memory_pool())
    plain = _pyarrow()

    def over(build: Callable[[Any], Callable[[], Any]]) -> Make:
        return lambda: build(pa.table({"k": range(600_000), "v": [1.5] * 600_000}))

    def on_disk(table: Any) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            ds.write_dataset(table, folder, format="parquet")
            return ds.dataset(folder).to_table(filter=ds.field("k") > 100)

    def kept(table: Any) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "f")
            feather.write_feather(table, path, compression="lz4")
            return feather.read_table(path, memory_map=False)

    def text(table: Any) -> Any:
        file = io.BytesIO()
        pcsv.write_csv(table, file)
        return pcsv.read_csv(io.BytesIO(file.getvalue()))

    def stream(table: Any) -> Any:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return pa.ipc.open_stream(sink.getvalue()).read_all()

    def in_a_row(*names: str) -> Make:
        """Each after the ones before it, refused or not: what a notebook does."""

        def make() -> Callable[[], Any]:
            made = [plain[name]() for name in names]

            def run() -> str:
                ends = []
                for one in made * 2:
                    try:
                        one()
                        ends.append("ok")
                    except (MemoryError, OSError) as error:
                        ends.append(type(error).__name__)
                if "ok" not in ends:
                    raise MemoryError(ends)
                return ",".join(ends)

            return run

        return make

    return {
        **plain,
        "add, multiply": over(lambda t: lambda: pc.multiply(pc.add(t["k"], 5), t["v"])),
        "filter, drop_null": over(lambda t: lambda: t.filter(pc.field("k") > 1000).drop_null()),
        "value_counts, unique": over(lambda t: lambda: (t["k"].value_counts(), t["v"].unique())),
        "dictionary_encode": over(lambda t: lambda: t["k"].dictionary_encode()),
        "strings": over(lambda t: lambda: pc.utf8_upper(pc.binary_join_element_wise(pc.cast(t["k"], pa.string()), "x", "-"))),
        "lists": over(lambda t: lambda: pc.list_flatten(pa.array([[n, n] for n in range(200_000)]))),
        "dataset": over(lambda t: lambda: on_disk(t)),
        "feather": over(lambda t: lambda: kept(t)),
        "csv": over(lambda t: lambda: text(t)),
        "json": lambda: lambda: pjson.read_json(io.BytesIO(b'{"a": 1, "b": "text"}\n' * 300_000)),
        "ipc stream": over(lambda t: lambda: stream(t)),
        "from numpy, pandas": over(lambda t: lambda: pa.Table.from_pandas(t.to_pandas())),
        "in a row: all": in_a_row(*plain),
        "in a row: concat, parquet": in_a_row("concat, combine", "parquet"),
        "in a row: sort, join, parquet": in_a_row("sort", "join", "parquet", "to_pandas"),
    }  # fmt: skip


def _sklearn() -> dict[str, Make]:
    import numpy as np
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import NearestNeighbors

    def over(build: Callable[[Any, Any], Callable[[], Any]]) -> Make:
        def make() -> Callable[[], Any]:
            rng = np.random.default_rng(1)
            return build(rng.random((20_000, 60)), rng.integers(0, 2, 20_000))

        return make

    return {
        "logistic regression": over(lambda x, y: lambda: LogisticRegression(max_iter=20).fit(x, y)),
        "random forest": over(lambda x, y: lambda: RandomForestClassifier(4, max_depth=6).fit(x, y)),
        "k-means": over(lambda x, y: lambda: KMeans(8, n_init=1, max_iter=5).fit(x)),
        "pca": over(lambda x, y: lambda: PCA(10).fit_transform(x)),
        "neighbours": over(lambda x, y: lambda: NearestNeighbors().fit(x).kneighbors(x[:300])),
        "tf-idf": over(lambda x, y: lambda: TfidfVectorizer().fit_transform(
            [f"word{n} word{n % 7}" for n in range(60_000)])),
    }  # fmt: skip


def _matplotlib() -> dict[str, Make]:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    def drawn(draw: Callable[[Any], Any], dpi: int = 200) -> Make:
        def make() -> Callable[[], Any]:
            def run() -> int:
                figure, axes = plt.subplots(figsize=(10, 10))
                draw(axes)
                file = io.BytesIO()
                figure.savefig(file, dpi=dpi)
                return len(file.getvalue())

            return run

        return make

    x = np.random.default_rng(1).random(200_000)
    return {
        "line": drawn(lambda axes: axes.plot(x)),
        "scatter": drawn(lambda axes: axes.scatter(x[:20_000], x[20_000:40_000])),
        "imshow": drawn(lambda axes: axes.imshow(x[:160_000].reshape(400, 400))),
        "hist": drawn(lambda axes: axes.hist(x, 200)),
    }


def _pillow() -> dict[str, Make]:
    from PIL import Image, ImageFilter

    def over(build: Callable[[Any], Callable[[], Any]]) -> Make:
        return lambda: build(Image.effect_noise((2500, 2500), 40).convert("RGB"))

    def saved(image: Any, kind: str) -> Any:
        file = io.BytesIO()
        image.save(file, kind)
        return Image.open(file).copy()

    return {
        "resize": over(lambda i: lambda: i.resize((4000, 4000))),
        "rotate, filter": over(lambda i: lambda: i.rotate(30).filter(ImageFilter.GaussianBlur(2))),
        "png": over(lambda i: lambda: saved(i, "PNG")),
        "jpeg": over(lambda i: lambda: saved(i, "JPEG")),
        "convert, split": over(lambda i: lambda: (i.convert("F"), i.split())),
    }
