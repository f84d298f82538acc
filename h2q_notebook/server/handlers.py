"""What the server answers: ``/h2q/metrics`` for collectors, ``/h2q/kernels`` for tools.

Covers two addresses, both for who may read kernels: a token or a session, the same origin, and the
server's authorizer. Numbers and words of closed sets alone.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import APIHandler
from jupyter_server.utils import url_path_join
from tornado import web

from h2q_notebook.readings.figures import Figures
from h2q_notebook.server.watch import KernelLook, KernelWatch
from h2q_notebook.views.metrics import CONTENT_TYPE, openmetrics

__all__ = ["KernelsHandler", "MetricsHandler", "add_handlers"]


class _Handler(APIHandler):
    auth_resource = "kernels"
    """Who may not read kernels may not read their figures."""
    _track_activity = False
    """A collector must not keep an idle server alive."""

    def initialize(self, watch: KernelWatch) -> None:
        self.watch = watch


class MetricsHandler(_Handler):
    """OpenMetrics text of every kernel that has h2q in it, and of those that died."""

    @web.authenticated
    @authorized
    def get(self) -> None:
        """Answer a collector."""
        told = {one.kernel_id: figures for one in self.watch.kernels() if (figures := _told(one))}
        text = openmetrics(told, self.watch.death_counts())
        self.finish(text, set_content_type=CONTENT_TYPE)


class KernelsHandler(_Handler):
    """JSON of every running kernel, guarded or not, and of those that died."""

    @web.authenticated
    @authorized
    def get(self) -> None:
        """Answer a tool."""
        deaths = [
            {
                "kernel_id": one.kernel_id,
                "at_s": round(one.at_s, 3),
                "cause": one.verdict.cause,
                "text": one.verdict.text,
            }
            for one in self.watch.deaths()
        ]
        kernels = [_as_dict(one) for one in self.watch.kernels()]
        self.finish({"kernels": kernels, "deaths": deaths})


def add_handlers(app: Any, watch: KernelWatch) -> None:
    """Put both under the server's base address."""
    base = url_path_join(app.settings["base_url"], "h2q")
    given = {"watch": watch}
    app.add_handlers(
        ".*$",
        [
            (url_path_join(base, "metrics"), MetricsHandler, given),
            (url_path_join(base, "kernels"), KernelsHandler, given),
        ],
    )


def _told(look: KernelLook) -> Figures | None:
    """What the kernel says of itself, with what it holds now."""
    if look.told is None or look.used_bytes is None:
        return look.told
    return dataclasses.replace(look.told, used_bytes=look.used_bytes)


def _as_dict(look: KernelLook) -> dict[str, Any]:
    told = look.told
    row: dict[str, Any] = {
        "kernel_id": look.kernel_id,
        "guarded": told is not None,
        "used_bytes": look.used_bytes,
    }
    if told is None:
        return row
    return row | {
        "limit_bytes": told.limit_bytes,
        "state": told.state,
        "budget_bytes": told.budget_bytes,
        "n_models": told.n_models,
        "model_bytes": told.model_bytes,
        "cells": dict(told.cells),
        "last_event": {"kind": told.last_event, "at_s": told.last_event_at_s}
        if told.last_event
        else None,
    }
