"""Writes the figures of README.md between its markers, from the JSON of the benchmarks.

    python -m benchmarks.readme_figures            rewrite README.md
    python -m benchmarks.readme_figures --check    exit 1 if README.md says something else

Only what a file in ``results`` says is written; a benchmark that has not run has no line. Each
line names the command that measured it.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import gate_page
from benchmarks.machine import RESULTS
from h2q_notebook.config.settings import MemorySafeConfig

README = Path(__file__).resolve().parents[1] / "README.md"
SETTINGS = README.parent / "docs" / "settings.md"
GATE = README.parent / "docs" / "gate.md"
ISOLATION = README.parent / "docs" / "isolate.md"
LARGE_OVERSHOOT_MIB = 64
_ISOLATION = "`--isolate`"
# What bounds a cell that overshoots beside the gate, by the start of its name.
_REMEDIES = {
    "SIGURG ignored": f"{_ISOLATION}; the cell switched the stop off",
    "pa:": f"`--gate wide`, or {_ISOLATION}",
    "pd.get_dummies": f"{_ISOLATION}; it fills at once what `calloc` gave",
    "print flood": f"{_ISOLATION}; the output waits in the kernel's queue",
}
Rows = Iterator[tuple[str, str]]


def block(name: str, text: str) -> str:
    """*text* between the markers called *name*."""
    return f"<!-- {name}: begin -->\n{text}\n<!-- {name}: end -->"


def _read(results: Path, name: str) -> dict[str, Any] | None:
    path = results / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _adversarial(data: dict[str, Any]) -> Rows:
    attacks, undone = data["adversarial"], data["stopped_and_undone"]
    yield "adversarial cells (budget 400 MiB) in a real kernel", str(attacks)
    yield "… stopped and rolled back, as they should be", str(undone)
    yield "… after which the kernel was lost", str(data["dead_kernels"])
    failed = ", ".join(data["failed"]) or "none"
    yield "cells that did not do what the table expects", failed
    yield "heavy innocent cells / stopped by mistake", f"{data['innocent']} / {data['false_stops']}"
    yield (
        "overshoot, median of the cells stopped while growing",
        f"{data['overshoot_mib_median_of_stopped']:g} MiB",
    )
    yield "from over the limit to the cell's end, median", f"{data['stop_latency_ms_median']:g} ms"


def _overruns(data: dict[str, Any]) -> Rows:
    yield (
        "overruns in a row in one kernel: deaths, lost replies",
        f"{data['count']}: {data['dead']}, {data['lost_replies']}",
    )
    yield "… change of memory held over the last 80", f"{data['rss_anon_change_mib']:.1f} MiB"


def _overhead(data: dict[str, Any]) -> Rows:
    load, empty = data["load_ext"], data["empty_cell"]
    watcher, busy = data["watcher"], data["busy_cell"]
    yield (
        "`%load_ext h2q`, median",
        f"{load['seconds_median']} s, {load['rss_anon_mb_median']} MB",
    )
    yield "a guarded empty cell on top of a bare one, median", f"{empty['extra_ms_median']} ms"
    yield "the watcher process", f"{watcher['cpu_percent_of_a_core']} % of a core"
    low, high = busy["cpu_percent_quartiles"][0], busy["cpu_percent_quartiles"][2]
    yield (
        "a CPU-bound cell's own CPU time, guarded against bare",
        f"{busy['cpu_percent_median']:+} % (quartiles {low:+} to {high:+})",
    )


def _gauge_paint(data: dict[str, Any]) -> Rows:
    yield (
        "gauge: from the decision to show to the page, busy kernel, median warm",
        f"{data['warm_median_ms']:.0f} ms (first {data['first_ms']:.0f} ms)",
    )


def _us(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _refuse_cost(data: dict[str, Any]) -> Rows:
    for name, cost in data["costs"].items():
        if name in ("np.empty(1000)", "transformer step, width 64", "transformer step, width 512"):
            figure = f"{_us(cost['off_us'])} → {_us(cost['on_us'])} µs"
            yield f"{name}, bare → guarded without the gate", figure


def _loading(data: dict[str, Any]) -> Rows:
    for label, case in data["cases"].items():
        theirs, ours, mapped = (case[way] for way in ("transformers", "h2q", "h2q mapped"))
        yield (
            f"load of {label}: peak by the model's size, h2q / transformers",
            f"{ours['peak_over_model']:.2f}x / {theirs['peak_over_model']:.2f}x",
        )
        yield (
            "… peak over what remains in memory; time to the first answer by transformers'",
            f"{ours['peak_over_resident']:.3f}x; {ours['time_of_transformers']:.2f}x "
            f"(mapped {mapped['time_of_transformers']:.2f}x)",
        )


def _estimates(data: dict[str, Any]) -> Rows:
    rows = [row for model in data["models"] for row in model["rows"]]
    for what in ("load", "run"):
        errors = [row[f"{what}_error"] for row in rows]
        yield (
            f"estimate of a {what}'s peak against the measured one, {len(rows)} cases",
            f"{min(errors):+.1%} to {max(errors):+.1%}",
        )
    published = data["published"]
    exact = sum(not row["difference"] for row in published)
    slowest = max(row["structure_s"] for row in published[1:])
    yield "published models counted exactly from a config alone", f"{exact} of {len(published)}"
    yield "… time for each, DeepSeek-V3 671B among them, at most", f"{slowest:g} s"


def _budgets(data: dict[str, Any]) -> Rows:
    rows = data["rows"]
    loaded = [row for row in rows if row["rung"]]
    worst = max(row["peak_bytes"] - row["budget_bytes"] for row in loaded) / 2**20
    yield (
        "1 GB models under budgets of 105 to 20 %: loaded and generating / refused",
        f"{sum(row['generated'] == 8 for row in loaded)} / {len(rows) - len(loaded)}",
    )
    yield "… highest peak beside its budget", f"{worst:+.0f} MiB"
    if "swapped_out_bytes" in data:
        none = "" if data["machine"]["swap_total_bytes"] else " (the machine has no swap)"
        yield "… written to swap meanwhile", f"{data['swapped_out_bytes'] / 2**20:.0f} MiB{none}"


def _gate_faults(data: dict[str, Any]) -> Rows:
    yield (
        "compiled gate, memory refused on purpose: operations / runs / crashes",
        f"{data['operations']} / {data['runs']} / {data['crashes_or_hangs']}",
    )


def _isolated(data: dict[str, Any]) -> Rows:
    yield (
        "hostile cells with `--isolate`: kernels lost",
        f"{data['attacks']}: {data['lost_kernels']}",
    )
    failed = ", ".join(data["failed"]) or "none"
    yield "… that did not leave the kernel as it was, or came back wrong", failed
    yield "… highest peak of a worker beside its budget", f"{data['past_budget_mib_worst']:+} MiB"
    yield (
        "… heavy innocent cells: came back / hold more than their budget once they do",
        f"{data['innocent_passed']} / {len(data['innocent_too_large_to_come_back'])}",
    )


def _gate_overshoot(data: dict[str, Any]) -> Rows:
    off = data["without"]
    peaks = {how: [data[how][name]["peak_mib"] for name in off] for how in ("with", "without")}
    worst = {how: max(found) - data["budget_mib"] for how, found in peaks.items()}
    yield (
        f"{len(off)} cells with one large request, budget {data['budget_mib']} MiB: highest peak "
        "beside it, gate on / off",
        f"{worst['with']:+} / {worst['without']:+} MiB",
    )
    innocent = [row for name, row in data["with"].items() if name not in off]
    yield (
        "… heavy innocent cells with the gate on: passed / stopped or refused",
        f"{sum(row['status'] == 'ok' for row in innocent)} / "
        f"{sum(row['status'] != 'ok' for row in innocent)}",
    )


def _gate_cost(data: dict[str, Any]) -> Rows:
    malloc, arming = data["allocations_ns"]["malloc, 64 bytes"], data["arming"]
    yield (
        "compiled gate: malloc and free of 64 bytes, without it / disarmed / armed",
        f"{malloc['none']:g} / {malloc['disarmed']:g} / {malloc['armed']:g} ns",
    )
    yield "… armed / disarmed once", f"{arming['arm_us']:g} / {arming['disarm_us']:g} µs"
    for name, row in data["work_percent"].items():
        each = [f"{row[how]['median']:+g} % ({row[how]['quartiles'][0]:+g} to "
                f"{row[how]['quartiles'][1]:+g})" for how in ("armed", "noise")]  # fmt: skip
        yield f"… {name}: change of time when armed / when nothing changes", " / ".join(each)


def _train_tiny_deepseek(data: dict[str, Any]) -> Rows:
    yield (
        "h2q://tiny-deepseek: unseen sums that are right",
        f"{data['held_out_right']} of {data['held_out_pairs']}",
    )
    yield "… training it, on one core", f"{data['train_cpu_s']:.0f} s"


def _tiny_load(data: dict[str, Any]) -> Rows:
    first = data["rows"][0]
    yield (
        "… loaded / loaded and has added, once torch is imported, median",
        f"{first['loaded_median_s']:g} s / {first['answered_median_s']:g} s",
    )


def _bench_smollm2(data: dict[str, Any]) -> Rows:
    first = data["runs"][0]
    low, high = first["wilson_95"]
    yield (
        "SmolLM2-135M on h2q-15, greedy: passed (95 % interval)",
        f"{first['passed']} of {first['total']} ({low:.0%} to {high:.0%})",
    )
    same = "the same texts" if data["same_texts"] else "other texts"
    yield "… a second run in a fresh kernel", same
    yield "… tokens/s on one thread", f"{first['tokens_per_s']:g}"


def _bench_overhead(data: dict[str, Any]) -> Rows:
    for model, row in data["models"].items():
        yield (
            f"what the bench costs {model}, table shown: time beside a bare generate",
            f"{row['overhead']:+.1%} at {row['bare_tokens_per_s']:g} tokens/s "
            f"({row['per_answer_ms']:+.1f} ms an answer of {row['new_tokens']} tokens)",
        )


def _system_costs(data: dict[str, Any]) -> Rows:
    yield (
        "%load_ext h2q in a bare kernel: time, memory with its watcher",
        f"{data['load_ext_s']:g} s, {data['load_ext_mib']:g} MiB",
    )
    yield "the guards at rest, of one core", f"{data['rest_share_of_a_core']:.1%}"
    yield "%h2q_start with the embedded model, torch imported", f"{data['startup_s']:g} s"
    yield "%h2q_status with 10 000 names", f"{data['status_s'] * 1000:.0f} ms"


_SOURCES: dict[str, Callable[[dict[str, Any]], Rows]] = {
    "adversarial": _adversarial,
    "overruns": _overruns,
    "overhead": _overhead,
    "gauge_paint": _gauge_paint,
    "refuse_cost": _refuse_cost,
    "loading": _loading,
    "estimates": _estimates,
    "isolated": _isolated,
    "gate_overshoot": _gate_overshoot,
    "gate_faults": _gate_faults,
    "gate_cost": _gate_cost,
    "budgets": _budgets,
    "train_tiny_deepseek": _train_tiny_deepseek,
    "tiny_load": _tiny_load,
    "bench_smollm2": _bench_smollm2,
    "bench_overhead": _bench_overhead,
    "system_costs": _system_costs,
}


def figures(results: Path = RESULTS) -> str:
    """The table of figures."""
    lines = ["| what | measured | command |", "|---|---|---|"]
    for name, rows in _SOURCES.items():
        data = _read(results, name)
        if data is not None:
            lines += [
                f"| {what} | {figure} | `python -m benchmarks.{name}` |"
                for what, figure in rows(data)
            ]
    return "\n".join(lines)


def _remedy(name: str) -> str:
    return next((text for start, text in _REMEDIES.items() if name.startswith(start)), _ISOLATION)


def overshoots(results: Path = RESULTS) -> str:
    """The cells that passed their budget by more than 64 MiB before they were stopped."""
    cells = (_read(results, "adversarial") or {"cells": []})["cells"]
    large = [c for c in cells if c["expect"] != "ok" and c["overshoot_mib"] > LARGE_OVERSHOOT_MIB]
    lines = ["| cell, budget 400 MiB | past the budget | what will bound it |", "|---|---|---|"]
    lines += [
        f"| {c['name']} | +{c['overshoot_mib']} MiB | {_remedy(c['name'])} |"
        for c in sorted(large, key=lambda c: (-c["overshoot_mib"], c["name"]))
    ]
    return "\n".join(lines)


def rungs(results: Path = RESULTS) -> str:
    """What each form of a model holds and costs."""
    data = _read(results, "rung_quality") or {"rungs": {}}
    lines = [
        "| form | in memory | in its file | log-likelihood a token | tokens/s, by bf16 |",
        "|---|---|---|---|---|",
    ]
    for name, row in data["rungs"].items():
        mapped = f"{row['mapped_bytes'] / 2**20:.0f} MiB" if row["mapped_bytes"] else "–"
        lines.append(
            f"| {name} | {row['resident_bytes'] / 2**20:.0f} MiB | {mapped} | "
            f"{-row['nll']:.3f} | {row['tokens_per_s']:g} ({row['speed_of_bf16']:g}x) |"
        )
    return "\n".join(lines)


def settings() -> str:
    """Every setting, its default, its range, and what it is for."""
    lines = ["| setting | default | may be | what it is |", "|---|---|---|---|"]
    for one in dataclasses.fields(MemorySafeConfig):
        default = json.dumps(one.default).replace("null", "none")
        words = one.metadata["range"].words()
        lines.append(f"| `{one.name}` | {default} | {words} | {one.metadata['help']} |")
    return "\n".join(lines)


def rewritten(readme: str, results: Path = RESULTS) -> str:
    """*readme* with its blocks as the results say."""
    blocks = {
        "figures": figures(results),
        "overshoots": overshoots(results),
        "rungs": rungs(results),
    }
    return _with_blocks(readme, blocks, "README.md")


def rewritten_gate(page: str, results: Path = RESULTS) -> str:
    """The page of the gate with its tables as the results say."""
    texts: dict[str, str] = {}
    for name, table, files in (
        ("gate-faults", gate_page.faults, ("gate_faults", "gate_faults_numpy25")),
        ("gate-overshoots", gate_page.overshoots, ("gate_overshoot",)),
        ("gate-costs", gate_page.costs, ("gate_cost",)),
        ("gate-platforms", gate_page.platforms, ("gate_platforms",)),
    ):
        found = [data for file in files if (data := _read(results, file)) is not None]
        if found:
            texts[name] = table(found if name == "gate-faults" else found[0])  # type: ignore[operator]
    return _with_blocks(page, texts, "docs/gate.md")


def isolation_costs(data: dict[str, Any]) -> str:
    """Whole cells in the kernel and in a worker."""
    lines = ["| cell | in the kernel | in a worker |", "|---|---|---|"]
    for name, row in data["cells"].items():
        lines.append(f"| {name} | {row['kernel_s']:.2f} s | {row['worker_s']:.2f} s |")
    return "\n".join(lines)


def rewritten_isolation(page: str, results: Path = RESULTS) -> str:
    """The page of ``--isolate`` with its table as the results say."""
    data = _read(results, "isolate_cost")
    blocks = {} if data is None else {"isolate-costs": isolation_costs(data)}
    return _with_blocks(page, blocks, "docs/isolate.md")


def rewritten_settings(page: str) -> str:
    """The page of settings with its table as the settings are."""
    return _with_blocks(page, {"settings": settings()}, "docs/settings.md")


def _with_blocks(page: str, blocks: dict[str, str], label: str) -> str:
    for name, text in blocks.items():
        old = re.compile(f"<!-- {name}: begin -->.*?<!-- {name}: end -->", re.DOTALL)
        if not old.search(page):
            raise SystemExit(f"{label} has no markers for {name}")
        new = block(name, text)
        page = old.sub(lambda _, new=new: new, page)  # type: ignore[misc]
    return page


def main() -> None:
    pages = (
        (README, rewritten),
        (SETTINGS, rewritten_settings),
        (GATE, rewritten_gate),
        (ISOLATION, rewritten_isolation),
    )
    for path, rewrite in pages:
        text = path.read_text(encoding="utf-8")
        new = rewrite(text)
        if "--check" not in sys.argv:
            path.write_text(new, encoding="utf-8")
        elif text != new:
            raise SystemExit(f"{path.name} is behind; run python -m benchmarks.readme_figures")


if __name__ == "__main__":
    main()
