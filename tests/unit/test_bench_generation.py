"""A model is asked as the settings say, and every token has its time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from h2q_notebook.bench.generation import (
    ModelGenerator,
    Sampling,
    default_threads,
    sampling_of,
    use_threads,
)
from h2q_notebook.errors import BadArgument
from h2q_notebook.load.loader import MemorySafeModelLoader
from h2q_notebook.units import GIB
from tests.support import tiny_models as tiny

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
ASK = {"system": None, "seed": 0, "on_token": lambda n: None}


@pytest.fixture(scope="module")
def adder() -> Any:
    return MemorySafeModelLoader().load("h2q://tiny-deepseek", budget_bytes=GIB)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    where: Path = tmp_path_factory.mktemp("untrained")
    tiny.save_tiny("llama_tied", where)
    tiny.save_tokenizer(where)
    return MemorySafeModelLoader().load(where, budget_bytes=GIB)


def ticking(step_s: float = 1.0) -> Iterator[float]:
    return itertools.count(0.0, step_s)


def test_an_answer_has_its_thought_its_end_and_its_times(adder: Any) -> None:
    clock = ticking()
    counted: list[int] = []
    generate = ModelGenerator(adder.model, adder.tokenizer, Sampling(), now=lambda: next(clock))
    made = generate(
        "What is 17 + 25?", system=None, max_new_tokens=64, seed=0, on_token=counted.append
    )
    assert made.text.endswith("</think>\n\nAnswer: 42")
    assert made.opened
    assert made.finish == "stop"
    assert made.prompt.endswith("<think>\n")
    assert counted == list(range(1, made.new_tokens + 1))
    # The clock ticks once when asked, once a token, once at the end.
    assert made.ttft_s == 1.0
    assert made.tpot_s == 1.0
    assert (made.itl_p50_s, made.itl_p95_s) == (1.0, 1.0)
    assert made.end_to_end_s == made.new_tokens + 1


def test_an_answer_that_is_cut_says_so_and_is_no_answer(adder: Any) -> None:
    generate = ModelGenerator(adder.model, adder.tokenizer, Sampling())
    made = generate("What is 17 + 25?", max_new_tokens=5, **ASK)
    assert (made.finish, made.new_tokens) == ("length", 5)
    assert made.opened
    assert "</think>" not in made.text


def test_greedy_is_what_the_model_itself_would_say_greedily(untrained: Any) -> None:
    model, tokenizer = untrained.model, untrained.tokenizer
    model.generation_config.repetition_penalty = 1.7  # a model's own tastes do not count
    generate = ModelGenerator(model, tokenizer, Sampling())
    made = generate("abc", max_new_tokens=12, **ASK)
    ids = tokenizer("abc\n\n", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        for _ in range(12):
            best = model(ids).logits[:, -1].argmax(-1, keepdim=True)
            ids = torch.cat([ids, best], 1)
    assert tokenizer.decode(ids[0, -12:]) == made.text


def test_the_same_seed_gives_the_same_answer_and_leaves_the_users_dice_alone(
    untrained: Any,
) -> None:
    sampling = Sampling(temperature=1.0)
    generate = ModelGenerator(untrained.model, untrained.tokenizer, sampling)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    texts = [
        generate("abc", system=None, max_new_tokens=12, seed=seed, on_token=lambda n: None).text
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]
    assert torch.equal(torch.rand(3), expected)


def test_a_model_without_a_template_gets_plain_text(untrained: Any, adder: Any) -> None:
    plain = ModelGenerator(untrained.model, untrained.tokenizer, Sampling())
    assert not plain.has_template
    assert plain.render("hello", "be brief") == "be brief\n\nhello\n\n"
    assert ModelGenerator(adder.model, adder.tokenizer, Sampling()).has_template


def test_a_thought_is_opened_for_a_model_that_should_think_and_only_once(
    untrained: Any, adder: Any
) -> None:
    thinking = sampling_of("r1")
    once = ModelGenerator(adder.model, adder.tokenizer, thinking).render("hi", None)
    assert once.count("<think>") == 1
    untrained.tokenizer.chat_template = "{{ messages[0]['content'] }}|"
    try:
        generate = ModelGenerator(untrained.model, untrained.tokenizer, thinking)
        assert generate.render("hi", None) == "hi|<think>\n"
    finally:
        untrained.tokenizer.chat_template = None


def test_what_cannot_be_asked_is_one_sentence(adder: Any) -> None:
    with pytest.raises(BadArgument, match="has no tokenizer"):
        ModelGenerator(adder.model, None, Sampling())
    with pytest.raises(BadArgument, match="Linear writes no text"):
        ModelGenerator(torch.nn.Linear(1, 1), adder.tokenizer, Sampling())


def test_a_prompt_longer_than_the_context_is_told_and_a_long_one_is_cut_short(adder: Any) -> None:
    generate = ModelGenerator(adder.model, adder.tokenizer, Sampling())
    with pytest.raises(BadArgument, match=r"the prompt has \d+ tokens, the model's context 128"):
        generate("1" * 200, max_new_tokens=5, **ASK)
    made = generate("1" * 100, max_new_tokens=500, **ASK)
    assert made.prompt_tokens + made.new_tokens <= 128


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"samples": 0}, "--samples: 0 is outside 1 to 1000"),
        ({"samples": 3}, "3 greedy answers would all be the same; give --temperature"),
        ({"temperature": -1.0}, "--temperature: -1 is outside"),
        ({"temperature": float("nan")}, "--temperature: nan is outside"),
        ({"top_p": 0.0}, "--top-p: 0 is outside"),
        ({"max_new_tokens": 0}, "--max-new-tokens: 0 is outside"),
        ({"seed": -1}, "--seed: -1 is outside"),
        ({"preset": "r11"}, "no preset 'r11'; did you mean r1"),
    ],
)
def test_settings_out_of_range_are_named(given: dict[str, Any], says: str) -> None:
    preset = given.pop("preset", None)
    with pytest.raises(BadArgument, match=says):
        sampling_of(preset, **given)


def test_a_preset_can_be_changed_in_part() -> None:
    sampling = sampling_of("r1", samples=4, seed=None)
    assert (sampling.temperature, sampling.top_p, sampling.samples) == (0.6, 0.95, 4)
    assert sampling_of(None) == Sampling()


def test_threads_are_lent_and_given_back() -> None:
    before, seen = torch.get_num_threads(), []

    def fail() -> None:
        with use_threads(1):
            seen.append(torch.get_num_threads())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert seen == [1]
    assert torch.get_num_threads() == before


def test_no_more_threads_than_idle_processors_and_never_none() -> None:
    assert default_threads(0.0) == default_threads(-0.3) == 1
    assert default_threads(1.2) == 1
    assert 1 <= default_threads(1000.0) <= torch.get_num_threads()
