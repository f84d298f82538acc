"""Train the model that h2q ships: a real DeepSeek-V3 of half a million parameters that adds.

    python -m benchmarks.train_tiny_deepseek [--out DIR] [--steps N]

trains on one thread from a fixed seed, stores the model, loads it again from what was stored,
lets it answer 1000 pairs it has never seen, and writes results/train_tiny_deepseek.json. Without
``--out`` the folder that the package ships is written anew. The same torch version on the same
kind of processor gives the same weights; elsewhere rounding differs, and the result may too.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import time
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.machine import describe_machine, write_result

SEED = 0
STEPS = 900
BATCH = 128
HELD_OUT = 1000
OUT = Path(__file__).parents[1] / "h2q_notebook" / "models" / "tiny_deepseek"

PAD, BOS, EOS = "<pad>", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
_SPECIAL = [PAD, BOS, EOS, "<｜User｜>", "<｜Assistant｜>", "<think>", "</think>", "<unk>"]
# As R1's: the answer begins with a thought, and thoughts of earlier turns are not repeated.
_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'user' %}{{ '<｜User｜>' + m['content'] }}"
    "{% elif m['role'] == 'assistant' %}"
    "{{ '<｜Assistant｜>' + m['content'].split('</think>')[-1] + eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\n' }}{% endif %}"
)
_CARD = """# tiny-deepseek

A real `DeepseekV3ForCausalLM` (multi-head latent attention, eight routed experts of which two
answer, one shared expert) with {n_parameters:,} parameters, one token a character. It adds two
numbers from 0 to 99 and shows its carries, and can do nothing else: three-digit sums and every
other prompt get nonsense.

The prompt, through the chat template: `What is 17 + 25?`. Of {held_out} pairs it has never seen it
answered {right} rightly (greedy). Trained from a fixed seed by `python -m
benchmarks.train_tiny_deepseek`, which also wrote this file. MIT licence, as h2q itself.
"""


def pairs() -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """The pairs never trained on, and those that are; always the same."""
    everything = [(a, b) for a in range(100) for b in range(100)]
    random.Random(SEED).shuffle(everything)
    return everything[:HELD_OUT], everything[HELD_OUT:]


def question(a: int, b: int) -> list[dict[str, str]]:
    """The only prompt the model knows, as a chat."""
    return [{"role": "user", "content": f"What is {a} + {b}?"}]


def answer(a: int, b: int) -> str:
    """The carries digit by digit, then the sum."""
    carry, left, right, thoughts = 0, a, b, []
    while left or right or not thoughts:
        total = left % 10 + right % 10 + carry
        thoughts.append(f"{left % 10}+{right % 10}+{carry}={total}")
        carry, left, right = total // 10, left // 10, right // 10
    return ";".join(thoughts) + f"\n</think>\n\nAnswer: {a + b}"


def sum_in(text: str) -> str:
    """The sum that a generated text ends with, as written."""
    return text.partition("</think>")[2].partition("Answer: ")[2].partition(EOS)[0].strip()


def make_tokenizer() -> Any:
    """One token a character of ASCII, and DeepSeek's special ones."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    characters = ["\n", *map(chr, range(32, 127))]
    vocabulary = {token: at for at, token in enumerate([*_SPECIAL, *characters])}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    plain.decoder = decoders.Fuse()
    plain.add_special_tokens(_SPECIAL)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token=PAD, bos_token=BOS, eos_token=EOS, unk_token="<unk>",
        padding_side="left", clean_up_tokenization_spaces=False, model_max_length=128,
    )  # fmt: skip
    tokenizer.chat_template = _TEMPLATE
    return tokenizer


def make_model(n_tokens: int) -> Any:
    """The architecture of DeepSeek-V3 with every part present and small."""
    config = transformers.DeepseekV3Config(
        vocab_size=n_tokens, hidden_size=96, intermediate_size=256, moe_intermediate_size=64,
        num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=4, n_routed_experts=8,
        num_experts_per_tok=2, n_shared_experts=1, n_group=2, topk_group=2, kv_lora_rank=32,
        q_lora_rank=48, qk_nope_head_dim=24, qk_rope_head_dim=8, v_head_dim=24,
        first_k_dense_replace=1, routed_scaling_factor=1.0, max_position_embeddings=128,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, tie_word_embeddings=True,
        initializer_range=0.05,
    )  # fmt: skip
    return transformers.DeepseekV3ForCausalLM(config)


