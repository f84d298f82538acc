"""The tables of docs/gate.md, from the JSON of the gate's benchmarks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = ["costs", "faults", "overshoots", "platforms"]

Record = dict[str, Any]


def _table(head: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def faults(records: list[Record]) -> str:
    """Injected refusals by group.

    Args:
        records: of ``gate_faults``, one for each environment.
    """
    rows: list[tuple[object, ...]] = []
    for record in records:
        machine = record["machine"]
        rows.append(
            (f"*Python {machine['python']}, numpy {machine['versions']['numpy']}*", *[""] * 5)
        )
        groups: dict[str, list[Record]] = {}
        for key, row in record["rows"].items():
            groups.setdefault(key.split(": ")[0], []).append(row)
        rows += [(name, *_group(found)) for name, found in groups.items()]
    head = ("libraries", "operations", "runs", "requests refused", "granted to others", "crashes")
    return _table(head, rows)


def _group(rows: list[Record]) -> tuple[int, ...]:
    ends = [(end, n) for row in rows for end, n in row["ends"].items()]
    return (
        len(rows),
        sum(n for _, n in ends),
        sum(row["refusals"] for row in rows),
        sum(row["passed"] for row in rows),
        sum(n for end, n in ends if end.startswith(("crash", "hang"))),
    )


def overshoots(record: Record) -> str:
    """Each greedy cell, with the gate and without."""
    budget, rows = record["budget_mib"], []
    for name, bare in record["without"].items():
        gated = record["with"][name]
        above = [f"{one['peak_mib'] - budget:+} MiB" for one in (gated, bare)]
        rows.append((name, f"{gated['peak_mib']} MiB", *above, gated["error"] or gated["status"]))
    head = (
        f"cell, budget {budget} MiB",
        "peak",
        "beside the budget",
        "without the gate",
        "ends in",
    )
    return _table(head, rows)


def costs(record: Record) -> str:
    """What it costs where nothing is refused."""
    rows: list[tuple[object, ...]] = [
        (name, f"{one['none']:g} ns", f"{one['disarmed']:g} ns", f"{one['armed']:g} ns")
        for name, one in record["allocations_ns"].items()
    ]
    arming = record["arming"]
    for words, key in (("arm", "arm_us"), ("disarm", "disarm_us"), ("one refusal", "refusal_us")):
        rows.append((words, "", "", f"{arming[key]:g} µs"))
    for name, one in record["work_percent"].items():
        told = [
            f"{each['median']:+g} % ({each['quartiles'][0]:+g} to {each['quartiles'][1]:+g})"
            for each in (one["noise"], one["armed"])
        ]
        rows.append((f"{name}: change of time, median of pairs (quartiles)", told[0], "", told[1]))
    return _table(("", "without the gate", "disarmed", "armed"), rows)


def platforms(record: Record) -> str:
    """Where the gate's own tests were run, and the wheels."""
    rows: list[tuple[object, ...]] = []
    for name, one in record["platforms"].items():
        if "python" not in one:
            continue  # there was no such Python
        where = f"{one['machine']}{', emulated' if one['emulated'] else ''}"
        for test in one.get("tests", [one]):
            rows.append(
                (name, one["python"], where, one["glibc"], test.get("numpy", ""), _counts(test))
            )
    for name, one in record["wheels"].items():
        works = "the gate works from it" if one.get("gate_works") else one.get("reason", "no")
        where = f"{one['machine']}, {one.get('compiler', '')}"
        rows.append((name, one.get("python", ""), where, "", "", f"{one.get('tag', '')}: {works}"))
    return _table(("platform", "Python", "machine", "glibc", "numpy", "the gate's tests"), rows)


def _counts(test: Record) -> str:
    if "passed" not in test:
        return str(test.get("reason", "not run"))
    failed = test["failed"] + test["errors"]
    return f"{test['passed']} passed, {failed} failed, {test['skipped']} skipped"
