"""A model as a function from a question to an answer, under a working budget."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from h2q_notebook.bench.extract import split_thoughts
from h2q_notebook.bench.generation import ModelGenerator, Sampling
from h2q_notebook.errors import MemoryBudgetExceeded
from h2q_notebook.units import format_bytes

__all__ = ["TextPipeline"]

_CHECK_EVERY_TOKENS = 8


class TextPipeline:
    """Answers questions; ``pipeline("What is 17 + 25?")``.

    Args:
        model: a causal language model of transformers.
        tokenizer: its.
        working_bytes: what one answer may take on top of what is held when it begins.
        read_used: reads the use of this process, in bytes.
    """

    def __init__(
        self, model: Any, tokenizer: Any, working_bytes: int, read_used: Callable[[], int]
    ) -> None:
        self._model, self._tokenizer = model, tokenizer
        self.working_bytes = working_bytes
        self._read_used = read_used
        ModelGenerator(model, tokenizer, Sampling())  # refuses what cannot be asked

    def __call__(
        self,
        question: str,
        *,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        seed: int = 0,
        thoughts: bool = False,
    ) -> str:
        """Answer once.

        Args:
            question: the user's message.
            max_new_tokens: where the answer is cut.
            temperature: 0 is greedy.
            seed: of the dice, where there are any.
            thoughts: leave the model's thoughts in the answer.

        Returns:
            The answer; "" where the model did not finish its thought.

        Raises:
            BadArgument: a value outside its range, or a question longer than the context.
            MemoryBudgetExceeded: the answer took more than the working budget.
        """
        generate = ModelGenerator(self._model, self._tokenizer, Sampling(temperature=temperature))
        limit = self._read_used() + self.working_bytes

        def check(n_tokens: int) -> None:
            over = self._read_used() - limit if n_tokens % _CHECK_EVERY_TOKENS == 1 else 0
            if over > 0:
                raise MemoryBudgetExceeded(
                    f"the answer went {format_bytes(over)} over its working budget of "
                    f"{format_bytes(self.working_bytes)}, after {n_tokens} tokens"
                )

        made = generate(
            question, system=None, max_new_tokens=max_new_tokens, seed=seed, on_token=check
        )
        if thoughts:
            return made.text
        return split_thoughts(made.text, opened=made.opened).text.strip()
