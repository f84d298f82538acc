"""Inspect a model directory: what it holds, or one sentence why it is refused.

No torch, no transformers, no code from the directory, no network; only headers and JSON are read.
"""

from __future__ import annotations

import difflib
import json
import os
from collections import Counter

from h2q_notebook.errors import BadArgument, ModelRefused
from h2q_notebook.load.config_check import check_config
from h2q_notebook.load.facts import FLOAT_DTYPES, ModelFacts, ShardFacts, TensorFacts
from h2q_notebook.load.gguf_header import read_gguf
from h2q_notebook.load.safe_json import inside, read_object, regular_size
from h2q_notebook.load.safetensors_header import read_header
from h2q_notebook.load.side_files import PROCESSORS, TOKENIZERS, check_side_files
from h2q_notebook.units import MIB, shorten

__all__ = ["inspect"]

_INDEX = "model.safetensors.index.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".npz", ".npy", ".joblib")
_FOREIGN = (".h5", ".msgpack", ".onnx", ".tflite")
_CONFIG_DTYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_MAX_FILES = 20_000
_MAX_SHARDS = 4_096


def inspect(path: str | os.PathLike[str], *, weights: bool = True) -> ModelFacts:
    """Look at a model directory (or one ``.gguf`` file) without loading anything.

    Args:
        path: the directory or file.
        weights: whether there must be weights; else a config.json alone will do, in its directory
            or named itself (any ``.json`` file).

    Returns:
        What it holds.

    Raises:
        BadArgument: there is no such directory.
        ModelRefused: it is malformed, hostile or unsupported.
    """
    where = os.path.abspath(os.fspath(path))
    if os.path.isdir(where):
        names = _list(where)
    elif not weights and where.endswith(".json") and os.path.lexists(where):
        return _inspect_config(where)
    elif where.endswith(".gguf") and os.path.lexists(where):
        return _inspect_gguf(where)
    else:
        raise BadArgument(_absent(where))
    if _INDEX in names or any(name.endswith(".safetensors") for name in names):
        return _inspect_safetensors(where, names)
    ggufs = sorted(name for name in names if name.endswith(".gguf"))
    if len(ggufs) == 1:
        return _inspect_gguf(os.path.join(where, ggufs[0]))
    if ggufs:
        shown = ", ".join(shorten(name, 60) for name in ggufs[:6])
        raise BadArgument(f"{where}: holds several GGUF files; name one of them: {shown}")
    if not weights and "config.json" in names:
        return _inspect_config(os.path.join(where, "config.json"))
    raise ModelRefused(_nothing(where, names))


def _inspect_config(path: str) -> ModelFacts:
    """A model of which only the config is here."""
    where, name = os.path.split(path)
    inside(where, name)
    config = read_object(path, name)
    model_type, notes = check_config(config, name, weights=False)
    stored = str(config.get("dtype") or config.get("torch_dtype") or "bfloat16")
    return ModelFacts(
        path=where if name == "config.json" else path,
        kind="config",
        model_type=model_type,
        config_json=json.dumps(config),
        shards=(),
        tensors=(),
        stored_dtype=_CONFIG_DTYPES.get(stored.removeprefix("torch."), "BF16"),
        has_tokenizer=False,
        notes=tuple(notes),
    )


def _list(where: str) -> list[str]:
    try:
        with os.scandir(where) as entries:
            names = [entry.name for _, entry in zip(range(_MAX_FILES + 1), entries, strict=False)]
    except OSError as error:
        raise ModelRefused(f"{where}: cannot be listed ({error.strerror})") from None
    if len(names) > _MAX_FILES:
        raise ModelRefused(f"{where}: holds more than {_MAX_FILES} files, so it is no model")
    return names


def _absent(where: str) -> str:
    parent, wanted = os.path.split(where)
    what = "is not a directory" if os.path.lexists(where) else "does not exist"
    sentence = f"model directory: {shorten(where, 160)} {what}"
    try:
        near = difflib.get_close_matches(wanted, os.listdir(parent), n=3, cutoff=0.6)
    except OSError:
        near = []
    if near and not os.path.lexists(where):
        return f"{sentence}; did you mean {' or '.join(shorten(name) for name in near)}?"
    return f"{sentence}; give a directory with config.json and *.safetensors, or one .gguf file"


def _nothing(where: str, names: list[str]) -> str:
    pickles = sorted(name for name in names if name.lower().endswith(_PICKLES))
    if pickles:
        return (
            f"{shorten(pickles[0])}: weights in pickle form can run code when they are opened, so "
            "h2q never opens them; convert the model to safetensors (save_pretrained does) or "
            "fetch its safetensors version"
        )
    foreign = sorted(name for name in names if name.lower().endswith(_FOREIGN))
    if foreign:
        return f"{shorten(foreign[0])}: is no form h2q loads; fetch the safetensors version"
    what = "holds a config.json but no weights" if "config.json" in names else "holds no model"
    return f"{shorten(where, 160)}: {what}; it needs config.json and *.safetensors, or one .gguf"


