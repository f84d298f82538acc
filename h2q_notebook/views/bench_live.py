"""A bench while it runs: a table that fills in notebooks, a line a case elsewhere.

Covers showing only. Never breaks a run: a front end that went away is simply no longer told.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from html import escape
from typing import TYPE_CHECKING, Any

from h2q_notebook.units import format_seconds, shorten
from h2q_notebook.views.bench_report import CASE_HEAD, case_row
from h2q_notebook.views.table import BOX, SOFT, html_table

if TYPE_CHECKING:
    from h2q_notebook.bench.outcome import CaseResult
    from h2q_notebook.bench.run import Step

__all__ = ["BenchLive"]

_INTERVAL_S = 0.25
_SHOWN_ROWS = 30
"""The table is sent anew at each change; earlier answers are in the run's own table."""


class BenchLive:
    """Shows each ``Step`` it is called with.

    Args:
        frontend: what ``frontend.detect`` said; ``off`` shows nothing.
        title: suite and model.
        earlier: answers of a run that is gone on with.
        write: where text lines go; None for the standard output.
        now: a clock in seconds.
    """

    def __init__(
        self,
        frontend: str,
        title: str,
        *,
        earlier: tuple[CaseResult, ...] = (),
        write: Callable[[str], object] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._title = shorten(title, 120)
        self._rows = [case_row(one) for one in earlier]
        self._write = write or sys.stdout.write
        self._now = now
        self._began_s, self._begun_with = now(), len(earlier)
        self._next_s = 0.0
        self._html: Any = None
        self._closed = frontend == "off"
        if frontend == "widgets":
            with suppress(Exception):
                self._open_widget()

    def __call__(self, step: Step) -> None:
        """Show it; the table changes four times a second at most."""
        if self._closed:
            return
        if step.result is not None:
            self._rows.append(case_row(step.result))
            if self._html is None:
                with suppress(Exception):
                    self._write(self._line(step) + "\n")
        # Called for every token, and a table takes milliseconds to send: often enough for an eye.
        if self._html is None or self._now() < self._next_s:
            return
        self._next_s = self._now() + _INTERVAL_S
        with suppress(Exception):
            self._html.value = self._table(step)

    def close(self) -> None:
        """Take the table away; the run's own stays. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        with suppress(Exception):
            if self._html is not None:
                self._html.close()

    def status(self, step: Step) -> str:
        """Where it is, and how long it may take."""
        parts = [f"{step.done} of {step.planned}"]
        done = step.done - self._begun_with
        if step.result is None:
            what = "judging" if step.grading else f"{step.tokens} of at most {step.max_new_tokens}"
            parts.append(f"{step.case.id}: {what}{'' if step.grading else ' tokens'}")
        if done:
            left_s = (self._now() - self._began_s) / done * (step.planned - step.done)
            parts.append(f"about {format_seconds(left_s)} left")
        return " · ".join(parts)

    def _line(self, step: Step) -> str:
        assert step.result is not None
        case, level, result, tokens, _, per_token, _, why = case_row(step.result)
        told = f"{result:<11} {case} (level {level}) · {tokens} tokens, {per_token} each"
        return f"h2q [{self.status(step)}] {told}{f' · {why}' if why else ''}"

    def _table(self, step: Step) -> str:
        return (
            f'<div style="{BOX}"><b>{escape(self._title)}</b>'
            f"{html_table(CASE_HEAD, self._rows[-_SHOWN_ROWS:])}"
            f'<div role="status" style="{SOFT}">{escape(self.status(step))}</div></div>'
        )

    def _open_widget(self) -> None:
        from IPython import display as ipython_display
        from ipywidgets import HTML

        self._html = HTML(f'<div style="{BOX}"><b>{escape(self._title)}</b> · warming up</div>')
        show: Any = ipython_display.display
        show(self._html)
