"""In-place changes of what existed before a cell: noticed, listed, and undone where possible.

Covers the objects that names were bound to when the cell began: lists, dicts, sets, deques and
bytearrays (exact types and the standard dict kinds), numpy arrays, pandas frames and series,
torch tensors and modules. Does not cover polars and pyarrow (their values are immutable in
ordinary use), objects of the user's own classes, files, random state, or anything deeper than
one level inside a container. What a mark can and cannot tell is said in ``fingerprints``.

Every container is watched, also an empty one: ``rows = []`` in one cell and ``rows.append`` in
the next is the commonest way to fill memory in place. Noticing is bounded in time, not in
number: the largest go first and what no longer fits is counted in ``skipped``.

What only *grew at its end* (append, extend, new dict keys) is cut back to its old length even
without a copy, because that is most of what memory loops do and the old part is untouched; a
set can be cut back only if it was empty.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Literal

from h2q_notebook.cell.copies import cut_back, kept_copy, put_back
from h2q_notebook.cell.fingerprints import Kind, Kinds, Mark, mark, size_text, weight

__all__ = ["Contents", "ContentsMode", "Restored"]

ContentsMode = Literal["off", "names", "deep"]
# Enough for a model of 300 tensors and some twenty arrays and frames; not felt.
_TIME_LIMIT_S = 0.003
_MANY = 16
_CLOCK_EVERY = 64
_Found = tuple[int, object, Kind, list[str]]


@dataclass(frozen=True, slots=True)
class Restored:
    """What became of the contents: names put back, names not, and remarks."""

    restored: tuple[str, ...] = ()
    not_undone: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class _Watched:
    value: Any
    kind: Kind
    mark: Mark
    size: str
    names: list[str] = field(default_factory=list)
    copy: Any = None
    has_copy: bool = False


class Contents:
    """Marks (and, in ``deep`` mode, copies) of what the names held before the cell."""

    __slots__ = ("_sample_bytes", "_watched", "copied_bytes", "skipped", "uncopied")

    def __init__(
        self,
        names: Mapping[str, object],
        *,
        mode: ContentsMode,
        deep_limit_bytes: int = 0,
        time_limit_s: float = _TIME_LIMIT_S,
        clock: Callable[[], float] = time.perf_counter,
        ignore: Callable[[object], bool] | None = None,
    ) -> None:
        """Mark everything watchable.

        Args:
            names: the names and what they are bound to.
            mode: ``off`` does nothing; ``deep`` copies as well, smallest first, so that as many
                names as possible are safe when not all fit.
            deep_limit_bytes: the most that copies may take in all, in bytes.
            time_limit_s: how long marking may take, in seconds (copying takes what it takes).
            clock: seconds, monotonic.
            ignore: says which keys of *names* are not the user's.
        """
        self.copied_bytes = 0
        """Bytes held by copies; they count against the budget of the cell."""
        self.skipped = 0
        """How many things were not marked for want of time."""
        self.uncopied: tuple[str, ...] = ()
        """Names that ``deep`` could not copy within its limit, or at all."""
        self._watched: list[_Watched] = []
        self._sample_bytes = 1 << 16
        if mode == "off":
            return
        # Copying takes what it takes; noticing must not be felt.
        limit_s = math.inf if mode == "deep" else time_limit_s
        found = self._find(names, ignore, clock, clock() + limit_s)
        deadline_s = clock() + limit_s
        n_large = sum(1 for w in found if w[0] > 1 << 14)
        if n_large > _MANY:
            self._sample_bytes = 1 << 13
        for at, (_, value, kind, aliases) in enumerate(found):
            if at and clock() > deadline_s:
                self.skipped += len(found) - at
                break
            made = mark(value, kind, sample_bytes=self._sample_bytes)
            if made is not None:
                self._watched.append(
                    _Watched(value, kind, made, size_text(value, kind), list(aliases))
                )
        if mode == "deep":
            self._copy(deep_limit_bytes)

    def _find(
        self,
        names: Mapping[str, object],
        ignore: Callable[[object], bool] | None,
        clock: Callable[[], float],
        deadline_s: float,
    ) -> list[_Found]:
        """Watchable objects, largest first, each once with every name that it has."""
        kinds = Kinds()
        found: dict[int, _Found] = {}
        candidates = kinds.candidates(names)
        for at, (name, value) in enumerate(candidates):
            if at and at % _CLOCK_EVERY == 0 and clock() > deadline_s:
                self.skipped = len(candidates) - at
                break
            kind = kinds.of(value)
            if kind is None or (ignore is not None and ignore(name)):
                continue
            seen = found.get(id(value))
            if seen is not None:
                seen[3].append(name)
                continue
            try:
                found[id(value)] = (weight(value, kind), value, kind, [name])
            except Exception:  # a tensor without storage, a frame of an unknown layout
                continue
        return sorted(found.values(), key=itemgetter(0), reverse=True)

    def _copy(self, limit_bytes: int) -> None:
        left, uncopied = limit_bytes, []
        for watched in reversed(self._watched):
            made = kept_copy(watched.value, watched.kind, left)
            if made is None:
                uncopied += watched.names
                continue
            watched.copy, n_bytes = made
            watched.has_copy = True
            left -= n_bytes
        self.copied_bytes = limit_bytes - left
        self.uncopied = tuple(uncopied)

    def changed(self) -> tuple[str, ...]:
        """Names whose content is not what it was."""
        return tuple(name for one in self._watched if self._differs(one) for name in one.names)

    def _differs(self, one: _Watched) -> bool:
        return mark(one.value, one.kind, sample_bytes=self._sample_bytes) != one.mark

    def restore(self, user_ns: dict[str, object]) -> Restored:
        """Put contents back where that can be done; *user_ns* is touched as the last resort.

        Objects are changed in place, so that every other reference to them sees it too. Only
        where an object refuses (a resized array, an unknown frame) is its name bound to the copy.
        """
        restored: list[str] = []
        lost: list[str] = []
        notes: list[str] = []
        for one in self._watched:
            differs = self._differs(one)
            if one.has_copy:
                done = put_back(one.value, one.kind, one.copy, certain=differs)
                if done == "failed":
                    for name in one.names:
                        user_ns[name] = one.copy
                    notes.append(
                        f"{one.names[0]}: bound to a copy of its old content; other references "
                        "to the changed object still see the change"
                    )
                if done != "same":
                    restored += one.names
            elif differs:
                if cut_back(one.value, one.kind, one.mark, sample_bytes=self._sample_bytes):
                    restored += one.names
                else:
                    lost += [self._told(one, name) for name in one.names]
        return Restored(tuple(restored), tuple(lost), tuple(notes))

    @staticmethod
    def _told(one: _Watched, name: str) -> str:
        """``rows (list: 3 items -> 9 items)``: the name and what happened to it."""
        try:
            size = size_text(one.value, one.kind)
        except Exception:
            size = ""
        what = f"{one.size} → {size}" if size != one.size else "changed in place"
        return f"{name} ({type.__dict__['__name__'].__get__(type(one.value))}: {what})"

    def release(self) -> None:
        """Forget every mark and copy."""
        self._watched = []
        self.copied_bytes = 0
