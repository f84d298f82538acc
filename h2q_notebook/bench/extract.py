"""The answer in what a model wrote: after its thoughts, its code or its number.

Covers text only. An unfinished thought is no answer: the caller scores it as truncated.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

__all__ = [
    "Answer",
    "Number",
    "code_of",
    "number_of",
    "split_thoughts",
    "text_of",
    "thought_is_open",
]

_THOUGHTS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))
_FENCE = re.compile(r"^[ \t]*```[ \t]*([\w+.-]*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.S | re.M)
_PYTHON = {"", "py", "python", "python3", "py3"}
_NUMBER = r"[-+]?\$?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:\s*/\s*\d+)?"
_BOXED = re.compile(r"\\boxed\{\s*\\?\$?\s*([^{}]*)\}")
_SAID = re.compile(
    r"(?:final\s+)?answer\s*(?:is)?\s*[:=]?\s*[*_`$\\(]*\s*(" + _NUMBER + ")", re.IGNORECASE
)
_HASHES = re.compile(r"####\s*(" + _NUMBER + ")")
_ANY = re.compile(r"(?<![\w.])" + _NUMBER)
_SAID_TEXT = re.compile(r"(?:final\s+)?answer\s*(?:is)?\s*[:=]\s*(.+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said once it had thought."""

    text: str
    thought: bool = False
    truncated: bool = False
    """The thought never ended; ``text`` is empty or what stood before it."""


@dataclass(frozen=True, slots=True)
class Number:
    """A number and where it was found."""

    value: Fraction
    method: str
    """``boxed``, ``answer``, ``hashes`` or ``last``."""

    @property
    def strict(self) -> bool:
        """It was marked as the answer; the last number of a text may be right by luck."""
        return self.method != "last"


def split_thoughts(text: str, *, opened: bool = False) -> Answer:
    """Take the thoughts off.

    Args:
        text: what was generated, thought marks included.
        opened: the prompt ended inside a thought, as R1's templates do; then a text without a
            closing mark is an unfinished thought.
    """
    for opening, closing in _THOUGHTS:
        if closing in text:
            return Answer(text.rsplit(closing, 1)[1].strip("\n"), thought=True)
        if opening in text:
            return Answer(text.split(opening, 1)[0], thought=True, truncated=True)
    return Answer("", thought=True, truncated=True) if opened else Answer(text)


def thought_is_open(prompt: str) -> bool:
    """Whether a rendered prompt ends inside a thought."""
    return any(prompt.rfind(opening) > prompt.rfind(closing) for opening, closing in _THOUGHTS)


def code_of(text: str, entry: str) -> tuple[str, str]:
    """Python source in an answer, and how it was found.

    The first block that defines *entry* is taken (later ones are usually its use), else all Python
    blocks together, else the text from its first statement on.

    Returns:
        Source and ``block``, ``blocks``, ``bare`` or ``none``.
    """
    blocks = [body for label, body in _FENCE.findall(text) if label.lower() in _PYTHON]
    name = re.escape(entry)
    defines = re.compile(
        rf"^[ \t]*(?:(?:async[ \t]+)?def|class)[ \t]+{name}\b|^{name}[ \t]*=", re.M
    )
    for body in blocks:
        if defines.search(body):
            return _dedent(body), "block"
    if blocks:
        return "\n".join(_dedent(body) for body in blocks), "blocks"
    start = re.search(r"^(?:(?:from|import|def|class|async)\b|@).*", text, re.M)
    return (text[start.start() :], "bare") if start else ("", "none")


def _dedent(body: str) -> str:
    import textwrap

    return textwrap.dedent(body.expandtabs(4)) if body[:1] in " \t" else body


def number_of(text: str) -> Number | None:
    """The number a text gives as its answer; None where it has none.

    A boxed one comes first, then one after "Answer:", one after "####", then the last of all. Of
    several of a kind the last counts.
    """
    text = text.replace("−", "-").replace("\\,", "").replace("\\$", "$")
    boxed = [found for inner in _BOXED.findall(text) if (found := _ANY.findall(inner))]
    if boxed:
        return _number(boxed[-1][-1], "boxed")
    for pattern, method in ((_SAID, "answer"), (_HASHES, "hashes"), (_ANY, "last")):
        found = pattern.findall(text)
        if found:
            return _number(found[-1], method)
    return None


def _number(text: str, method: str) -> Number | None:
    cleaned = re.sub(r"[\s,$+]", "", text)
    try:
        return Number(Fraction(cleaned), method)
    except (ValueError, ZeroDivisionError):
        return None


def text_of(text: str) -> tuple[str, str]:
    """A short text given as the answer, and how it was found (``answer`` or ``whole``)."""
    found = _SAID_TEXT.findall(text)
    said, how = (found[-1], "answer") if found else (text, "whole")
    return said.strip().strip("*_`\"'. \n").casefold(), how
