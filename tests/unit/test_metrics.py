"""Metrics are read by OpenMetrics' own parser, say nothing of anybody, and are written whole."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from h2q_notebook.config.settings import MemorySafeConfig
from h2q_notebook.notebook.exporting import TextfileExport
from h2q_notebook.readings.figures import Figures
from h2q_notebook.views.metrics import openmetrics

parser = pytest.importorskip("prometheus_client.openmetrics.parser")
TOLD = Figures(
    used_bytes=5 << 20, limit_bytes=1 << 30, state="warned", n_models=1, model_bytes=77,
    cells={"ok": 3, "overrun": 1, "/home/secret": 2}, events={"warn": 4},
)  # fmt: skip


def samples(text: str) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_parser_of_openmetrics_reads_every_figure() -> None:
    found = samples(openmetrics({"a": TOLD, "b": Figures(1, 2, "calm")}, {"out_of_memory": 2}))
    assert found["h2q_kernel_used_bytes", "a"] == 5 << 20
    assert found["h2q_kernel_limit_bytes", "a"] == 1 << 30
    assert found["h2q_kernel_limit_bytes", "b"] == 2
    assert found["h2q_kernel_state", "a", "warned"] == 1
    assert found["h2q_kernel_state", "a", "calm"] == 0
    assert found["h2q_cells_total", "a", "ok"] == 3
    assert found["h2q_cells_total", "a", "other"] == 2
    assert found["h2q_events_total", "a", "warn"] == 4
    assert found["h2q_kernel_deaths_total", "out_of_memory"] == 2


def test_no_kernel_at_all_is_sound_text_too() -> None:
    assert samples(openmetrics({}, {})) == {}


def test_labels_are_a_closed_set() -> None:
    assert "secret" not in openmetrics({"a": TOLD})
    bare = samples(openmetrics({"a": Figures(0, 0, "calm")}))
    assert set(samples(openmetrics({"a": TOLD}))) == set(bare)
    quoted = openmetrics({'a"} 1\nevil{x="': Figures(0, 0, "calm")})
    assert ("h2q_models", "a1evilx") in samples(quoted)


def test_the_file_is_whole_its_owners_alone_and_written_when_it_is_time(tmp_path: Path) -> None:
    path = tmp_path / "h2q.prom"
    config = MemorySafeConfig(metrics_textfile=str(path), metrics_interval_s=10)
    figures = [Figures(n, 10, "calm") for n in range(5)]
    export = TextfileExport(lambda: config, lambda: figures.pop(0), lambda text: None, "k1")
    for now_s, used in ((100.0, 0), (105.0, 0), (110.0, 1), (121.0, 2)):
        export.poll(now_s)
        assert samples(path.read_text())["h2q_kernel_used_bytes", "k1"] == used
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["h2q.prom"]


def test_kernels_with_the_same_settings_can_write_files_of_their_own(tmp_path: Path) -> None:
    config = MemorySafeConfig(metrics_textfile=str(tmp_path / "h2q-{kernel_id}.prom"))
    for kernel_id in ("k1", "k2"):
        TextfileExport(lambda: config, lambda: TOLD, lambda text: None, kernel_id).poll(100.0)
    assert sorted(os.listdir(tmp_path)) == ["h2q-k1.prom", "h2q-k2.prom"]


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "h2q.prom"
    config = MemorySafeConfig(metrics_textfile=str(path), metrics_interval_s=1)
    export = TextfileExport(lambda: config, lambda: TOLD, lambda text: None)
    over = threading.Event()

    def write() -> None:
        now_s = 0.0
        while not over.is_set():
            now_s += 2.0
            export.poll(now_s)

    export.poll(0.0)
    writer = threading.Thread(target=write)
    writer.start()
    try:
        texts = {path.read_text() for _ in range(500)}
    finally:
        over.set()
        writer.join()
    assert texts == {openmetrics({"": TOLD})}


def test_a_file_that_cannot_be_written_is_told_once(tmp_path: Path) -> None:
    config = MemorySafeConfig(metrics_textfile=str(tmp_path / "absent" / "h2q.prom"))
    said: list[str] = []
    export = TextfileExport(lambda: config, lambda: TOLD, said.append)
    for now_s in (0.0, 100.0, 200.0):
        export.poll(now_s)
    assert len(said) == 1
    assert "cannot be written: No such file or directory" in said[0]


def test_without_the_setting_nothing_is_written() -> None:
    asked: list[int] = []
    export = TextfileExport(MemorySafeConfig, lambda: asked.append(1) or TOLD, lambda text: None)
    export.poll(100.0)
    assert asked == []
