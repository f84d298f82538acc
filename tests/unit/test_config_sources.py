"""Where settings come from, which wins, and that a wrong layer is refused whole."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from traitlets import TraitError
from traitlets.config import Config

from h2q_notebook.config.reload import ConfigFile, has_writer
from h2q_notebook.config.sources import (
    LAYERS,
    config_path,
    parse_toml,
    read_environment,
    read_file,
    settle,
)
from h2q_notebook.config.traits import H2Q, configured
from h2q_notebook.errors import BadArgument


def test_the_stronger_layer_wins_and_is_named() -> None:
    layers = {layer: {"history_length": 10 + at} for at, layer in enumerate(LAYERS)}
    for at in range(len(LAYERS), 0, -1):
        settled = settle({layer: layers[layer] for layer in LAYERS[:at]})
        assert settled.config.history_length == 9 + at
        assert settled.origins == {"history_length": LAYERS[at - 1]}
    assert settle({}).origins == {}


def test_layers_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(BadArgument, match=r"^warn_at: "):
        settle({"file": {"warn_at": 0.85}, "environment": {"clean_at": 0.82}})


@pytest.mark.parametrize(
    ("variable", "text", "name", "value"),
    [
        ("H2Q_MAX_MEMORY_MB", "2048", "max_memory_mb", 2048.0),
        ("H2Q_MAX_MEMORY_MB", "none", "max_memory_mb", None),
        ("H2Q_ENABLE_STRICT_MODE", "on", "enable_strict_mode", True),
        ("H2Q_GAUGE", "off", "gauge", "off"),
        ("H2Q_HISTORY_LENGTH", "7", "history_length", 7),
        ("H2Q_DATA_DIR", "/x", "data_dir", "/x"),
    ],
)
def test_the_environment_is_read(variable: str, text: str, name: str, value: Any) -> None:
    assert read_environment({variable: text, "H2Q_CACHE_DIR": "/c"}) == {name: value}


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("H2Q_MAX_MEMORY_MB", "lots"),
        ("H2Q_ENABLE_STRICT_MODE", "maybe"),
        ("H2Q_HISTORY_LENGTH", "1.5"),
    ],
)
def test_a_wrong_variable_is_named(variable: str, text: str) -> None:
    with pytest.raises(BadArgument, match=f"^{variable}: "):
        read_environment({variable: text})


@pytest.mark.parametrize(
    "text",
    ["max_memory_mb = 2048\nwarn_at = 0.75\n", "[h2q]\nmax_memory_mb = 2048\nwarn_at = 0.75\n"],
)
def test_a_file_may_have_a_table_or_none(text: str) -> None:
    assert parse_toml(text, "f") == {"max_memory_mb": 2048, "warn_at": 0.75}
    assert parse_toml('max_memory_mb = "none"\n', "f") == {"max_memory_mb": None}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("warn_at = ", "f: is not TOML"),
        ("h2q = 3", "f: h2q must be a table"),
        ("warn_at = 7", "f: warn_at: 7 is outside 0.1 to 1"),
        ("wran_at = 0.8", "f: wran_at: no such setting; did you mean warn_at"),
    ],
)
def test_a_wrong_file_is_named_with_its_field(text: str, says: str) -> None:
    with pytest.raises(BadArgument, match=says):
        parse_toml(text, "f")


def test_a_file_that_others_may_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "h2q.toml"
    assert read_file(path) is None
    path.write_text("warn_at = 0.8\n")
    path.chmod(0o620)
    with pytest.raises(BadArgument, match=r"others may write it; run: chmod go-w h2q.toml"):
        read_file(path)
    path.chmod(0o600)
    assert read_file(path) == "warn_at = 0.8\n"
    if os.getuid() == 0:
        os.chown(path, 12345, 12345)
        with pytest.raises(BadArgument, match="belongs to somebody else"):
            read_file(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(BadArgument, match="no regular file"):
        read_file(path)


def test_the_file_is_where_jupyter_keeps_its_settings(tmp_path: Path) -> None:
    assert config_path({"H2Q_CONFIG": str(tmp_path / "x.toml")}) == tmp_path / "x.toml"
    assert config_path({}).name == "h2q.toml"


OLD = "warn_at = 0.75\nclean_at = 0.85\n"
NEW = "warn_at = 0.60\nrelease_at = 0.50\nclean_at = 0.95\nhistory_length = 5\n"


def followed(path: Path, **more: Any) -> ConfigFile:
    path.write_text(OLD)
    path.chmod(0o600)
    file = ConfigFile(path, **more)
    assert file.first() == {"warn_at": 0.75, "clean_at": 0.85}
    assert file.poll(0.0) is None
    return file


def settled_change(file: ConfigFile, now_s: float = 100.0) -> Any:
    """What comes of a change once it has rested."""
    assert file.poll(now_s) is None
    return file.poll(now_s + 1.0)


def test_a_change_is_taken_whole_once_it_has_rested(tmp_path: Path) -> None:
    file = followed(tmp_path / "h2q.toml")
    file.path.write_text(NEW)
    assert file.poll(1.0) is None
    assert file.poll(1.2) is None
    change = file.poll(1.6)
    assert change is not None
    assert change.values == {
        "warn_at": 0.60, "release_at": 0.50, "clean_at": 0.95, "history_length": 5,
    }  # fmt: skip
    assert file.poll(9.0) is None


def test_a_half_written_file_is_never_taken_at_any_byte(tmp_path: Path) -> None:
    file = followed(tmp_path / "h2q.toml")
    blob = NEW.encode()
    now_s = 1.0
    with open(file.path, "wb", buffering=0) as writer:  # as an editor that writes in place
        for at in range(len(blob)):
            writer.write(blob[at : at + 1])
            for wait_s in (0.0, 0.6, 5.0):  # however long it dawdles
                now_s += wait_s
                change = file.poll(now_s)
                assert change is None or change.values is None
    change = file.poll(now_s + 10)  # the writer has gone, and the file had rested
    assert change is not None
    assert change.values is not None
    assert change.values["history_length"] == 5


def test_where_leases_are_not_told_resting_and_the_last_line_still_guard(tmp_path: Path) -> None:
    file = followed(tmp_path / "h2q.toml", being_written=lambda path: False)
    now_s = 1.0
    for at in range(len(NEW)):
        file.path.write_text(NEW[:at])
        now_s += 0.3  # a writer that is still at it
        assert file.poll(now_s) is None
    file.path.write_text(NEW[:-3])
    change = settled_change(file)
    assert change.values is None
    assert "its last line has no end" in change.why


def test_a_wrong_file_keeps_the_old_settings_says_why_once_and_is_forgiven(tmp_path: Path) -> None:
    file = followed(tmp_path / "h2q.toml")
    file.path.write_text("warn_at = 12\n")
    change = settled_change(file)
    assert change.values is None
    assert "the settings stay as they were" in change.why
    assert "warn_at: 12 is outside" in change.why
    assert file.poll(200.0) is None
    file.path.write_text(NEW)
    assert settled_change(file, 300.0).values is not None


def test_a_file_that_vanishes_leaves_the_defaults_and_may_come_back(tmp_path: Path) -> None:
    file = followed(tmp_path / "h2q.toml")
    file.path.unlink()
    change = settled_change(file)
    assert (change.values, "has gone" in change.why) == ({}, True)
    file.path.write_text(NEW)
    file.path.chmod(0o600)
    assert settled_change(file, 300.0).values["clean_at"] == 0.95


@pytest.mark.skipif(os.uname().sysname != "Linux", reason="leases are Linux's")
def test_a_writer_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("x")
    assert not has_writer(path)
    with open(path, "a"):
        assert has_writer(path)
    assert not has_writer(path)
    assert not has_writer(tmp_path / "absent")


def test_traits_have_the_same_ranges_and_keep_the_old_value(tmp_path: Path) -> None:
    changes: list[tuple[str, Any]] = []
    config = Config()
    config.H2Q.history_length = 5
    traits = H2Q(lambda name, value: changes.append((name, value)), config=config)
    assert configured(traits) == {"history_length": 5}
    traits.warn_at = 0.75
    assert changes == [("warn_at", 0.75)]
    with pytest.raises(TraitError, match=r"^warn_at: 7 is outside 0.1 to 1"):
        traits.warn_at = 7
    assert traits.warn_at == 0.75
