"""Suites: cases as data, read from TOML or JSON, each with its grader and its own proof.

Covers reading and checking a suite and its version hash. A case carries a reference answer that
must pass and near misses that must fail, so that a grader can be tested without any model.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any

from h2q_notebook.config.toml import read_toml
from h2q_notebook.errors import BadArgument
from h2q_notebook.units import shorten

__all__ = ["RAISES", "Case", "Grader", "Suite", "built_in_suites", "load_suite", "parse_suite"]

_MAX_FILE_BYTES = 16 << 20
RAISES = re.compile(r"raises ([A-Za-z]\w*)")
_KINDS = ("calls", "check", "number", "text")


@dataclass(frozen=True, slots=True)
class Grader:
    """How an answer is judged."""

    kind: str
    """``calls``: expressions over the generated code and their values; ``check``: a function of
    the suite that is given the generated one; ``number``: the answer is this number; ``text``: the
    answer is one of these."""
    entry: str = ""
    """The name the generated code must define."""
    calls: tuple[tuple[str, str], ...] = ()
    """Expression and expected value, both as Python source; the value is a literal, or
    ``raises ValueError``."""
    forbids: tuple[str, ...] = ()
    """Names the generated code may not use."""
    check: str = ""
    """Source that defines ``check(candidate)``."""
    preamble: str = ""
    """Source that the check needs, and that generated code may use."""
    number: float | int | None = None
    accepted: tuple[str, ...] = ()
    cpu_s: float = 4.0


@dataclass(frozen=True, slots=True)
class Case:
    """One task."""

    id: str
    category: str
    level: int
    prompt: str
    grader: Grader
    reference: str = ""
    """An answer that passes: source for code, else the text a model might write."""
    near_misses: tuple[str, ...] = ()
    """Answers that look right and must fail."""


@dataclass(frozen=True, slots=True)
class Suite:
    """Cases and the words around them."""

    name: str
    version: str
    description: str
    templates: Mapping[str, str]
    """For each category the prompt's frame, with ``{prompt}`` and, if wanted, ``{entry}``."""
    cases: tuple[Case, ...]
    max_new_tokens: int = 256
    system: str | None = None
    """A system message; None leaves the model's own."""
    hash: str = field(default="", compare=False)
    """sha256 of everything above: results of different hashes are not comparable."""

    def ask(self, case: Case) -> str:
        """The user's message for a case."""
        frame = self.templates.get(case.category, "{prompt}")
        return frame.replace("{entry}", case.grader.entry).replace("{prompt}", case.prompt)

    @property
    def categories(self) -> tuple[str, ...]:
        """In the order of their first case."""
        return tuple(dict.fromkeys(case.category for case in self.cases))


def built_in_suites() -> tuple[str, ...]:
    """The names of the suites that come with h2q."""
    files = resources.files("h2q_notebook.bench").joinpath("suites").iterdir()
    return tuple(sorted(one.name.removesuffix(".toml") for one in files))


def load_suite(name: str) -> Suite:
    """A suite that comes with h2q, ``humaneval``, or a file of your own.

    Args:
        name: ``h2q-15``, ``addition-20``, ``humaneval``, or a path that ends in .toml or .json.

    Raises:
        BadArgument: no such suite, or its file is wrong; the sentence names file and field.
        MissingExtra: ``humaneval`` without the package that carries its tasks.
    """
    if name == "humaneval":
        from h2q_notebook.bench.humaneval import load_humaneval

        return load_humaneval()
    if name in built_in_suites():
        text = resources.files("h2q_notebook.bench").joinpath("suites", f"{name}.toml").read_text()
        return parse_suite(_toml(text, name), name)
    path = Path(name).expanduser()
    if path.suffix not in (".toml", ".json"):
        known = (*built_in_suites(), "humaneval")
        near = get_close_matches(name, known, 1, 0.4)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        raise BadArgument(
            f"--suite: no suite {shorten(name)!r}; {hint} (or a .toml or .json file of your own)"
        )
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise BadArgument(f"--suite: {shorten(name)!r} is larger than 16 MiB")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not UTF-8"
        raise BadArgument(f"--suite: {shorten(name)!r} cannot be read: {why}") from None
    return parse_suite(_toml(text, name) if path.suffix == ".toml" else _json(text, name), name)


def _toml(text: str, label: str) -> Any:
    return read_toml(text, f"--suite: {shorten(label)!r}")


