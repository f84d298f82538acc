"""A transformers model as something that answers messages, with the time of every token.

Covers rendering the prompt, sampling settings, decoding and clocks. Which model, and how it was
loaded, is the caller's. The settings of a run are all the model is asked with: its own generation
config gives the tokens that end an answer, nothing else.

Times as NVIDIA's and llmeter's documentation define them: TTFT from asking to the first token, TPOT
(end to end - TTFT) / (tokens - 1), ITL the gaps between tokens.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from typing import Any, Protocol

from h2q_notebook.bench.extract import thought_is_open
from h2q_notebook.bench.stats import quantile
from h2q_notebook.errors import BadArgument
from h2q_notebook.units import shorten

__all__ = [
    "PRESETS", "Generate", "Generation", "ModelGenerator", "Sampling", "default_threads",
    "sampling_of", "use_threads",
]  # fmt: skip

_MAX_NEW_TOKENS = 1 << 20
_THOUGHT_TOKENS = ("<think>", "</think>", "[THINK]", "[/THINK]")


@dataclass(frozen=True, slots=True)
class Sampling:
    """How answers are drawn.

    Raises:
        BadArgument: a value outside its range.
    """

    samples: int = 1
    """Answers to each case (1 to 1000)."""
    temperature: float = 0.0
    """0 is greedy: always the likeliest token (0 to 5)."""
    top_p: float = 1.0
    """Only the likeliest tokens that together have this probability (above 0, to 1)."""
    max_new_tokens: int | None = None
    """Where an answer is cut; None for the suite's."""
    seed: int = 0
    """The first answer's; each further one has the next."""
    force_thought: bool = False
    """Every answer begins inside a thought, also where the chat template does not open one."""
    preset: str | None = None

    def __post_init__(self) -> None:
        self._whole("samples", self.samples, 1, 1000)
        if not 0 <= self.temperature <= 5:
            raise BadArgument(f"--temperature: {self.temperature:g} is outside 0 to 5")
        if not 0 < self.top_p <= 1:
            raise BadArgument(f"--top-p: {self.top_p:g} is outside 0 to 1")
        if self.max_new_tokens is not None:
            self._whole("max-new-tokens", self.max_new_tokens, 1, _MAX_NEW_TOKENS)
        self._whole("seed", self.seed, 0, 2**63 - 1)
        if self.samples > 1 and not self.temperature:
            raise BadArgument(
                f"--samples: {self.samples} greedy answers would all be the same; "
                "give --temperature as well, for example 0.7"
            )

    @staticmethod
    def _whole(name: str, value: int, low: int, high: int) -> None:
        if not low <= value <= high:
            raise BadArgument(f"--{name}: {value} is outside {low} to {high}")

    @property
    def greedy(self) -> bool:
        """Whether nothing is drawn."""
        return not self.temperature

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


PRESETS = {
    "greedy": Sampling(preset="greedy"),
    # What DeepSeek recommends in R1's README: greedy answers of R1 tend to go in circles, and where
    # its template leaves the opening mark to the model, it sometimes skips the thought.
    "r1": Sampling(
        temperature=0.6, top_p=0.95, max_new_tokens=8192, force_thought=True, preset="r1"
    ),
}
"""Named settings; options given beside one are laid over it."""


