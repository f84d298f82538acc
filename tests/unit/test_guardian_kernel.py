"""The whole kernel is warned about, cleaned after and stopped, each in its time."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from h2q_notebook.config.settings import MemorySafeConfig
from h2q_notebook.guardian.events import EventLog
from h2q_notebook.guardian.kernel import KernelGuard
from h2q_notebook.readings.limits import Headroom
from h2q_notebook.units import GIB, MIB


class World:
    """A kernel, a machine, and what was done about them."""

    def __init__(self, **settings: Any) -> None:
        self.used, self.free, self.now_s = 100 * MIB, 64 * GIB, 0.0
        self.garbage = 0
        self.told = self.offered = ""
        self.settings = MemorySafeConfig(**{"max_memory_mb": 1000, **settings})
        self.said: list[str] = []
        self.done: list[str] = []
        self.events = EventLog(
            lambda: self.settings.event_log, lambda: self.settings.event_log_bytes,
            now=lambda: self.now_s,
        )  # fmt: skip
        self.guard = KernelGuard(
            lambda: self.settings, lambda: self.used,
            lambda: Headroom(self.free, 64 * GIB, "machine"), self, self.events,
            clock=lambda: self.now_s,
        )  # fmt: skip

    def say(self, text: str) -> None:
        self.said.append(text)

    def clean(self) -> str:
        self.done.append("clean")
        self.used -= self.garbage
        self.garbage = 0
        self.now_s += 0.1
        return self.told

    def offer(self) -> str:
        return self.offered

    def calm(self) -> None:
        self.done.append("calm")

    def stop(self) -> str:
        self.done.append("stop")
        self.used = 300 * MIB
        return "a thread of yours was ended"

    def at(self, used_mib: float, garbage_mib: int = 0) -> str:
        self.used, self.garbage = int(used_mib * MIB), garbage_mib * MIB
        self.now_s += 0.5
        return self.guard.look().action


def test_a_kernel_that_grows_is_warned_about_once_cleaned_and_stopped() -> None:
    world = World()
    assert [world.at(used) for used in (500, 700, 820, 830)] == ["none", "none", "warn", "none"]
    assert "820 MiB, 82% of its ceiling 1000 MiB (max_memory_mb)" in world.said[0]
    assert world.at(910, garbage_mib=200) == "clean"
    assert len(world.said) == 2 or "collected" in world.events.last()[-1].text
    assert "200 MiB given back" in world.events.last()[-1].text
    assert world.at(1010) == "none"
    assert world.at(1020) == "stop"
    assert (
        "over its ceiling 1000 MiB (max_memory_mb); a thread of yours was ended" in world.said[-1]
    )
    assert world.at(300) == "calm"
    assert [event.kind for event in world.events.last()] == ["warn", "clean", "stop", "calm"]


def test_growth_is_forecast_in_the_warning() -> None:
    world = World(watch_interval_s=0.1)
    for used in range(500, 830, 10):
        world.now_s -= 0.4  # looks every 0.1 s
        world.at(used)
    assert "full in" in world.said[0]


def test_without_a_ceiling_of_its_own_the_machine_less_the_buffer_binds() -> None:
    world = World(max_memory_mb=None, safety_buffer_mb=512)
    world.free = 1536 * MIB
    view = world.guard.view()
    assert (view.limit_bytes, view.source) == (world.used + 1024 * MIB, "machine")
    assert view.state == "calm"


def test_a_ceiling_that_other_processes_lower_is_noted_once() -> None:
    world = World(max_memory_mb=None)
    world.free = 8 * GIB
    world.at(100)
    world.free = 4 * GIB
    world.at(100)
    world.at(100)
    (event,) = world.events.last()
    assert event.kind == "ceiling"
    assert "(machine)" in event.text


def test_a_ceiling_that_falls_is_told_where_the_kernel_is_near_it() -> None:
    world = World(max_memory_mb=None, safety_buffer_mb=0)
    world.free = 8 * GIB
    world.at(1000)
    world.free = 800 * MIB
    world.at(1000)
    assert "the ceiling fell to 1.76 GiB (machine): others took memory" in world.said[0]
    assert "the kernel holds 1000 MiB" in world.said[0]


def test_what_reclaimers_did_and_which_model_is_idle_are_told_once() -> None:
    world = World()
    world.told, world.offered = "my cache gave back 0 MiB", "idle: m (1 GiB, unused for 5 min)"
    assert world.at(850) == "warn"
    for _ in range(40):
        world.at(950)
    assert world.done.count("clean") == 2
    assert "my cache gave back 0 MiB" in world.events.last(1)[0].text
    assert [text for text in world.said if "idle: m" in text] == [f"h2q: {world.offered}"]


def test_nothing_is_offered_where_cleaning_was_enough() -> None:
    world = World()
    world.offered = "idle: m"
    assert world.at(950, garbage_mib=500) == "clean"
    assert not any("idle: m" in text for text in world.said)
    assert world.at(300) == "calm"
    assert world.done[-1] == "calm"


def test_the_switch_turns_collecting_off() -> None:
    world = World(collect="off")
    assert world.at(850) == "warn"
    assert [world.at(950) for _ in range(5)] == ["none"] * 5
    assert world.done == []


def test_new_settings_hold_from_the_next_look() -> None:
    world = World()
    assert world.at(500) == "none"
    world.settings = MemorySafeConfig(max_memory_mb=600)
    assert world.at(500) == "warn"


def test_looks_come_closer_as_room_runs_out() -> None:
    world = World(max_memory_mb=4096, watch_interval_s=0.5)
    world.at(100)
    assert world.guard.pause_s() == 0.5
    world.at(3600)
    assert 0.2 < world.guard.pause_s() < 0.3
    world.at(4090)
    assert world.guard.pause_s() == pytest.approx(0.1)


def test_a_look_that_fails_does_not_end_the_guard() -> None:
    world = World(watch_interval_s=0.05)
    looks = threading.Semaphore(0)

    def read() -> int:
        looks.release()
        raise OSError("gone")

    guard = KernelGuard(
        lambda: world.settings, read, lambda: Headroom(1, 1, "machine"), world, world.events
    )
    guard.start()
    assert all(looks.acquire(timeout=10) for _ in range(3))
    guard.close()
    guard.close()
    assert not [t for t in threading.enumerate() if t.name == "h2q-kernel-guard"]


def test_events_are_lines_of_json_and_the_file_is_turned_over(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    world = World(event_log=str(path), event_log_bytes=4096)
    for _ in range(60):
        world.events.add("warn", "x" * 40, 5, 10)
    assert path.stat().st_mode & 0o777 == 0o600
    assert 4096 <= (tmp_path / "events.jsonl.1").stat().st_size < 4096 + 300
    line = json.loads(path.read_text().splitlines()[-1])
    assert line == {
        "at_s": 0.0,
        "kind": "warn",
        "text": "x" * 40,
        "used_bytes": 5,
        "limit_bytes": 10,
    }
    world.settings = MemorySafeConfig(event_log="/dev/full")
    world.events.add("warn", "a full disk costs the line alone")
    assert len(world.events.last(3)) == 3


def test_where_nothing_can_be_ended_it_is_told_once_until_it_was_calm() -> None:
    world = World()
    world.stop = lambda: ""  # type: ignore[method-assign]
    for _ in range(20):
        world.at(1200)
    told = [text for text in world.said if "nothing grows in the background" in text]
    assert len(told) == 1
    world.at(300)
    for _ in range(5):
        world.at(1200)
    assert len([text for text in world.said if "nothing grows in the background" in text]) == 2


def test_a_kernel_that_holds_a_lot_but_does_not_grow_has_nothing_ended() -> None:
    world = World(max_memory_mb=None)
    world.free = 100 * MIB  # others fill the machine, beyond the buffer
    for _ in range(20):
        world.at(4000)
    assert "stop" not in world.done
    for used in range(4000, 4200, 20):
        world.at(used)
    assert "stop" in world.done


def test_looking_from_two_threads_at_once_is_safe() -> None:
    world = World()
    over = threading.Event()
    failures: list[BaseException] = []

    def view() -> None:
        while not over.is_set():
            try:
                world.guard.view()
            except BaseException as error:
                failures.append(error)

    threads = [threading.Thread(target=view) for _ in range(2)]
    for thread in threads:
        thread.start()
    for at in range(3000):
        world.at(100 + at % 7)
    over.set()
    for thread in threads:
        thread.join()
    assert failures == []


def test_slow_growth_past_the_ceiling_is_stopped_too() -> None:
    world = World()
    for at in range(40):
        world.at(1001 + at)  # 2 MiB a second
    assert "stop" in world.done