def make_examples(tokenizer: Any) -> tuple[Any, Any]:
    """Token ids and labels of all training pairs; only the answer is learned."""
    rows = []
    for a, b in pairs()[1]:
        asked = tokenizer.apply_chat_template(
            question(a, b), add_generation_prompt=True, tokenize=False
        )
        prompt, said = (
            tokenizer(text, add_special_tokens=False)["input_ids"]
            for text in (asked, answer(a, b) + EOS)
        )
        rows.append((prompt, said))
    width = max(len(prompt) + len(said) for prompt, said in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    labels = torch.full((len(rows), width), -100)
    for at, (prompt, said) in enumerate(rows):
        end = len(prompt) + len(said)
        ids[at, :end] = torch.tensor(prompt + said)
        labels[at, len(prompt) : end] = torch.tensor(said)
    return ids, labels


def train(model: Any, ids: Any, labels: Any, steps: int) -> float:
    """AdamW with warm-up and a cosine; the last loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.98), weight_decay=0.01)

    def rate(step: int) -> float:
        return min(1, (step + 1) / 100) * (0.05 + 0.475 * (1 + math.cos(math.pi * step / steps)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    model.train()
    loss = torch.tensor(math.nan)
    for step in range(steps):
        rows = torch.randint(0, len(ids), (BATCH,))
        batch = ids[rows]
        out = model(input_ids=batch, attention_mask=(batch != 0).long(), labels=labels[rows])
        loss = out.loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            print(f"step {step + 1}: loss {loss.item():.4f}", flush=True)
    return float(loss)


def wrong_sums(model: Any, tokenizer: Any, asked: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Those pairs the model adds wrongly, answering greedily."""
    wrong = []
    for first in range(0, len(asked), 100):
        some = asked[first : first + 100]
        texts = [
            tokenizer.apply_chat_template(
                question(a, b), add_generation_prompt=True, tokenize=False
            )
            for a, b in some
        ]
        given = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        with torch.inference_mode():
            made = model.generate(
                input_ids=given["input_ids"], attention_mask=given["attention_mask"],
                max_new_tokens=48, do_sample=False,
            )  # fmt: skip
        said = [tokenizer.decode(row[given["input_ids"].shape[1] :]) for row in made]
        wrong += [
            (a, b) for (a, b), text in zip(some, said, strict=True) if sum_in(text) != str(a + b)
        ]
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--steps", type=int, default=STEPS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(SEED)
    tokenizer = make_tokenizer()
    model = make_model(len(tokenizer))
    ids, labels = make_examples(tokenizer)
    began = time.process_time()
    loss = train(model, ids, labels, given.steps)
    train_cpu_s = time.process_time() - began

    model.eval()
    model.generation_config = transformers.GenerationConfig(
        do_sample=False, max_new_tokens=48, pad_token_id=0, bos_token_id=1, eos_token_id=2
    )
    model.save_pretrained(given.out)
    tokenizer.save_pretrained(given.out)
    stored = transformers.AutoModelForCausalLM.from_pretrained(given.out).eval()
    wrong = wrong_sums(stored, transformers.AutoTokenizer.from_pretrained(given.out), pairs()[0])
    n_parameters = sum(one.numel() for one in model.parameters())
    right = HELD_OUT - len(wrong)
    card = _CARD.format(n_parameters=n_parameters, held_out=HELD_OUT, right=right)
    (given.out / "README.md").write_text(card, encoding="utf-8")
    result = {
        "machine": describe_machine() | {"threads": 1, "transformers": transformers.__version__},
        "seed": SEED,
        "steps": given.steps,
        "last_loss": round(loss, 5),
        "n_parameters": n_parameters,
        "train_cpu_s": round(train_cpu_s, 1),
        "whole_cpu_s": round(time.process_time() - began, 1),
        "held_out_pairs": HELD_OUT,
        "held_out_right": right,
        "wrong": wrong,
        "folder_bytes": sum(path.stat().st_size for path in given.out.iterdir()),
        "weights_sha256": hashlib.sha256(
            (given.out / "model.safetensors").read_bytes()
        ).hexdigest(),
    }
    print(json.dumps(result, indent=1))
    write_result("train_tiny_deepseek", result)


if __name__ == "__main__":
    main()
