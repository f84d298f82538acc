"""Small models of the real architectures, with random weights: a few hundred kB each."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

KINDS = (
    "llama_tied", "llama_untied", "qwen2_tied", "qwen2_untied",
    "deepseek_v2", "deepseek_v3", "deepseek_v32", "deepseek_v4",
)  # fmt: skip


def _dense(config_class: type, tied: bool, **more: Any) -> Any:
    return config_class(
        vocab_size=256, hidden_size=64, intermediate_size=160, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
        tie_word_embeddings=tied, **more,
    )  # fmt: skip


def _mla(config_class: type, **more: Any) -> Any:
    return config_class(
        vocab_size=256, hidden_size=64, intermediate_size=128, moe_intermediate_size=32,
        num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=4, n_shared_experts=1,
        n_routed_experts=8, num_experts_per_tok=2, kv_lora_rank=16, qk_rope_head_dim=8,
        qk_nope_head_dim=16, v_head_dim=16, first_k_dense_replace=1, max_position_embeddings=256,
        tie_word_embeddings=False, **more,
    )  # fmt: skip


def _v4(config_class: type) -> Any:
    return config_class(
        vocab_size=256, hidden_size=64, moe_intermediate_size=32, num_hidden_layers=4,
        num_attention_heads=4, head_dim=16, qk_rope_head_dim=8, q_lora_rank=32, n_routed_experts=8,
        num_experts_per_tok=2, num_hash_layers=1, compress_ratios=[0, 4, 128, 4], o_groups=2,
        o_lora_rank=16, index_n_heads=2, index_head_dim=16, index_topk=4, sliding_window=8,
        max_position_embeddings=256,
    )  # fmt: skip


def config_of(kind: str) -> Any:
    import transformers as tf

    makers = {
        "llama_tied": lambda: _dense(tf.LlamaConfig, True),
        "llama_untied": lambda: _dense(tf.LlamaConfig, False),
        "qwen2_tied": lambda: _dense(tf.Qwen2Config, True),
        "qwen2_untied": lambda: _dense(tf.Qwen2Config, False),
        "deepseek_v2": lambda: _mla(
            tf.DeepseekV2Config, q_lora_rank=None, topk_method="greedy", n_group=1, topk_group=1
        ),
        "deepseek_v3": lambda: _mla(tf.DeepseekV3Config, q_lora_rank=32, n_group=4, topk_group=2),
        "deepseek_v32": lambda: _mla(
            tf.DeepseekV32Config,
            q_lora_rank=32,
            n_group=4,
            topk_group=2,
            index_topk=8,
            index_head_dim=16,
            index_n_heads=2,
        ),
        "deepseek_v4": lambda: _v4(tf.DeepseekV4Config),
    }
    return makers[kind]()


def save_tiny(kind: str, where: Path, *, dtype: str = "bfloat16", shard: str = "5GB") -> Path:
    """Write a random model of *kind* to *where* with the public ``save_pretrained``."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_of(kind), dtype=getattr(torch, dtype))
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.copy_(torch.randn_like(buffer) * 0.01)
    model.save_pretrained(where, max_shard_size=shard)
    return where


def save_dense(where: Path, n_mib: int, dtype: str = "bfloat16") -> Path:
    """A Llama of about *n_mib* MiB in bf16, for tests that look at memory."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    layers = max(1, n_mib // 8)  # about 8 MiB of bf16 each
    config = LlamaConfig(
        vocab_size=512, hidden_size=512, intermediate_size=2048, num_hidden_layers=layers,
        num_attention_heads=8, num_key_value_heads=8, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).to(getattr(torch, dtype)).save_pretrained(where)
    return where


def save_tokenizer(where: Path) -> None:
    """A byte-level tokenizer without merges, so that the directory has one."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(where)


def write_safetensors(path: Path, header: dict[str, Any] | bytes, data: bytes) -> None:
    """A safetensors file with any header at all, sound or not."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def read_header(path: Path) -> tuple[dict[str, Any], bytes]:
    blob = path.read_bytes()
    (length,) = struct.unpack("<Q", blob[:8])
    return json.loads(blob[8 : 8 + length]), blob[8 + length :]


def edit_config(where: Path, **changes: Any) -> None:
    path = where / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))