def _json(text: str, label: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadArgument(f"--suite: {shorten(label)!r} is not JSON: {error}") from None


# -- checking ----------------------------------------------------------------------------------


class _Fields:
    """Reads the fields of one table and names the one that is wrong."""

    def __init__(self, table: Any, where: str) -> None:
        self._where = where
        if not isinstance(table, dict):
            raise self.wrong("", "must be a table")
        self._table, self._read = table, set[str]()

    def wrong(self, name: str, what: str) -> BadArgument:
        at = f"{self._where}: {name}" if name else self._where
        return BadArgument(f"--suite: {shorten(at, 160)} {what}")

    def text(self, name: str, default: str | None = None) -> str:
        value = self._get(name, default)
        if not isinstance(value, str):
            raise self.wrong(name, "must be a text")
        return value

    def number(self, name: str, default: float | None, low: float, high: float) -> Any:
        value = self._get(name, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.wrong(name, "must be a number")
        if not low <= value <= high:
            raise self.wrong(name, f"must be from {low:g} to {high:g}, not {value!r}")
        return value

    def whole(self, name: str, default: int | None, low: int, high: int) -> int:
        value = self.number(name, default, low, high)
        if not isinstance(value, int):
            raise self.wrong(name, "must be a whole number")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        value = self._get(name, [])
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise self.wrong(name, "must be a list of texts")
        return tuple(value)

    def any(self, name: str, default: Any = None) -> Any:
        return self._get(name, default)

    def finish(self) -> None:
        strange = sorted(set(self._table) - self._read)
        if strange:
            near = get_close_matches(strange[0], self._read, 1, 0.6)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise self.wrong(strange[0], f"is not a field{hint}")

    def _get(self, name: str, default: Any) -> Any:
        self._read.add(name)
        value = self._table.get(name, default)
        if value is None and default is None and name not in _OPTIONAL:
            raise self.wrong(name, "is missing")
        return value


_OPTIONAL = {"system", "templates", "case"}


def parse_suite(data: Any, label: str) -> Suite:
    """A suite from the tables of a file, every field checked.

    Args:
        data: what the TOML or JSON file holds.
        label: the file's name, for errors.

    Raises:
        BadArgument: names the field that is wrong.
    """
    top = _Fields(data, label)
    templates = top.any("templates") or {}
    if not isinstance(templates, dict) or not all(
        isinstance(frame, str) and "{prompt}" in frame for frame in templates.values()
    ):
        raise top.wrong("templates", "must be texts that contain {prompt}")
    tables = top.any("case")
    if not isinstance(tables, list) or not tables:
        raise top.wrong("case", "must be a list with at least one case")
    cases = tuple(_case(table, f"{label}: case {at}") for at, table in enumerate(tables, 1))
    seen: set[str] = set()
    for case in cases:
        if case.id in seen:
            raise top.wrong("case", f"has two of id {shorten(case.id)!r}")
        seen.add(case.id)
    system = top.any("system")
    if system is not None and not isinstance(system, str):
        raise top.wrong("system", "must be a text")
    suite: dict[str, Any] = {
        "name": top.text("name"),
        "version": top.text("version"),
        "description": top.text("description", ""),
        "templates": dict(templates),
        "cases": cases,
        "max_new_tokens": top.whole("max_new_tokens", 256, 1, 1 << 20),
        "system": system,
    }
    top.finish()
    return Suite(**suite, hash=_hash(suite))


def _hash(suite: dict[str, Any]) -> str:
    plain = {**suite, "cases": [asdict(case) for case in suite["cases"]]}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _case(table: Any, where: str) -> Case:
    fields = _Fields(table, where)
    case = Case(
        id=fields.text("id"),
        category=fields.text("category"),
        level=fields.whole("level", 1, 1, 5),
        prompt=fields.text("prompt"),
        grader=_grader(fields),
        reference=fields.text("reference", ""),
        near_misses=fields.texts("near_misses"),
    )
    fields.finish()
    return case


def _grader(fields: _Fields) -> Grader:
    kind = fields.text("grader")
    if kind not in _KINDS:
        raise fields.wrong("grader", f"must be one of {', '.join(_KINDS)}, not {shorten(kind)!r}")
    if kind == "number":
        return Grader(kind, number=fields.number("expected", None, -1e300, 1e300))
    if kind == "text":
        accepted = fields.texts("expected")
        if not accepted:
            raise fields.wrong("expected", "must be a list of at least one text")
        return Grader(kind, accepted=accepted)
    entry = fields.text("entry")
    if not entry.isidentifier():
        raise fields.wrong("entry", "must be a name")
    more: dict[str, Any] = {
        "entry": entry,
        "cpu_s": float(fields.number("cpu_s", 4.0, 0.1, 600)),
        "preamble": fields.text("preamble", ""),
        "forbids": fields.texts("forbids"),
    }
    if kind == "check":
        return Grader(kind, check=_source(fields, "check", "exec"), **more)
    return Grader(kind, calls=_calls(fields), **more)


def _calls(fields: _Fields) -> tuple[tuple[str, str], ...]:
    pairs = fields.any("calls")
    if not isinstance(pairs, list) or not pairs:
        raise fields.wrong("calls", "must be a list of [expression, value]")
    found = []
    for pair in pairs:
        if not _is_pair(pair):
            raise fields.wrong("calls", "must be a list of [expression, value], both texts")
        expression, value = pair
        try:
            ast.parse(expression, mode="eval")
            if not RAISES.fullmatch(value):
                ast.literal_eval(value)
        except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
            what = f"has {shorten(str(pair))}, where one part is not Python or no literal"
            raise fields.wrong("calls", what) from None
        found.append((expression, value))
    return tuple(found)


def _is_pair(pair: Any) -> bool:
    return (
        isinstance(pair, Sequence)
        and not isinstance(pair, str)
        and len(pair) == 2
        and all(isinstance(one, str) for one in pair)
    )


def _source(fields: _Fields, name: str, mode: str) -> str:
    text = fields.text(name)
    try:
        ast.parse(text, mode=mode)
    except (SyntaxError, ValueError):
        raise fields.wrong(name, "is not Python") from None
    return text
