"""One load in one way, in a process of its own; ``%h2q_bench --load`` starts it.

``python -m h2q_notebook.load.one_load WAY PATH DTYPE BUDGET_BYTES`` prints ``ready``, ``loaded``
and a JSON object, and waits for a line after each but the last, until its standard input ends.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable
from typing import Any

from h2q_notebook.load.skeleton import torch_dtype

__all__ = ["THEIRS", "main"]

THEIRS = ("from_pretrained", "device_map", "accelerate")
"""transformers' plain way; with ``device_map`` and ``max_memory``; accelerate's dispatch. h2q's own
ways are the steps of its ladder."""


def _ours(step: Any, path: str, dtype: str, budget_bytes: int) -> Any:
    from h2q_notebook.load.loader import MemorySafeModelLoader

    loader = MemorySafeModelLoader()
    return loader.load(path, budget_bytes=budget_bytes, dtype=dtype, ladder=(step,)).model


def _torch_dtype(dtype: str) -> Any:
    return "auto" if dtype == "auto" else torch_dtype(dtype)


def _from_pretrained(path: str, dtype: str, budget_bytes: int) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path, dtype=_torch_dtype(dtype))


def _device_map(path: str, dtype: str, budget_bytes: int) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        path,
        dtype=_torch_dtype(dtype),
        device_map="auto",
        max_memory={"cpu": budget_bytes},
        offload_folder=_offload_folder(),
    )


def _accelerate(path: str, dtype: str, budget_bytes: int) -> Any:
    from importlib import import_module

    from transformers import AutoConfig, AutoModelForCausalLM

    accelerate: Any = import_module("accelerate")
    make: Any = AutoModelForCausalLM.from_config

    config = AutoConfig.from_pretrained(path)
    kind = _torch_dtype(dtype)
    with accelerate.init_empty_weights():
        model = make(config, dtype=getattr(config, "dtype", None) if kind == "auto" else kind)
    model.tie_weights()
    return accelerate.load_checkpoint_and_dispatch(
        model,
        path,
        device_map="auto",
        max_memory={"cpu": budget_bytes},
        offload_folder=_offload_folder(),
        dtype=None if kind == "auto" else kind,
    ).eval()


def _offload_folder() -> str:
    import atexit
    import shutil
    import tempfile

    folder = tempfile.mkdtemp(prefix="h2q-ways-")
    atexit.register(shutil.rmtree, folder, True)
    return folder


_WAYS: dict[str, Callable[[str, str, int], Any]] = {
    "from_pretrained": _from_pretrained,
    "device_map": _device_map,
    "accelerate": _accelerate,
}


def main(way: str, path: str, dtype: str, budget_bytes: int) -> None:
    """Load, answer once, tell."""
    import torch
    import transformers
    import transformers.modeling_utils

    logging: Any = transformers.logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    print("ready", flush=True)
    sys.stdin.readline()
    began_s = time.perf_counter()
    if way in _WAYS:
        model = _WAYS[way](path, dtype, budget_bytes)
    else:
        model = _ours(way, path, dtype, budget_bytes)
    loaded_s = time.perf_counter() - began_s
    print("loaded", flush=True)
    sys.stdin.readline()
    again_s = time.perf_counter()
    vocab = model.config.get_text_config().vocab_size
    ids = (torch.arange(16) % vocab).unsqueeze(0)
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits
    took_s = loaded_s + time.perf_counter() - again_s
    digest = hashlib.sha256(logits.float().cpu().contiguous().numpy().tobytes()).hexdigest()
    print(json.dumps({"load_s": loaded_s, "first_answer_s": took_s, "logits": digest}), flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
