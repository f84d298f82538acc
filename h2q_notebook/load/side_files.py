"""The files beside the weights, under suspicion: tokenizer, processor and generation settings.

transformers reads them after the weights are in. Here they are looked at before: sound JSON, inside
the directory, no code of their own, no class that is neither tokenizer nor processor (transformers
looks any name up among all its classes, models included), no path that leads elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from h2q_notebook.errors import ModelRefused
from h2q_notebook.load.config_check import check_class_name, knows_model_type
from h2q_notebook.load.safe_json import inside, read_object, regular_size
from h2q_notebook.units import MIB, format_bytes, shorten

__all__ = ["PROCESSORS", "TOKENIZERS", "check_side_files"]

TOKENIZERS = (
    "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json", "spiece.model",
    "sentencepiece.bpe.model", "tiktoken.model",
)  # fmt: skip
"""A directory with one of these has a tokenizer."""

PROCESSORS = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
"""A directory with one of these has a processor, an image processor or a feature extractor."""

_SETTINGS = (
    "tokenizer_config.json", "generation_config.json", "special_tokens_map.json",
    "added_tokens.json", "chat_template.json", *PROCESSORS,
)  # fmt: skip
_PLAIN = (*TOKENIZERS, "merges.txt", "source.spm", "target.spm", "chat_template.jinja")
_TEMPLATES = "additional_chat_templates"
_MAX_DEPTH = 24
_MAX_SETTINGS_BYTES = 64 * MIB
_MAX_PLAIN_BYTES = 1024 * MIB  # thirty times the largest public tokenizer.json

_CODE = {
    "trust_remote_code": "wants code to be run",
    "custom_generate": "wants code to be run",
    "custom_pipelines": "wants code to be run",
}


def check_side_files(where: str, names: list[str], model_type: str) -> list[str]:
    """Look through every file but config and weights that transformers would read.

    Args:
        where: the directory.
        names: what it holds.
        model_type: as config.json says.

    Returns:
        Notes for the user.

    Raises:
        ModelRefused: a file is unsound, leads elsewhere or wants code to be run.
    """
    notes: list[str] = []
    for name in _SETTINGS:
        if name in names:
            path = inside(where, name)
            data = read_object(path, name, max_bytes=_MAX_SETTINGS_BYTES)
            notes += _check_settings(name, data, model_type)
    for name in _PLAIN:
        if name in names:
            _check_plain(inside(where, name), name)
    if _TEMPLATES in names:
        _check_templates(where)
    return notes


def _check_settings(name: str, data: dict[str, Any], model_type: str) -> list[str]:
    notes: list[str] = []
    for trail, key, value in _walk(data, name):
        if key in _CODE and value:
            raise ModelRefused(f"{trail} {_CODE[key]}; remove the field")
        if key == "auto_map":
            if not knows_model_type(model_type):
                raise ModelRefused(f"{trail} wants code to be run; remove the field")
            notes.append(f"{trail} was ignored")
        check_class_name(trail, key, value)
        if key == "fast_tokenizer_files" and isinstance(value, list):
            for one in value:
                if not isinstance(one, str) or one != os.path.basename(one):
                    raise ModelRefused(f"{trail} points outside the directory; remove the field")
        if key.endswith("_file") and isinstance(value, str):
            _check_path(trail, value)
    return notes


def _check_path(trail: str, value: str) -> None:
    """A path that leads to something elsewhere; one that leads nowhere is an old leftover."""
    if value != os.path.basename(value) and "\0" not in value and os.path.lexists(value):
        raise ModelRefused(
            f"{trail} names {shorten(value)!r}, which is outside the directory; remove the field"
        )


def _walk(node: Any, trail: str, depth: int = 0) -> Iterator[tuple[str, str, Any]]:
    """Every key of every nested object with its value."""
    if depth > _MAX_DEPTH:
        raise ModelRefused(f"{shorten(trail, 160)}: is nested too deeply to be genuine")
    if isinstance(node, dict):
        for key, value in node.items():
            where = f"{trail}: {shorten(key)}" if depth == 0 else f"{trail}.{shorten(key)}"
            yield where, key, value
            yield from _walk(value, where, depth + 1)
    elif isinstance(node, list):
        for value in node:
            if isinstance(value, (dict, list)):
                yield from _walk(value, trail, depth + 1)


def _check_plain(path: str, name: str) -> None:
    size = regular_size(path, name)
    if size > _MAX_PLAIN_BYTES:
        raise ModelRefused(
            f"{name}: has {format_bytes(size)}, and no tokenizer has more than "
            f"{format_bytes(_MAX_PLAIN_BYTES)}; fetch the model again"
        )


def _check_templates(where: str) -> None:
    """The folder of further chat templates: its own, with plain files only."""
    folder = inside(where, _TEMPLATES)
    if not os.path.isdir(folder):
        return
    for name in sorted(os.listdir(folder)):
        if name.endswith(".jinja"):
            label = f"{_TEMPLATES}/{name}"
            _check_plain(inside(where, label), label)
