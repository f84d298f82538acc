"""The key/value cache by formula: what a model keeps for every token it has seen.

The same figures that ``compute`` counts, in no time, for the two layouts nearly all language models
have: keys and values of each key head, or DeepSeek's compressed latent (arXiv 2405.04434, section
2.1). A sliding window is not taken off: until the next token comes, the whole prompt is still held.
"""

from __future__ import annotations

from typing import Any

__all__ = ["bytes_per_token", "size_of"]


def bytes_per_token(config: Any, item_bytes: int) -> int:
    """Bytes of cache for one token of one prompt.

    Args:
        config: of transformers; of a composite model, its text part counts.
        item_bytes: of the dtype that is computed in.

    Returns:
        0 for models that keep none (encoders), and for layouts this does not know (DeepSeek V4).
    """
    text = _text(config)
    if not size_of(text, "vocab_size") or str(text.model_type) == "deepseek_v4":
        return 0
    encoder_decoder = bool(getattr(config, "is_encoder_decoder", False))
    if not encoder_decoder and _is_encoder(config):
        return 0
    layers = size_of(text, "num_decoder_layers", "decoder_layers", "num_hidden_layers", "n_layer")
    latent = size_of(text, "kv_lora_rank")
    # transformers keeps the latent for DeepSeek; elsewhere it may expand it again.
    if latent and str(text.model_type).startswith("deepseek"):
        indexer = size_of(text, "index_head_dim") if size_of(text, "index_topk") else 0
        return layers * (latent + size_of(text, "qk_rope_head_dim") + indexer) * item_bytes
    heads = size_of(text, "num_attention_heads", "num_heads", "n_head", default=1)
    width = size_of(text, "hidden_size", "d_model", "n_embd")
    head_dim = size_of(text, "head_dim", "d_kv") or width // heads
    kv_heads = size_of(text, "num_key_value_heads", default=heads)
    return layers * 2 * kv_heads * head_dim * item_bytes


def size_of(config: Any, *names: str, default: int = 0) -> int:
    """The first of some fields that is a whole number."""
    for name in names:
        value = getattr(config, name, None)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return default


def _text(config: Any) -> Any:
    try:
        return config.get_text_config(decoder=True)
    except (AttributeError, ValueError):
        return config


def _is_encoder(config: Any) -> bool:
    from transformers.models.auto import modeling_auto

    names: Any = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if config.model_type not in names:
        return True
    # BERT and its kin are in that table too, and decode only where the config says so.
    decodes = getattr(config, "is_decoder", None)
    masked: Any = modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return config.model_type in masked and not decodes
