"""Models with random weights in real sizes, for benchmarks of loading.

    python -m benchmarks.models DIR [KIND ...]

writes them to DIR, each once. Random weights take the memory and the time that trained ones take.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["KINDS", "build"]


def _dense() -> Any:
    from transformers import Qwen2Config

    return Qwen2Config(
        vocab_size=32000, hidden_size=1536, intermediate_size=6144, num_hidden_layers=14,
        num_attention_heads=12, num_key_value_heads=2, max_position_embeddings=8192,
        tie_word_embeddings=True,
    )  # fmt: skip


def _v2() -> Any:
    from transformers import DeepseekV2Config

    return DeepseekV2Config(
        vocab_size=32000, hidden_size=1024, intermediate_size=2816, moe_intermediate_size=352,
        num_hidden_layers=8, num_attention_heads=16, num_key_value_heads=16, n_shared_experts=2,
        n_routed_experts=32, routed_scaling_factor=1.0, kv_lora_rank=256, q_lora_rank=None,
        qk_rope_head_dim=32, v_head_dim=64, qk_nope_head_dim=64, topk_method="greedy", n_group=1,
        topk_group=1, num_experts_per_tok=4, first_k_dense_replace=1,
        max_position_embeddings=8192, tie_word_embeddings=False,
    )  # fmt: skip


def _v3() -> Any:
    from transformers import DeepseekV3Config

    return DeepseekV3Config(
        vocab_size=32000, hidden_size=1024, intermediate_size=2816, moe_intermediate_size=512,
        num_hidden_layers=9, num_attention_heads=16, num_key_value_heads=16, n_shared_experts=1,
        n_routed_experts=32, routed_scaling_factor=2.5, kv_lora_rank=256, q_lora_rank=512,
        qk_rope_head_dim=32, v_head_dim=64, qk_nope_head_dim=64, n_group=4, topk_group=2,
        num_experts_per_tok=4, first_k_dense_replace=1, max_position_embeddings=8192,
        tie_word_embeddings=False,
    )  # fmt: skip


def _v32() -> Any:
    from transformers import DeepseekV32Config

    own = _v3().to_dict()
    own.pop("model_type")
    return DeepseekV32Config(**own | {"index_topk": 512, "index_head_dim": 64, "index_n_heads": 8})


KINDS: dict[str, tuple[Callable[[], Any], str, str]] = {
    "dense": (_dense, "bfloat16", "256MB"),
    "dense_fp32": (_dense, "float32", "512MB"),
    "v2": (_v2, "bfloat16", "256MB"),
    "v3": (_v3, "bfloat16", "5GB"),
    "v32": (_v32, "bfloat16", "5GB"),
}
"""Config, dtype and shard size of each."""


def build(kind: str, where: Path) -> Path:
    """Write one model, unless it is there; its folder."""
    import torch
    from transformers import AutoModelForCausalLM

    folder = where / kind
    if (folder / "config.json").exists():
        return folder
    make, dtype, shard = KINDS[kind]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(make(), dtype=getattr(torch, dtype))
    model.save_pretrained(folder, max_shard_size=shard)
    return folder


if __name__ == "__main__":
    for name in sys.argv[2:] or KINDS:
        print(build(name, Path(sys.argv[1])))
