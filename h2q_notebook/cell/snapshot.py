"""What every name was bound to before a cell, and how to bind it so again.

Covers bindings in the user's namespace, in IPython's table of hidden names and in its output
cache (``Out``, ``_``, ``__``, ``___``, ``_N``). What stands *inside* the objects is ``contents``.
Works on plain dicts and knows nothing of IPython.

Nothing here runs the user's code on purpose: values are compared by identity only, keys that are
not exactly ``str`` are left alone (their hash could be the user's), and no value is shown,
measured or copied. Dropping the cell's objects may of course run their ``__del__``; that happens
last, when every name is back.

What a snapshot holds is the state *before* the cell, so after ``restore`` it keeps nothing of the
cell alive. While the cell runs it does keep the old objects alive: rebinding a name frees nothing
until ``release``. That is the price of being able to put it back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from h2q_notebook.cell.contents import Contents, ContentsMode
from h2q_notebook.cell.outcome import Undone

__all__ = ["ContentsMode", "Snapshot", "is_bookkeeping", "take"]

# IPython's own bookkeeping. Restoring any of it would break the history, so it is never touched:
# the cell's input belongs to history even if the cell was undone.
_BOOKKEEPING = frozenset({"In", "Out", "_ih", "_oh", "_dh", "_exit_code", "_i", "_ii", "_iii"})
_INPUT = re.compile(r"_i\d+")
_DISPLAYED = re.compile(r"_{1,3}|_\d+")
_LAST_THREE = ("_", "__", "___")
_ABSENT = object()


def is_bookkeeping(name: str) -> bool:
    """True for the names IPython keeps its input history under (``_i``, ``_i7``, ``In`` ...)."""
    return name in _BOOKKEEPING or (name[:2] == "_i" and _INPUT.fullmatch(name) is not None)


class Snapshot:
    """The bindings before a cell; made by ``take``. Not thread-safe, used by one cell."""

    __slots__ = ("_contents", "_display", "_hidden", "_names", "_out", "not_undone", "notes")

    def __init__(
        self,
        names: dict[Any, object],
        out: dict[Any, object],
        hidden: dict[Any, object] | None,
        display: dict[str, object] | None,
        contents: Contents,
    ) -> None:
        self._names = names
        self._out = out
        self._hidden = hidden
        self._display = display
        self._contents = contents
        self.not_undone: tuple[str, ...] = ()
        """After ``restore``: what changed inside old objects and could not be put back."""
        self.notes: tuple[str, ...] = ()
        """After ``restore``: sentences the user should read (content put back in a new object)."""

    @property
    def copied_bytes(self) -> int:
        """Bytes held by copies (``--rollback deep``); the caller charges them to the budget."""
        return self._contents.copied_bytes

    @property
    def skipped(self) -> int:
        """How many containers were not looked into, for want of time."""
        return self._contents.skipped

    def born(self, user_ns: Mapping[str, object]) -> frozenset[str]:
        """Names that the cell added, bound to something else or filled (for "what holds most").

        An old list that the cell appends to belongs here: it is where the memory went.
        """
        other = [name for name, _ in _differing(dict(user_ns), self._names)]
        return frozenset([name for name in other if not _DISPLAYED.fullmatch(name)]) | frozenset(
            self._contents.changed()
        )

    def changed(self) -> tuple[str, ...]:
        """Names whose old object has a changed content (nothing is put back)."""
        return self._contents.changed()

    def restore(
        self,
        user_ns: dict[str, object],
        *,
        hidden: dict[str, object] | None = None,
        display: dict[str, Any] | None = None,
    ) -> Undone:
        """Bind every name as before the cell; sets ``not_undone`` and ``notes``.

        May be called twice (a ``__del__`` of the cell's objects could bind names again).

        Args:
            user_ns: the live namespace, changed in place.
            hidden: the live ``user_ns_hidden``, where ``_`` and ``_N`` are held a second time.
            display: ``vars(shell.displayhook)``: it holds the last three results a third time,
                and unless they agree with the namespace IPython stops updating ``_`` for good.

        Returns:
            The names put back, without those of the output cache.
        """
        now = dict(user_ns)  # one atomic copy: threads of the cell may still be binding names
        added: list[str] = []
        rebound: list[str] = []
        for name, was in _differing(now, self._names):
            if was is _ABSENT:
                user_ns.pop(name, None)
            else:
                user_ns[name] = was
            if not _DISPLAYED.fullmatch(name):
                (added if was is _ABSENT else rebound).append(name)
        deleted = _put_back_deleted(user_ns, now, self._names)
        dropped: list[object] = []
        out = now.get("Out", now.get("_oh"))
        if type(out) is dict:
            dropped += _restore_all(out, self._out)
        if hidden is not None and self._hidden is not None:
            dropped += _restore_all(hidden, self._hidden)
        if display is not None and self._display is not None:
            for name, was in self._display.items():
                dropped.append(display.get(name))
                display[name] = was
        contents = self._contents.restore(user_ns)
        self.not_undone, self.notes = contents.not_undone, contents.notes
        # From here the cell's objects die, with every name already back for their __del__ to see.
        del now, out, dropped
        return Undone(tuple(added), tuple(rebound), deleted, contents.restored)

    def release(self) -> None:
        """Forget everything, so that what the cell let go of is really freed."""
        self._names, self._out, self._hidden, self._display = {}, {}, None, None
        self._contents.release()


def take(
    user_ns: Mapping[str, object],
    *,
    contents: ContentsMode = "names",
    deep_limit_bytes: int = 0,
    hidden: Mapping[str, object] | None = None,
    display: Mapping[str, Any] | None = None,
) -> Snapshot:
    """Remember what every name is bound to.

    Args:
        user_ns: the namespace of the user.
        contents: ``names`` notices in-place changes, ``deep`` also keeps copies, ``off`` neither.
        deep_limit_bytes: how much ``deep`` may copy in all, in bytes.
        hidden: IPython's ``user_ns_hidden``, if there is one.
        display: ``vars(shell.displayhook)``, if there is one.
    """
    names = dict(user_ns)
    out = names.get("Out", names.get("_oh"))
    return Snapshot(
        names,
        dict(out) if type(out) is dict else {},
        None if hidden is None else dict(hidden),
        None if display is None else {key: display[key] for key in _LAST_THREE if key in display},
        Contents(names, mode=contents, deep_limit_bytes=deep_limit_bytes, ignore=_is_ipythons),
    )


def _is_ipythons(name: object) -> bool:
    return type(name) is not str or (
        name[:1] in ("_", "I", "O")
        and (is_bookkeeping(name) or _DISPLAYED.fullmatch(name) is not None)
    )


def _differing(now: Mapping[Any, object], before: Mapping[Any, object]) -> list[tuple[str, object]]:
    """Names of *now* not bound as *before*, with what they were bound to (or ``_ABSENT``)."""
    was = before.get
    # One comprehension: with 10 000 names its speed is the price of a stop.
    other = [
        name for name, value in now.items() if type(name) is str and was(name, _ABSENT) is not value
    ]
    return [(name, was(name, _ABSENT)) for name in other if not is_bookkeeping(name)]


def _put_back_deleted(
    live: dict[str, object], now: Mapping[Any, object], before: Mapping[Any, object]
) -> tuple[str, ...]:
    deleted = [
        name
        for name in before
        if type(name) is str and name not in now and not is_bookkeeping(name)
    ]
    for name in deleted:
        live[name] = before[name]
    return tuple(name for name in deleted if not _DISPLAYED.fullmatch(name))


def _restore_all(live: dict[Any, object], before: Mapping[Any, object]) -> list[object]:
    """Bring *live* (``Out`` or the hidden names) back; returns what it dropped, still alive."""
    now = dict(live)
    dropped: list[object] = []
    for key, value in now.items():
        # Keys of Out are ints; anything else exotic could run code when hashed.
        if type(key) not in (str, int) or (type(key) is str and is_bookkeeping(key)):
            continue
        was = before.get(key, _ABSENT)
        if was is value:
            continue
        dropped.append(value)
        if was is _ABSENT:
            live.pop(key, None)
        else:
            live[key] = was
    for key, value in before.items():
        if type(key) not in (str, int) or key in now:
            continue
        if not (type(key) is str and is_bookkeeping(key)):
            live[key] = value
    return dropped
