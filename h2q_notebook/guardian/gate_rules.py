"""What the compiled gate knows of libraries, and which of their requests it may refuse.

Covers names only: who is known from which level on, and the doors. What is on it is there because
``benchmarks/gate_faults.py`` refused it memory hundreds of times and it never ended a process
(``benchmarks/results/gate_faults.json``; a test holds the two together). Whoever is not listed is
never refused: what it asks for is granted, and in the level ``wide`` recorded.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

__all__ = ["DOORS", "LEVELS", "RULES", "Door", "Kind", "Level", "Rule", "library_name"]


class Kind(IntEnum):
    """As in ``native/gate.h``."""

    UNKNOWN = 0
    SYSTEM = 1
    PYTHON = 2
    LIBRARY = 3


class Level(IntEnum):
    """How much is refused; each has what the one before it has. As in ``native/gate.h``."""

    OFF = 0
    SAFE = 1
    WIDE = 2


LEVELS = {"off": Level.OFF, "on": Level.SAFE, "wide": Level.WIDE}
"""The spellings of the setting ``gate`` and of ``--gate``."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Objects whose path contains *text* (where it has a slash), or whose file name begins so."""

    text: str
    kind: Kind
    level: Level = Level.SAFE


@dataclass(frozen=True, slots=True)
class Door:
    """One entry of one object that may be refused."""

    library: str
    file: str
    """How the object's file name begins."""
    symbol: str
    level: Level
    evidence: tuple[str, ...]
    """The groups of ``gate_faults`` that went through it."""
    record: str = "gate_faults"
    """The file of ``benchmarks/results`` that holds them."""


# What Python and the libraries below stand on, and what Python's own modules call.
_SYSTEM = (
    "libc.so", "libc-", "libm.so", "libm-", "ld-linux", "libpthread", "libdl.so", "libdl-",
    "librt.so", "librt-", "libutil.so", "libstdc++.so", "libgcc_s", "libgomp", "linux-vdso",
    "libz.so", "libbz2.so", "liblzma.so", "libffi.so", "libsqlite3.so", "libcrypto.so",
    "libssl.so", "libexpat.so",
)  # fmt: skip
# Where they lie in a folder of libraries, beside other people's (libtorchaudio and the like).
_TORCH = ("libc10.so", "libtorch.so", "libtorch_cpu.so", "libtorch_python.so")
RULES: tuple[Rule, ...] = (
    Rule("/h2q_notebook/guardian/_gate", Kind.PYTHON),
    Rule("libpython", Kind.PYTHON),
    Rule("/lib-dynload/", Kind.PYTHON),
    *(Rule(text, Kind.SYSTEM) for text in _SYSTEM),
    Rule("-packages/numpy/", Kind.LIBRARY),
    Rule("-packages/numpy.libs/", Kind.LIBRARY),
    Rule("-packages/pandas/", Kind.LIBRARY),
    Rule("-packages/torch/", Kind.LIBRARY),
    *(Rule(text, Kind.LIBRARY) for text in _TORCH),
    Rule("-packages/pyarrow/", Kind.LIBRARY, Level.WIDE),
)
"""The first that matches counts."""

_NUMPY_25 = (("numpy", "pandas"), "gate_faults_numpy25")
DOORS: tuple[Door, ...] = (
    # Never numpy's realloc: pandas swallows its failure and writes out of bounds.
    Door("numpy", "_multiarray_umath", "malloc", Level.SAFE, ("numpy", "pandas")),
    # Since 2.5 numpy asks Python's raw allocator, which is refused: its realloc needs a door that
    # lets it pass.
    Door("numpy", "_multiarray_umath", "PyMem_RawMalloc", Level.SAFE, *_NUMPY_25),
    Door("numpy", "_multiarray_umath", "PyMem_RawRealloc", Level.SAFE, *_NUMPY_25),
    Door("torch", "libc10.so", "posix_memalign", Level.SAFE, ("torch", "torch threads")),
    Door("torch", "libtorch_cpu.so", "posix_memalign", Level.WIDE, ("wide torch",)),
    Door("torch", "libtorch_cpu.so", "malloc", Level.WIDE, ("wide torch",)),
    Door("torch", "libtorch_cpu.so", "_Znwm", Level.WIDE, ("wide torch",)),
    Door("torch", "libtorch_cpu.so", "_Znam", Level.WIDE, ("wide torch",)),
    Door("pyarrow", "libarrow.so", "posix_memalign", Level.WIDE, ("wide pyarrow",)),
)
"""Opened once their module has been imported and the level asks for them."""

_KNOWN_AS = {"_polars_runtime": "polars"}


def library_name(path: str) -> str:
    """The package that an object belongs to, for the user; its file name where it is in none.

    Args:
        path: of the object; its end will do.
    """
    if not path:
        return "code made at run time"
    _, found, rest = path.rpartition("-packages/")
    if not found:
        return path.rpartition("/")[2].split(".so")[0]
    package = rest.split("/")[0].split(".")[0]
    return next((told for start, told in _KNOWN_AS.items() if package.startswith(start)), package)