def sampling_of(preset: str | None, **given: Any) -> Sampling:
    """Settings from a preset and what was given beside it.

    Args:
        preset: one of ``PRESETS``, or None.
        given: fields of ``Sampling``; None leaves the preset's.

    Raises:
        BadArgument: no such preset, or a value outside its range.
    """
    base = Sampling()
    if preset is not None:
        if preset not in PRESETS:
            near = get_close_matches(preset, PRESETS, 1, 0.3)
            hint = f"did you mean {near[0]}? there are" if near else "there are"
            raise BadArgument(
                f"--preset: no preset {shorten(preset)!r}; {hint} {' and '.join(PRESETS)}"
            )
        base = PRESETS[preset]
    return replace(base, **{name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True, slots=True)
class Generation:
    """One answer."""

    text: str
    prompt: str
    """As rendered by the model's chat template."""
    opened: bool
    """The prompt ended inside a thought."""
    prompt_tokens: int
    new_tokens: int
    finish: str
    """``stop`` or ``length``."""
    ttft_s: float | None
    tpot_s: float | None
    itl_p50_s: float | None
    itl_p95_s: float | None
    end_to_end_s: float
    cpu_s: float


class Generate(Protocol):
    """Whatever answers messages."""

    def __call__(
        self,
        message: str,
        *,
        system: str | None,
        max_new_tokens: int,
        seed: int,
        on_token: Callable[[int], None],
    ) -> Generation:
        """Answer *message*; *on_token* is told how many tokens there are."""


class _Clock:
    """A streamer of transformers that notes when tokens came, and how many."""

    def __init__(self, on_token: Callable[[int], None], now: Callable[[], float]) -> None:
        self._on_token = on_token
        self._now = now
        self._asked = False
        self.at_s: list[float] = []

    def put(self, value: Any) -> None:
        if not self._asked:  # the prompt comes first
            self._asked = True
            return
        at_s = self._now()
        self.at_s.extend([at_s] * value.numel())
        self._on_token(len(self.at_s))

    def end(self) -> None:
        """Nothing is held back."""


class ModelGenerator:
    """Answers with a model and its tokenizer.

    Args:
        model: a causal language model of transformers.
        tokenizer: its.
        sampling: how answers are drawn.
        now: a clock in seconds.

    Raises:
        BadArgument: there is no tokenizer, or the model writes no text.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        sampling: Sampling,
        *,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        if tokenizer is None:
            raise BadArgument(
                "the model has no tokenizer, so it can be asked nothing; load one as "
                "<name>_tokenizer beside it"
            )
        if not getattr(model, "can_generate", lambda: False)():
            raise BadArgument(f"{type(model).__name__} writes no text, so it cannot be benched")
        self._model, self._tokenizer, self._sampling, self._now = model, tokenizer, sampling, now
        self.has_template = bool(getattr(tokenizer, "chat_template", None))
        special = set(getattr(tokenizer, "all_special_ids", ()))
        thoughts = {tokenizer.convert_tokens_to_ids(mark) for mark in _THOUGHT_TOKENS}
        unknown = {getattr(tokenizer, "unk_token_id", None)}
        self._hidden = special - (thoughts - unknown)
        self._ends = _end_ids(model, tokenizer)

    def warm_up(self) -> None:
        """Two tokens that nobody counts: the first answer pays for nothing but itself."""
        self("Hi", system=None, max_new_tokens=2, seed=0, on_token=lambda n: None)

    def render(self, message: str, system: str | None) -> str:
        """The prompt as the model gets it; plain text where it has no chat template."""
        if not self.has_template:
            return f"{system}\n\n{message}\n\n" if system else f"{message}\n\n"
        said = [{"role": "system", "content": system}] if system else []
        said.append({"role": "user", "content": message})
        rendered = str(
            self._tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
        )
        if self._sampling.force_thought and not thought_is_open(rendered):
            rendered += f"{_THOUGHT_TOKENS[0]}\n"
        return rendered

    def __call__(
        self,
        message: str,
        *,
        system: str | None,
        max_new_tokens: int,
        seed: int,
        on_token: Callable[[int], None],
    ) -> Generation:
        """Answer once; see ``Generate``.

        Raises:
            BadArgument: the prompt alone is longer than the model's context.
        """
        import torch

        prompt = self.render(message, system)
        encoded = self._tokenizer(
            prompt, return_tensors="pt", add_special_tokens=not self.has_template
        )
        ids = encoded["input_ids"].to(_device(self._model))
        n_prompt = int(ids.shape[1])
        room = self._room(n_prompt, max_new_tokens)
        clock = _Clock(on_token, self._now)
        began_s, cpu_s = self._now(), time.process_time()
        with self._dice(ids.device, seed), torch.inference_mode():
            made = self._model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                generation_config=self._config(room),
                streamer=clock,
            )
        took_s, cpu_s = self._now() - began_s, time.process_time() - cpu_s
        new = made[0, n_prompt:].tolist()
        # A mapped or offloaded model still reads weights in the last step, after the last token.
        end_s = clock.at_s[-1] - began_s if clock.at_s else took_s
        finish = "stop" if new and new[-1] in self._ends else "length"
        shown = [one for one in new if one not in self._hidden and one not in self._ends]
        gaps = [b - a for a, b in zip(clock.at_s, clock.at_s[1:], strict=False)]
        first_s = clock.at_s[0] - began_s if clock.at_s else None
        return Generation(
            text=str(self._tokenizer.decode(shown, skip_special_tokens=False)),
            prompt=prompt,
            opened=thought_is_open(prompt),
            prompt_tokens=n_prompt,
            new_tokens=len(new),
            finish=finish,
            ttft_s=first_s,
            tpot_s=(end_s - first_s) / (len(new) - 1) if first_s and len(new) > 1 else None,
            itl_p50_s=quantile(gaps, 0.5) if gaps else None,
            itl_p95_s=quantile(gaps, 0.95) if gaps else None,
            end_to_end_s=took_s,
            cpu_s=cpu_s,
        )

    @contextmanager
    def _dice(self, device: Any, seed: int) -> Iterator[None]:
        """Dice of one's own, so that the notebook's next draw is what it would have been."""
        import torch

        if self._sampling.greedy:
            yield
            return
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            yield

    def _room(self, n_prompt: int, wanted: int) -> int:
        longest = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        if not isinstance(longest, int) or longest <= 0:
            return wanted
        if n_prompt >= longest:
            raise BadArgument(f"the prompt has {n_prompt} tokens, the model's context {longest}")
        return min(wanted, longest - n_prompt)

    def _config(self, max_new_tokens: int) -> Any:
        from transformers import GenerationConfig

        make: Any = GenerationConfig
        asked = self._sampling
        ends = sorted(self._ends)
        drawn = (
            {"do_sample": False}
            if asked.greedy
            else {
                "do_sample": True,
                "temperature": asked.temperature,
                "top_p": asked.top_p,
                "top_k": 0,
            }
        )
        pad = getattr(self._tokenizer, "pad_token_id", None)
        return make(
            max_new_tokens=max_new_tokens,
            num_beams=1,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
            eos_token_id=ends or None,
            pad_token_id=pad if pad is not None else (ends[0] if ends else None),
            **drawn,
        )


def _end_ids(model: Any, tokenizer: Any) -> set[int]:
    """Tokens that end an answer: the model's own, and its tokenizer's."""
    found: set[int] = set()
    for one in (
        getattr(getattr(model, "generation_config", None), "eos_token_id", None),
        getattr(tokenizer, "eos_token_id", None),
    ):
        found |= set(one) if isinstance(one, (list, tuple)) else {one} if one is not None else set()
    return found


def _device(model: Any) -> Any:
    import torch

    # An offloaded model says meta, and its hooks bring inputs where they are needed.
    return torch.device("cpu") if model.device.type == "meta" else model.device


def default_threads(idle_cores: float) -> int:
    """As many as torch would use, but no more than there are cores, and cores that are idle.

    Where threads wait for a core that somebody else has, a token takes ten times as long: two
    threads on one free core were slower than one, 0.7 against 4 tokens/s.

    Args:
        idle_cores: how many processors nobody uses (``noise.idle_cores``).
    """
    import psutil
    import torch

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = psutil.cpu_count(logical=False) or usable or 1
    return max(1, min(torch.get_num_threads(), cores, usable or 1, round(idle_cores)))


@contextmanager
def use_threads(n_threads: int) -> Iterator[None]:
    """Let torch compute with so many threads, then with as many as before."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
