"""Bytes, seconds and percent: one parser and one formatter for each.

Covers spelling only. What a percentage is *of* is the caller's knowledge (``of_bytes``).
Imports ``errors`` alone.
"""

from __future__ import annotations

import math
import re

from h2q_notebook.errors import BadArgument

__all__ = [
    "GIB",
    "KIB",
    "MIB",
    "format_bytes",
    "format_seconds",
    "parse_bytes",
    "parse_seconds",
    "shorten",
]

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

# Two-letter decimal units are SI (GB = 10**9), "iB" units are IEC (GiB = 2**30). A lone letter is
# binary, as in docker, systemd, the JVM's -Xmx and ulimit, which is where people learnt it.
_FACTORS = {
    "": 1,
    "b": 1,
    **{f"{letter}b": 1000 ** (power + 1) for power, letter in enumerate("kmgt")},
    **{f"{letter}ib": 1024 ** (power + 1) for power, letter in enumerate("kmgt")},
    **{letter: 1024 ** (power + 1) for power, letter in enumerate("kmgt")},
}
# ASCII digits only: float() would also take "２", "1_0", "inf" and "nan" (accelerate does).
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([a-z]*|%)", re.ASCII)
_TIME = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*(ms|s|m|min|h|)", re.ASCII)
_MAX_BYTES = 1 << 62


def shorten(text: str, limit: int = 80) -> str:
    """Make *text* safe to echo: control characters escaped, at most *limit* characters."""
    clean = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"


def parse_bytes(text: str, *, of_bytes: int | None = None, field: str = "size") -> int:
    """Read a size.

    Accepted spellings (case and blanks ignored): ``2GiB`` and ``2g`` (2 * 2**30), ``512MB``
    (512 * 10**6), ``1.5g``, ``800 MiB``, ``64k``, ``1048576`` (bytes), and ``25%`` where *of_bytes*
    says of what.

    Args:
        text: what the user typed.
        of_bytes: the whole that a percentage refers to, in bytes; None refuses percentages.
        field: the name used in the error's sentence.

    Returns:
        A number of bytes, at least 1.

    Raises:
        BadArgument: not one of the spellings, zero, negative, over 100 %, or absurdly large.
    """
    match = _SIZE.fullmatch(text.strip().lower())
    if match is None or (match[2] != "%" and match[2] not in _FACTORS):
        raise BadArgument(
            f"{field}: cannot read {shorten(text)!r} as a size; "
            "write for example 2GiB, 512MB, 1.5g or 25%"
        )
    number = float(match[1])
    if match[2] == "%":
        if of_bytes is None:
            raise BadArgument(f"{field}: a percentage makes no sense here; write for example 2GiB")
        if not 0 < number <= 100:
            raise BadArgument(f"{field}: {shorten(text)!r} is outside 0% to 100%")
        result = of_bytes * number / 100
    else:
        result = number * _FACTORS[match[2]]
    if not math.isfinite(result) or result > _MAX_BYTES:
        raise BadArgument(f"{field}: {shorten(text)!r} is larger than any machine's memory")
    if result < 1:
        raise BadArgument(f"{field}: {shorten(text)!r} is less than one byte; give a size above 0")
    return round(result)


def format_bytes(n_bytes: float) -> str:
    """Write a size for people, in IEC units: ``812 MiB``, ``1.25 GiB``, ``-3 MiB``, ``0 MiB``."""
    sign, size = ("-" if n_bytes < 0 else ""), abs(n_bytes)
    if size >= 1024 * GIB:
        return f"{sign}{size / (1024 * GIB):.2f} TiB"
    if size >= GIB:
        return f"{sign}{size / GIB:.2f} GiB"
    if size >= 10 * MIB or size < KIB:
        return f"{sign if round(size / MIB) else ''}{size / MIB:.0f} MiB"
    if size >= MIB:
        return f"{sign}{size / MIB:.1f} MiB"
    return f"{sign}{size / KIB:.0f} KiB"


def parse_seconds(text: str, *, field: str = "timeout") -> float:
    """Read a duration: ``90``, ``90s``, ``1.5m``, ``2min``, ``250ms``, ``1h``; in seconds.

    Raises:
        BadArgument: not one of the spellings, or zero.
    """
    match = _TIME.fullmatch(text.strip().lower())
    if match is None or float(match[1]) <= 0:
        raise BadArgument(
            f"{field}: cannot read {shorten(text)!r} as a time above 0; write for example 90s or 2m"
        )
    factor = {"ms": 1e-3, "": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}[match[2]]
    return float(match[1]) * factor


def format_seconds(seconds: float) -> str:
    """Write a duration for people: ``4 ms``, ``1.3 s``, ``2 min 05 s``, ``1 h 02 min``."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
