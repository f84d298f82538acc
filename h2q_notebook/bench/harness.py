"""The fenced process: runs generated code, or a suite's own check of it, and answers questions.

Started as ``python -I -S -B harness.py ROOT`` with an empty environment. One JSON object a line
comes in and one goes out. It never learns what is expected: it returns values, and the parent
compares. Code that takes over this process can therefore lie about nothing but its own answers.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

if __name__ == "__main__":
    sys.path.append(sys.argv[1])

from h2q_notebook.bench import fences, wire

if __name__ == "__main__":
    sys.path.remove(sys.argv[1])

__all__ = ["main"]

# Imported before the fences, as their C parts read files that are closed afterwards.
_WARM = (
    "array", "bisect", "calendar", "cmath", "collections", "copy", "dataclasses", "datetime",
    "decimal", "enum", "fractions", "functools", "hashlib", "heapq", "itertools", "json", "math",
    "numbers", "operator", "queue", "random", "re", "statistics", "string", "struct", "textwrap",
    "threading", "time", "typing", "unicodedata", "zlib",
)  # fmt: skip
_MAX_ERROR = 300


class _Line:
    """The two ends of the conversation, moved out of the way of ``print`` and ``input``."""

    def __init__(self) -> None:
        self._in = os.fdopen(os.dup(0), "r", encoding="utf-8")
        self._out = os.dup(1)
        nothing = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(nothing, fd)
        os.close(nothing)

    def hear(self) -> dict[str, Any]:
        text = self._in.readline()
        if not text:
            os._exit(0)  # the parent is gone
        return dict(json.loads(text))

    def say(self, **message: Any) -> None:
        blob = json.dumps(message, ensure_ascii=True).encode() + b"\n"
        while blob:
            blob = blob[os.write(self._out, blob) :]


def _told(error: BaseException) -> str:
    """An error in a line; its own ``__str__`` may be hostile or broken."""
    try:
        text = str(error)
    except BaseException:
        text = "?"
    return f"{type(error).__name__}: {text}"[:_MAX_ERROR]


def _attempt(do: Callable[[], Any]) -> dict[str, Any]:
    try:
        return {"value": wire.encode(do())}
    except wire.WireError as error:
        return {"error": f"the value {error}"}
    except BaseException as error:  # SystemExit and the like are a wrong answer too
        return {"error": _told(error)}


def _run(code: str, names: dict[str, Any]) -> dict[str, Any]:
    def run() -> None:
        exec(compile(code, "<generated>", "exec", dont_inherit=True), names)

    return _attempt(run)


def _answer(asked: dict[str, Any], names: dict[str, Any]) -> dict[str, Any]:
    """One question about the generated code."""
    if "run" in asked:
        return _run(asked["run"], names)
    if "eval" in asked:
        text = asked["eval"]
        return _attempt(lambda: eval(compile(text, "<test>", "eval", dont_inherit=True), names))
    called, args, kwargs = (wire.decode(part) for part in asked["call"])
    return _attempt(lambda: names[called](*args, **kwargs))


def _check(asked: dict[str, Any], line: _Line) -> None:
    """Run a suite's own check; what it calls is answered from the other process."""

    def candidate(*args: Any, **kwargs: Any) -> Any:
        line.say(call=[wire.encode(asked["entry"]), wire.encode(args), wire.encode(kwargs)])
        reply = line.hear()
        if "error" in reply:
            raise RuntimeError(reply["error"])
        return wire.decode(reply["value"])

    names: dict[str, Any] = {"__name__": "check"}
    outcome = _run(asked["preamble"], names)
    names[asked["entry"]] = candidate
    if "error" not in outcome:
        outcome = _run(asked["check"], names)
    if "error" not in outcome:
        outcome = _attempt(lambda: names["check"](candidate))
    line.say(error=outcome.get("error"))


def main() -> None:
    """Raise the fences, tell which hold, then answer until the parent hangs up."""
    line = _Line()
    asked = line.hear()
    for name in _WARM:
        import_module(name)
    folders = {os.path.dirname(os.__file__), os.path.dirname(os.path.dirname(json.__file__))}
    held = fences.raise_fences(
        asked["cpu_s"], asked["memory_bytes"], sorted(folders), asked["fences"]
    )
    line.say(fences=held)
    names: dict[str, Any] = {"__name__": "generated"}
    while True:
        asked = line.hear()
        if "check" in asked:
            _check(asked, line)
        else:
            line.say(**_answer(asked, names))


if __name__ == "__main__":
    main()
