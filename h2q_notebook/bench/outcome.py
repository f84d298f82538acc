"""What came out of a bench, as frozen data: one answer, one run.

Covers the shape of results and what follows from them by counting. Times are seconds, memory bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from h2q_notebook.bench.stats import pass_at_k, wilson

__all__ = ["BenchRun", "CaseResult", "Tally", "tally_of"]


@dataclass(frozen=True, slots=True)
class CaseResult:
    """One answer to one case."""

    case_id: str
    category: str
    level: int
    sample: int
    """0 for the first answer, up to the number of samples less one."""
    seed: int
    status: str
    """``passed``, ``failed``, ``truncated`` (a thought that never ended) or ``error``."""
    reason: str
    """Why it did not pass."""
    method: str = "none"
    strict: bool = True
    """The answer was marked as such."""
    checks_passed: int = 0
    checks_total: int = 0
    prompt_tokens: int = 0
    new_tokens: int = 0
    finish: str = ""
    """``stop`` (the model ended), ``length`` (it was cut) or ``error``."""
    ttft_s: float | None = None
    """From asking to the first token."""
    tpot_s: float | None = None
    """Between tokens: (end to end - first token) / (tokens - 1)."""
    itl_p50_s: float | None = None
    itl_p95_s: float | None = None
    end_to_end_s: float = 0.0
    cpu_s: float = 0.0
    grade_s: float = 0.0
    peak_bytes: int = 0
    """The highest use above what was held when the case began."""
    peak_is_exact: bool = False
    retained_bytes: int = 0
    """What was held more when it had ended."""
    prompt: str = ""
    completion: str = ""
    fences: Mapping[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether the answer was right."""
        return self.status == "passed"

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> CaseResult:
        """A row of a stored run; fields of later versions are left aside.

        Raises:
            TypeError: a field is missing.
        """
        known = {one.name for one in fields(cls)}
        return cls(**{name: value for name, value in row.items() if name in known})


@dataclass(frozen=True, slots=True)
class Tally:
    """Answers that passed, of those judged."""

    passed: int
    total: int
    n_cases: int
    """Several answers to one case are no independent trials; the cases are."""

    @property
    def rate(self) -> float:
        """0.0 to 1.0; 0 where nothing was judged."""
        return self.passed / self.total if self.total else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's, 95 %, over cases: with many samples each it is on the wide side."""
        return wilson(self.rate * self.n_cases, self.n_cases)


def tally_of(answers: Sequence[CaseResult]) -> Tally:
    """Count answers."""
    n_cases = len({one.case_id for one in answers})
    return Tally(sum(one.passed for one in answers), len(answers), n_cases)


@dataclass(frozen=True, slots=True)
class BenchRun:
    """A run, whole or as far as it came."""

    run_id: str
    path: Path
    """Its directory: ``manifest.json`` and ``cases.jsonl``."""
    status: str
    """``complete``, ``incomplete`` (interrupted, or the kernel was killed) or ``running``."""
    manifest: Mapping[str, Any]
    cases: tuple[CaseResult, ...]
    damaged_lines: int = 0
    """Lines of the file that could not be read; they were put aside, never deleted."""

    @property
    def passed(self) -> int:
        """Answers that passed; with one sample, cases."""
        return sum(case.passed for case in self.cases)

    @property
    def total(self) -> int:
        """Answers judged so far."""
        return len(self.cases)

    @property
    def planned(self) -> int:
        """Answers that the whole run has."""
        return int(self.manifest["suite"]["n_cases"]) * self.samples

    @property
    def samples(self) -> int:
        """Answers asked for each case."""
        return int(self.manifest["sampling"]["samples"])

    @property
    def suite(self) -> str:
        """The suite's name."""
        return str(self.manifest["suite"]["name"])

    def tally(self, category: str | None = None) -> Tally:
        """Of one category, or of all."""
        chosen = [one for one in self.cases if category in (None, one.category)]
        return tally_of(chosen)

    @property
    def categories(self) -> tuple[str, ...]:
        """In the order of their first answer."""
        return tuple(dict.fromkeys(one.category for one in self.cases))

    def scores(self) -> dict[str, float]:
        """For each case the share of its samples that passed."""
        found: dict[str, list[bool]] = {}
        for one in self.cases:
            found.setdefault(one.case_id, []).append(one.passed)
        return {case: sum(marks) / len(marks) for case, marks in found.items()}

    def pass_at(self, k: int) -> float | None:
        """Mean pass@k over the cases; None where a case has fewer than *k* samples."""
        found: dict[str, list[bool]] = {}
        for one in self.cases:
            found.setdefault(one.case_id, []).append(one.passed)
        chances = [pass_at_k(sum(marks), len(marks), k) for marks in found.values()]
        if not chances or any(one is None for one in chances):
            return None
        return sum(one for one in chances if one is not None) / len(chances)

    @property
    def strict_passed(self) -> int:
        """Answers that passed and were marked as such; a lucky last number is not."""
        return sum(case.passed and case.strict for case in self.cases)

    @property
    def tokens_per_s(self) -> float | None:
        """New tokens after the first by the time they took, over all answers."""
        done = [one for one in self.cases if one.tpot_s and one.new_tokens > 1]
        n_tokens = sum(one.new_tokens - 1 for one in done)
        took_s = sum((one.tpot_s or 0.0) * (one.new_tokens - 1) for one in done)
        return n_tokens / took_s if took_s else None

    @property
    def peak_bytes(self) -> int:
        """The highest of its cases."""
        return max((one.peak_bytes for one in self.cases), default=0)
