"""Hostile and malformed model directories: refused by one sentence before a weight is read.

An audit hook stands by: nothing of the directory is imported or executed, nothing connects.
"""

from __future__ import annotations

import json
import os
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from h2q_notebook.errors import BadArgument, H2QError, ModelRefused
from h2q_notebook.load.directory import inspect
from h2q_notebook.load.sources import resolve
from tests.support.tiny_models import write_safetensors

CONFIG = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 8,
    "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 16, "intermediate_size": 8,
}  # fmt: skip
ONE = {"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}
DATA = b"\0" * 16
INDEX = "model.safetensors.index.json"

Make = Callable[[Path], object]

_forbidden: list[str] = []
_watching = False


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if _watching and event.startswith(
        ("socket.connect", "socket.getaddrinfo", "subprocess", "os.system", "pickle.find_class",
         "os.exec", "os.posix_spawn", "os.fork", "os.remove", "os.rename")
    ):  # fmt: skip
        _forbidden.append(f"{event} {args!r:.80}")


sys.addaudithook(_audit)


@contextmanager
def nothing_runs() -> Iterator[None]:
    """Fails if anything was executed, imported, connected or changed on disk meanwhile."""
    global _watching
    _forbidden.clear()
    modules = set(sys.modules)
    _watching = True
    try:
        yield
    finally:
        _watching = False
    assert _forbidden == []
    assert not {"torch", "transformers", "modeling_evil"} & (set(sys.modules) - modules)


def sound(where: Path, **config: Any) -> None:
    (where / "config.json").write_text(json.dumps({**CONFIG, **config}))
    write_safetensors(where / "model.safetensors", ONE, DATA)


def header(text: dict[str, Any] | bytes, data: bytes = DATA) -> Make:
    def make(where: Path) -> None:
        sound(where)
        write_safetensors(where / "model.safetensors", text, data)

    return make


def tensor(**changes: Any) -> Make:
    return header({"a": {**ONE["a"], **changes}})


def raw(blob: bytes) -> Make:
    def make(where: Path) -> None:
        sound(where)
        (where / "model.safetensors").write_bytes(blob)

    return make


def config(**changes: Any) -> Make:
    return lambda where: sound(where, **changes)


def config_text(text: bytes) -> Make:
    def make(where: Path) -> None:
        sound(where)
        (where / "config.json").write_bytes(text)

    return make


def side_file(name: str, text: str) -> Make:
    def make(where: Path) -> None:
        sound(where)
        (where / name).write_text(text)

    return make


def index(value: Any) -> Make:
    def make(where: Path) -> None:
        sound(where)
        (where / INDEX).write_text(value if isinstance(value, str) else json.dumps(value))
        (where.parent / "outside.safetensors").write_bytes(b"")

    return make


def link(name: str, target: str) -> Make:
    def make(where: Path) -> None:
        sound(where)
        (where / name).rename(where.parent / f"outside-{name}")
        (where / name).symlink_to(target)

    return make


def pipe(name: str) -> Make:
    def make(where: Path) -> None:
        sound(where)
        (where / name).unlink()
        os.mkfifo(where / name)

    return make


def only(name: str, blob: bytes = b"x") -> Make:
    def make(where: Path) -> None:
        (where / "config.json").write_text(json.dumps(CONFIG))
        (where / name).write_bytes(blob)

    return make


def two_shards(where: Path) -> None:
    sound(where)
    for name in ("m-1.safetensors", "m-2.safetensors"):
        write_safetensors(where / name, ONE, DATA)
    names = {"a": "m-1.safetensors", "b": "m-2.safetensors"}
    (where / INDEX).write_text(json.dumps({"weight_map": names}))


def no_config(where: Path) -> None:
    sound(where)
    (where / "config.json").unlink()


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def gguf(
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    n_tensors: int = 1,
    n_entries: int = 1,
    entries: bytes | None = None,
    dims: tuple[int, ...] = (4,),
    kind: int = 0,
    offset: int = 0,
    data: bytes = DATA,
) -> Make:
    if entries is None:
        entries = text("general.architecture") + struct.pack("<I", 8) + text("llama")
    table = text("output_norm.weight") + struct.pack("<I", len(dims))
    table += struct.pack(f"<{len(dims)}Q", *dims) + struct.pack("<IQ", kind, offset)
    blob = magic + struct.pack("<IQQ", version, n_tensors, n_entries) + entries + table
    blob += b"\0" * (-len(blob) % 32) + data
    return lambda where: (where / "m.gguf").write_bytes(blob)


TWO_KEYS = b'{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"a":{"dtype":"F32",'
TWO_KEYS += b'"shape":[2,2],"data_offsets":[0,16]}}'
HUGE = 1 << 62

CASES: dict[str, tuple[Make, str]] = {
    # safetensors
    "header length 2**60": (raw(struct.pack("<Q", 1 << 60) + DATA), r"model\.safetensors.*length"),
    "header longer than file": (raw(struct.pack("<Q", 500) + DATA), r"cut short"),
    "empty file": (raw(b""), r"model\.safetensors: has 0 bytes"),
    "header not JSON": (header(b"{nope"), r"model\.safetensors header.*valid JSON"),
    "header not UTF-8": (header(b'{"\xff\xfe": 1}'), r"not UTF-8"),
    "header a list": (header(b"[1]"), r"JSON object"),
    "header nested": (header(b'{"a":' * 100_000), r"model\.safetensors header"),
    "key twice": (header(TWO_KEYS), r"header: the key 'a' is given twice"),
    "unknown dtype": (tensor(dtype="F3"), r"tensor 'a', dtype"),
    "negative dimension": (tensor(shape=[-2, -2]), r"tensor 'a', shape"),
    "shape overflow": (tensor(shape=[HUGE, HUGE]), r"tensor 'a', shape"),
    "shape of booleans": (tensor(shape=[True, 4]), r"tensor 'a', shape"),
    "offsets backwards": (tensor(data_offsets=[16, 0]), r"tensor 'a', data_offsets"),
    "offsets past the end": (tensor(shape=[99], data_offsets=[0, 396]), r"cut short"),
    "size does not match": (tensor(shape=[3]), r"tensor 'a', data_offsets"),
    "hole": (tensor(shape=[3], data_offsets=[4, 16]), r"tensor 'a', data_offsets leaves a hole"),
    "overlap": (header({**ONE, "b": ONE["a"]}), r"tensor 'b', data_offsets overlaps"),
    "trailing bytes": (header(ONE, DATA + b"evil"), r"longer than its tensors"),
    "entry no object": (header({"a": 7}), r"tensor 'a', entry"),
    "no tensors": (header({}, b""), r"holds no tensors"),
    "fp8": (tensor(dtype="F8_E4M3", shape=[16]), r"tensor 'a', dtype.*fp8"),
    "weights a pipe": (pipe("model.safetensors"), r"model\.safetensors: is not a regular file"),
    "weights a link outside": (
        link("model.safetensors", "../outside-model.safetensors"),
        r"model\.safetensors: is a link to a place outside",
    ),
    "weights a link to itself": (link("model.safetensors", "model.safetensors"), r"model\.safeten"),
    # index
    "index not JSON": (index("{"), r"index\.json: is not valid JSON"),
    "index without weight_map": (index({"metadata": {}}), r"index\.json: weight_map is missing"),
    "index to the parent": (index({"weight_map": {"a": "../outside.safetensors"}}), r"\['a'\] poi"),
    "index absolute": (index({"weight_map": {"a": "/etc/passwd"}}), r"weight_map\['a'\] points"),
    "index to a pickle": (index({"weight_map": {"a": "x.bin"}}), r"weight_map\['a'\].*safetensors"),
    "index to nothing": (
        index({"weight_map": {"a": "x.safetensors"}}),
        r"x\.safetensors, which is",
    ),
    "index with a number": (index({"weight_map": {"a": 3}}), r"weight_map\['a'\]"),
    "index lists what is not there": (
        index({"weight_map": {"zz": "model.safetensors"}}),
        r"model\.safetensors: lacks tensor 'zz'",
    ),
    "a tensor in two files": (two_shards, r"m-2\.safetensors: tensor 'a' is in two files"),
    # config
    "no config": (no_config, r"config\.json is missing"),
    "config not JSON": (config_text(b"{"), r"config\.json: is not valid JSON"),
    "config a list": (config_text(b"[]"), r"config\.json: must hold a JSON object"),
    "config of 5 MiB": (config_text(b" " * (5 << 20)), r"config\.json: has 5\.0 MiB"),
    "config key twice": (config_text(b'{"model_type":"a","model_type":"b"}'), r"'model_type' is g"),
    "config a pipe": (pipe("config.json"), r"config\.json: is not a regular file"),
    "config a link outside": (link("config.json", "/etc/hostname"), r"config\.json: is a link"),
    "model_type a path": (config(model_type="../evil"), r"config\.json: model_type"),
    "model_type absent": (config(model_type=None), r"config\.json: model_type"),
    "remote code": (
        config(model_type="evil", auto_map={"AutoConfig": "modeling_evil.Config"}),
        r"config\.json: auto_map",
    ),
    "nested remote code": (
        config(text_config={"auto_map": {"A": "x.B"}}),
        r"text_config\.auto_map",
    ),
    "nested trust": (config(a={"b": [{"trust_remote_code": True}]}), r"a\.b\.trust_remote_code"),
    "kernel of a hub": (config(_attn_implementation="evil/kernel"), r"_attn_implementation"),
    "nested kernel": (config(v={"attn_implementation": "evil/k:main"}), r"v\.attn_implementation"),
    "a million layers": (config(num_hidden_layers=10**6), r"num_hidden_layers is 1000000"),
    "no heads": (config(num_attention_heads=0), r"num_attention_heads is 0"),
    "hidden size a string": (config(hidden_size="8"), r"hidden_size"),
    "an absurd integer": (config(rope_theta=10**40), r"rope_theta"),
    "an absurd vocabulary": (config(vocab_size=1 << 40), r"vocab_size"),
    "already quantised": (config(quantization_config={"bits": 4}), r"quantization_config"),
    "patched code": (config(fusion_config={"x": "y"}), r"config\.json: fusion_config"),
    "tokenizer with trust": (
        side_file("tokenizer_config.json", '{"trust_remote_code": true}'),
        r"tokenizer_config\.json: trust_remote_code",
    ),
    "generation with code": (
        side_file("generation_config.json", '{"custom_generate": "evil/repo"}'),
        r"generation_config\.json: custom_generate",
    ),
    "a tokenizer class that is a model": (
        side_file("tokenizer_config.json", '{"tokenizer_class": "LlamaForCausalLM"}'),
        r"tokenizer_config\.json: tokenizer_class names 'LlamaForCausalLM', which is no tokenizer",
    ),
    "an image processor that is a model": (
        side_file("preprocessor_config.json", '{"image_processor_type": "ViTModel"}'),
        r"preprocessor_config\.json: image_processor_type names 'ViTModel'",
    ),
    "a processor class of a module": (
        config(processor_class="os.system"),
        r"config\.json: processor_class names 'os\.system'",
    ),
    # pickles and others
    "a pickle": (only("pytorch_model.bin", b"cposix\nsystem\n(S'id'\ntR."), r"pytorch_model\.bin"),
    "a .pt": (only("model.pt"), r"model\.pt: weights in pickle form.*convert"),
    "a .h5": (only("tf_model.h5"), r"tf_model\.h5: is no form"),
    "only a config": (
        lambda where: sound(where) or (where / "model.safetensors").unlink(),
        r"no we",
    ),
    "only code": (lambda where: (where / "modeling_evil.py").write_text("1/0"), r"holds no model"),
    # GGUF
    "gguf magic": (gguf(magic=b"GGML"), r"m\.gguf: does not begin with GGUF"),
    "gguf version": (gguf(version=77), r"m\.gguf: version is 77"),
    "gguf empty": (lambda where: (where / "m.gguf").write_bytes(b""), r"m\.gguf"),
    "gguf 2**60 tensors": (gguf(n_tensors=1 << 60), r"m\.gguf: tensor count"),
    "gguf more tensors than bytes": (gguf(n_tensors=1 << 16), r"m\.gguf"),
    "gguf 2**60 entries": (gguf(n_entries=1 << 60), r"m\.gguf: metadata count"),
    "gguf endless string": (
        gguf(entries=struct.pack("<Q", 1 << 60)),
        r"m\.gguf: a metadata key says it has",
    ),
    "gguf endless array": (
        gguf(entries=text("k") + struct.pack("<IIQ", 9, 8, 1 << 60)),
        r"m\.gguf: metadata k reaches past the end",
    ),
    "gguf unknown value": (gguf(entries=text("k") + struct.pack("<I", 99)), r"unknown type 99"),
    "gguf without architecture": (
        gguf(entries=text("k") + struct.pack("<IB", 0, 1)),
        r"general\.architecture is missing",
    ),
    "gguf unknown ggml type": (gguf(kind=4096), r"tensor 'output_norm\.weight'.*ggml type 4096"),
    "gguf nine dimensions": (gguf(dims=(1,) * 9), r"9 dimensions"),
    "gguf shape overflow": (gguf(dims=(HUGE, HUGE)), r"has the shape"),
    "gguf half a block": (gguf(dims=(33,), kind=2), r"whole Q4_0 blocks"),
    "gguf cut short": (gguf(dims=(4096,)), r"m\.gguf: tensor.*cut short"),
    "gguf offset outside": (gguf(offset=1 << 62), r"m\.gguf: tensor.*cut short"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_bad_directory_is_refused_by_one_sentence(case: str, tmp_path: Path) -> None:
    make, says = CASES[case]
    where = tmp_path / "model"
    where.mkdir()
    make(where)
    with nothing_runs(), pytest.raises(ModelRefused, match=says) as caught:
        inspect(where)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert len(sentence) < 400


@pytest.mark.parametrize("case", sorted(CASES)[::6])
def test_a_load_refuses_it_just_so_and_reads_no_weight(case: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from h2q_notebook.load.loader import MemorySafeModelLoader

    class NothingAsked:
        def reserve(self, n_bytes: int, what: str) -> None:
            raise AssertionError(f"{what} was about to be read")

        check = reserve

    make, says = CASES[case]
    where = tmp_path / "model"
    where.mkdir()
    make(where)
    loader = MemorySafeModelLoader(watch_factory=lambda limit, read: NothingAsked())
    with nothing_runs(), pytest.raises(ModelRefused, match=says):
        loader.load(where, budget_bytes=1 << 30)


def test_the_sound_directory_of_these_tests_is_accepted(tmp_path: Path) -> None:
    sound(tmp_path)
    facts = inspect(tmp_path)
    assert (facts.model_type, facts.stored_bytes, facts.n_values) == ("llama", 16, 4)


def test_a_hub_cache_may_link_to_its_own_blobs(tmp_path: Path) -> None:
    blobs = tmp_path / "models--o--n" / "blobs"
    where = tmp_path / "models--o--n" / "snapshots" / "abc"
    for folder in (blobs, where):
        folder.mkdir(parents=True)
    sound(where)
    for name in ("config.json", "model.safetensors"):
        (where / name).rename(blobs / name)
        (where / name).symlink_to(f"../../blobs/{name}")
    assert inspect(where).n_values == 4


def test_code_named_by_a_known_model_is_ignored_not_run(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    sound(tmp_path, model_type="deepseek_v3", auto_map={"AutoConfig": "modeling_evil.Config"})
    (tmp_path / "modeling_evil.py").write_text("raise SystemExit")
    with nothing_runs():
        facts = inspect(tmp_path)
    assert "auto_map" not in json.loads(facts.config_json)
    assert any("auto_map was ignored" in note for note in facts.notes)


@pytest.mark.parametrize("name", ["modell", "MODEL_x"])
def test_a_missing_directory_names_its_neighbour(name: str, tmp_path: Path) -> None:
    (tmp_path / "model_x").mkdir()
    (tmp_path / "modell_").mkdir()
    with pytest.raises(BadArgument, match=r"does not exist; (did you mean|give)"):
        inspect(tmp_path / name)


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(BadArgument, match=r"is not a directory"):
        inspect(tmp_path / "notes.txt")


def test_several_ggufs_need_a_choice(tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(BadArgument, match=r"several GGUF files.*a\.gguf, b\.gguf"):
        inspect(tmp_path)


@pytest.mark.parametrize("name", ["", "  ", "a\0b", "h2q://nothing", "h2q://../x"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with nothing_runs(), pytest.raises(H2QError, match=r"^model: "):
        resolve(name)
