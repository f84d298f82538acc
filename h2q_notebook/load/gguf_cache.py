"""A GGUF becomes a safetensors directory in h2q's cache, once per dtype; loads start from there.

Values are dequantised tensor by tensor in pieces under the watch, by the ``gguf`` package, and put
in place as transformers' own GGUF loader does (same names, same permutation, so same logits). That
loader takes 16 s for a 98 MB file, nearly all of it walking the vocabulary and rebuilding a name
table; here the vocabulary is left out of what it sees and the table is built once.
Architectures whose GGUF layout needs more than that (fused experts, T5, Mamba) are refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from h2q_notebook.errors import LoadFailed, MissingExtra, ModelRefused
from h2q_notebook.load.config_check import check_config
from h2q_notebook.load.facts import ModelFacts, TensorFacts
from h2q_notebook.load.gguf_header import GGML_TYPES, GgufHeader, read_gguf
from h2q_notebook.load.reading import READ_BYTES
from h2q_notebook.load.skeleton import build_skeleton, import_torch, torch_dtype
from h2q_notebook.load.watch import Watch
from h2q_notebook.places import cache_root
from h2q_notebook.units import MIB, format_bytes, shorten

__all__ = ["Conversion"]

_LAYOUT = "1"  # part of the key: raise it when what is written changes
_SAFETENSORS = {"fp32": "F32", "bf16": "BF16", "fp16": "F16"}
_BLOCKS = {name: (values, n_bytes) for name, values, n_bytes in GGML_TYPES.values()}
_VOCABULARY = ("tokens", "scores", "token_type", "merges")
_PLAIN = ("TensorProcessor", "LlamaTensorProcessor")
_KNOWN = (*_PLAIN, "Gemma2TensorProcessor", "NemotronTensorProcessor")


@dataclass(frozen=True, slots=True)
class _Tell:
    """Whom a conversion asks and tells at every piece."""

    watch: Watch
    on_bytes: Callable[[int], None]


class Conversion:
    """The conversion of one GGUF to one dtype.

    Args:
        facts: the inspected GGUF.
        dtype: ``fp32``, ``bf16`` or ``fp16``.
    """

    def __init__(self, facts: ModelFacts, dtype: str) -> None:
        self._path = Path(facts.shards[0].path)
        self._facts = facts
        self._dtype = dtype
        self._scratch: Path | None = None
        self._item_bytes = 4 if dtype == "fp32" else 2
        self.disk_bytes = facts.n_values * self._item_bytes
        self.target = cache_root() / "gguf" / f"{self._path.stem}-{dtype}-{self._key()}"

    @property
    def ready(self) -> bool:
        """Whether it was done before."""
        return (self.target / "config.json").is_file()

    def preview(self) -> ModelFacts:
        """What the converted directory will be, as a config without weights.

        Raises:
            ModelRefused: the architecture is not one transformers loads from a GGUF.
            MissingExtra: a library is not installed.
        """
        import_torch()
        header = read_gguf(str(self._path), self._path.name)
        with tempfile.TemporaryDirectory(prefix="h2q-") as scratch:
            config, config_json = self._config(header, Path(scratch))
        return replace(_as_model(self._facts, config, config_json), kind="config")

    def run(self, watch: Watch, on_bytes: Callable[[int], None]) -> None:
        """Convert; the target appears whole or not at all.

        Args:
            watch: asked before memory is taken and at every piece.
            on_bytes: told the bytes of each piece written.

        Raises:
            ModelRefused: the architecture or a tensor is not one transformers loads from a GGUF.
            LoadFailed: the disk is too small.
            MissingExtra: the ``gguf`` package is not installed.
        """
        import_torch()
        try:
            import gguf  # noqa: F401
        except ImportError:
            raise MissingExtra("gguf", "models") from None
        home = self.target.parent
        home.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(home).free
        if free < self.disk_bytes + 64 * MIB:
            raise LoadFailed(
                f"{self._path.name}: its converted form needs {format_bytes(self.disk_bytes)} in "
                f"{home}, and {format_bytes(free)} are free; free some or set H2Q_CACHE_DIR"
            )
        scratch = self._scratch = Path(tempfile.mkdtemp(prefix=".converting-", dir=home))
        header = read_gguf(str(self._path), self._path.name)
        config, config_json = self._config(header, scratch)
        tell = _Tell(watch, on_bytes)
        self._write(header, config, config_json, scratch / "model.safetensors", tell)
        if self._facts.has_tokenizer:
            self._tokenizer(config, scratch)
        config.save_pretrained(scratch)
        try:
            os.replace(scratch, self.target)
        except OSError:
            # Another kernel was quicker; its result is as good.
            if not self.ready:
                raise
            self.undo()
        self._scratch = None

    def undo(self) -> None:
        """Leave nothing half-made."""
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = None

    def _key(self) -> str:
        """Changes whenever the file does: its first and last 64 KiB, size and time."""
        info = os.stat(self._path)
        digest = hashlib.sha256(f"{_LAYOUT} {info.st_size} {info.st_mtime_ns}".encode())
        with self._path.open("rb") as file:
            digest.update(file.read(64 << 10))
            file.seek(max(info.st_size - (64 << 10), 0))
            digest.update(file.read())
        return digest.hexdigest()[:16]

    def _config(self, header: GgufHeader, scratch: Path) -> tuple[Any, str]:
        """The config for this file, as transformers makes it, and the same as checked JSON."""
        from transformers import AutoConfig
        from transformers.integrations.gguf.gguf_config_mapping import GGUF_CONFIG_ARCHS
        from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS

        name = self._path.name
        processor = TENSOR_PROCESSORS.get(header.architecture)
        if header.architecture in GGUF_CONFIG_ARCHS or (
            processor is not None and processor.__name__ not in _KNOWN
        ):
            raise ModelRefused(
                f"{name}: general.architecture {shorten(header.architecture)!r} is not one this "
                "version converts; fetch the safetensors version of the model"
            )
        short = scratch / "header.gguf"
        _write_short_header(self._path, header, short)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                config = AutoConfig.from_pretrained(
                    scratch, gguf_file=short.name, trust_remote_code=False, local_files_only=True
                )
        except Exception as error:
            raise ModelRefused(
                f"{name}: transformers cannot read general.architecture "
                f"{shorten(header.architecture)!r} from a GGUF ({shorten(str(error), 160)}); "
                "fetch the safetensors version of the model"
            ) from None
        finally:
            short.unlink()
        tokens = header.metadata.get("tokenizer.ggml.tokens")
        if f"{header.architecture}.vocab_size" not in header.metadata and tokens is not None:
            config.vocab_size = tokens.value
        data = json.loads(config.to_json_string(use_diff=False))
        check_config(data, f"{name} metadata")
        return config, json.dumps(data)

    def _write(
        self, header: GgufHeader, config: Any, config_json: str, path: Path, tell: _Tell
    ) -> None:
        facts = _as_model(self._facts, config, config_json)
        skeleton = build_skeleton(facts, self._dtype)
        config.architectures = [skeleton.model_class.__name__]
        config.dtype = torch_dtype(self._dtype)
        processor = _processor(header.architecture, config)
        names = _name_table(skeleton.model, header.architecture, config, processor)
        jobs = []
        for tensor in header.tensors:
            if tensor.name not in names:
                continue  # as transformers does; what the model needs is checked when it loads
            target, shape = names[tensor.name]
            if tensor.n_values != _count(shape):
                raise ModelRefused(
                    f"{self._path.name}: tensor {shorten(tensor.name)!r} has the shape "
                    f"{list(tensor.shape)}, and its metadata make it {list(shape)}"
                )
            jobs.append((tensor, target, shape))
        with self._path.open("rb") as source, path.open("wb") as sink:
            sink.write(self._header([(target, shape) for _, target, shape in jobs]))
            for tensor, _, _ in jobs:
                self._convert(tensor, source.fileno(), sink, processor, tell)
            sink.flush()
            os.fsync(sink.fileno())

    def _header(self, tensors: list[tuple[str, tuple[int, ...]]]) -> bytes:
        entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        at = 0
        for name, shape in tensors:
            end = at + _count(shape) * self._item_bytes
            entries[name] = {
                "dtype": _SAFETENSORS[self._dtype],
                "shape": list(shape),
                "data_offsets": [at, end],
            }
            at = end
        text = json.dumps(entries).encode()
        text += b" " * (-len(text) % 8)
        return struct.pack("<Q", len(text)) + text

    def _convert(
        self, tensor: TensorFacts, fd: int, sink: Any, processor: Any, tell: _Tell
    ) -> None:
        """Dequantise one tensor into the open file, in pieces where its rows stand alone."""
        import gguf
        import numpy as np
        import torch

        row_values = tensor.shape[-1]
        rows = tensor.n_values // row_values
        per_block, block_bytes = _BLOCKS[tensor.dtype]
        row_bytes = row_values // per_block * block_bytes
        kind = gguf.GGMLQuantizationType[tensor.dtype]
        step = max(1, READ_BYTES // (row_values * 4))
        if not _rows_stand_alone(tensor, processor):
            step = rows
        for first in range(0, rows, step):
            count = min(step, rows - first)
            tell.watch.check()
            # Blocks, values, and about as much again for the dequantiser's temporaries.
            tell.watch.reserve(count * (row_bytes + row_values * 12), f"tensor {tensor.name}")
            blob = os.pread(fd, count * row_bytes, tensor.start + first * row_bytes)
            if len(blob) != count * row_bytes:
                raise ModelRefused(f"{self._path.name}: ended while it was read; fetch it again")
            blocks = np.frombuffer(blob, dtype=np.uint8).reshape(count, row_bytes)
            values = gguf.dequantize(blocks, kind)
            whole = values.reshape(tensor.shape) if step == rows else values
            done = processor.process(
                weights=whole, name=tensor.name, tensor_key_mapping={}, parsed_parameters={}
            ).weights
            plain = torch.from_numpy(np.array(done, order="C", copy=True))
            ready = plain.to(torch_dtype(self._dtype)).contiguous()
            sink.write(ready.view(-1).view(torch.uint8).numpy().data)
            tell.on_bytes(ready.numel() * self._item_bytes)

    def _tokenizer(self, config: Any, scratch: Path) -> None:
        from transformers import TOKENIZER_MAPPING, PreTrainedTokenizerFast

        # AutoTokenizer would parse the whole file once more only to find this class; where a model
        # type has none of its own (Llama) it takes the general one, as here.
        chosen: Any = TOKENIZER_MAPPING.get(type(config), None)
        if isinstance(chosen, (list, tuple)):
            chosen = next((one for one in reversed(chosen) if one is not None), None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tokenizer = (chosen or PreTrainedTokenizerFast).from_pretrained(
                str(self._path.parent), gguf_file=self._path.name, local_files_only=True
            )
            tokenizer.save_pretrained(scratch)


def _write_short_header(path: Path, header: GgufHeader, target: Path) -> None:
    """The same GGUF without its vocabulary and with a hole where its weights are.

    transformers walks every token in Python, three objects each; the config needs none of them.
    """
    kept = [
        entry
        for key, entry in header.metadata.items()
        if key.removeprefix("tokenizer.ggml.") not in _VOCABULARY
    ]
    with path.open("rb") as source, target.open("wb") as sink:
        counts = struct.pack("<IQQ", header.version, len(header.tensors), len(kept))
        sink.write(b"GGUF" + counts)
        spans = [(entry.start, entry.end) for entry in kept]
        for start, end in (*spans, (header.table_start, header.table_end)):
            source.seek(start)
            sink.write(source.read(end - start))
        # The hole costs no disk; one MiB more than needed, whatever the alignment is.
        data_bytes = max(t.end for t in header.tensors) - header.data_start
        sink.truncate(sink.tell() + data_bytes + MIB)


def _as_model(facts: ModelFacts, config: Any, config_json: str) -> ModelFacts:
    return ModelFacts(
        path=facts.path,
        kind="safetensors",
        model_type=str(config.model_type),
        config_json=config_json,
        shards=facts.shards,
        tensors=(),
        stored_dtype=facts.stored_dtype,
        has_tokenizer=facts.has_tokenizer,
    )


def _processor(architecture: str, config: Any) -> Any:
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor

    processor_class: Any = TENSOR_PROCESSORS.get(architecture, TensorProcessor)
    return processor_class(config=config.to_dict())


def _rows_stand_alone(tensor: TensorFacts, processor: Any) -> bool:
    """Whether rows may be dequantised apart: nothing moves or rescales them as a whole."""
    if len(tensor.shape) < 2 or type(processor).__name__ not in _PLAIN:
        return False
    # Llama's rotary halves are interleaved over the rows of these two.
    return ".attn_q." not in tensor.name and ".attn_k." not in tensor.name


def _name_table(
    model: Any, architecture: str, config: Any, processor: Any
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """GGUF name -> the model's name and shape; transformers' rule, with the table built once."""
    import gguf

    arch = next((a for a, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture), None)
    if arch is None:
        raise ModelRefused(
            f"general.architecture {shorten(architecture)!r} is not known to the installed gguf "
            "package; update gguf"
        )
    name_map: Any = gguf.get_tensor_name_map
    table = name_map(arch, config.num_hidden_layers)
    result: dict[str, tuple[str, tuple[int, ...]]] = {}
    for full_name, value in model.state_dict().items():
        name, dot, suffix = processor.preprocess_name(full_name).rpartition(".")
        if suffix not in ("weight", "bias"):
            name, dot, suffix = f"{name}{dot}{suffix}", "", ""
        found = table.get_name(name) or table.get_name(name.partition(".")[2])
        if found is not None:
            result.setdefault(f"{found}{dot}{suffix}", (full_name, tuple(value.shape)))
    return result


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