def _inspect_safetensors(where: str, names: list[str]) -> ModelFacts:
    if "adapter_config.json" in names and "config.json" not in names:
        raise ModelRefused(
            "adapter_config.json: this is an adapter, not a model; merge it into its base model "
            "and give that directory"
        )
    if "config.json" not in names:
        raise ModelRefused(f"{shorten(where, 160)}: config.json is missing; fetch the model again")
    inside(where, "config.json")
    config = read_object(os.path.join(where, "config.json"), "config.json")
    model_type, notes = check_config(config, "config.json")
    notes += check_side_files(where, names, model_type)
    shards = _shard_names(where, names)
    tensors: list[TensorFacts] = []
    files = []
    for index, name in enumerate(shards):
        path = inside(where, name)
        files.append(ShardFacts(path, regular_size(path, name)))
        tensors += read_header(path, name, index)
    _check_tensors(where, names, tensors, shards)
    skipped = [name for name in names if name.lower().endswith((*_PICKLES, ".gguf"))]
    if skipped:
        notes.append(f"{shorten(sorted(skipped)[0])} was left alone; the safetensors are used")
    return ModelFacts(
        path=where,
        kind="safetensors",
        model_type=model_type,
        config_json=json.dumps(config),
        shards=tuple(files),
        tensors=tuple(tensors),
        stored_dtype=_commonest(tensors),
        has_tokenizer=any(name in names for name in TOKENIZERS),
        notes=tuple(notes),
        has_processor=any(name in names for name in PROCESSORS),
    )


def _shard_names(where: str, names: list[str]) -> list[str]:
    """The weight files, each a plain name in this directory."""
    if _INDEX not in names:
        if "model.safetensors" in names:
            return ["model.safetensors"]
        found = sorted(name for name in names if name.endswith(".safetensors"))
        if len(found) == 1:
            return found
        raise ModelRefused(f"{_INDEX}: is missing, and there are {len(found)} weight files")
    inside(where, _INDEX)
    index = read_object(os.path.join(where, _INDEX), _INDEX, max_bytes=64 * MIB)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelRefused(f"{_INDEX}: weight_map is missing or empty; fetch the model again")
    for key, name in weight_map.items():
        field = f"{_INDEX}: weight_map[{shorten(key)!r}]"
        if not isinstance(name, str) or name != os.path.basename(name) or name in ("", ".", ".."):
            raise ModelRefused(f"{field} points outside the directory; fetch the model again")
        if not name.endswith(".safetensors"):
            raise ModelRefused(f"{field} is {shorten(name)!r}, not a safetensors file; convert it")
        if name not in names:
            raise ModelRefused(f"{field} names {shorten(name)}, which is missing; fetch it again")
    shards = sorted(set(weight_map.values()))
    if len(shards) > _MAX_SHARDS:
        raise ModelRefused(f"{_INDEX}: weight_map names {len(shards)} files, which no model has")
    return shards


def _check_tensors(
    where: str, names: list[str], tensors: list[TensorFacts], shards: list[str]
) -> None:
    owner: dict[str, int] = {}
    for tensor in tensors:
        shard = shards[tensor.shard]
        if tensor.name in owner:
            raise ModelRefused(f"{shard}: tensor {shorten(tensor.name)!r} is in two files")
        owner[tensor.name] = tensor.shard
        if tensor.dtype.startswith("F8"):
            raise ModelRefused(
                f"{shard}: tensor {shorten(tensor.name)!r}, dtype is {tensor.dtype}; fp8 weights "
                "are not loaded by this version, fetch the bf16 version"
            )
    if not tensors:
        raise ModelRefused(f"{shards[0]}: holds no tensors; fetch it again")
    if _INDEX in names:
        index = read_object(os.path.join(where, _INDEX), _INDEX, max_bytes=64 * MIB)
        for key, name in index["weight_map"].items():
            if key not in owner or shards[owner[key]] != name:
                raise ModelRefused(f"{name}: lacks tensor {shorten(key)!r}, which {_INDEX} lists")


def _commonest(tensors: list[TensorFacts]) -> str:
    weight: Counter[str] = Counter()
    for tensor in tensors:
        weight[tensor.dtype] += tensor.n_bytes
    floats = [dtype for dtype, _ in weight.most_common() if dtype in FLOAT_DTYPES]
    return floats[0] if floats else weight.most_common(1)[0][0]


def _inspect_gguf(path: str) -> ModelFacts:
    where, name = os.path.split(path)
    inside(where, name)
    header = read_gguf(path, name)
    weight: Counter[str] = Counter()
    for tensor in header.tensors:
        weight[tensor.dtype] += tensor.n_bytes
    return ModelFacts(
        path=where,
        kind="gguf",
        model_type=header.architecture,
        config_json="{}",
        shards=(ShardFacts(path, os.path.getsize(path)),),
        tensors=header.tensors,
        stored_dtype=weight.most_common(1)[0][0],
        has_tokenizer="tokenizer.ggml.tokens" in header.metadata,
    )
