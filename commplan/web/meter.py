"""Figures of the receiver for Prometheus: what was answered how, how fast, what was kept, applied, and waits.

Labels are ours, never a part of what was sent; only whoever has the token may read them.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from commplan import tracking
from commplan.errors import StoreError
from commplan.settings import Settings
from commplan.store import Store
from commplan.tracking import Applied

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
#: Where providers post; what is taken there is kept.
_HOOKS = "/hooks/"


class Meter:
    """Counts what this process does, and tells it: with what its siblings have counted, if they share a folder.

    `shared` is that folder; the library writes there if the process was started with PROMETHEUS_MULTIPROC_DIR.
    """

    def __init__(self, store: Store, settings: Settings, *, shared: Path | None = None) -> None:
        token = settings.metrics_token
        self._token = None if token is None else token.get_secret_value().encode()
        mine = CollectorRegistry()
        self._answers = Counter(
            "commplan_answers",
            "Requests by path and by the code of their answer (none: the asker left first); `why` of a 403.",
            ["path", "code", "why"],
            registry=mine,
        )
        self._seconds = Histogram(
            "commplan_answer_seconds",
            "Seconds from a request's head to the head of its answer.",
            ["path"],
            buckets=_SECONDS,
            registry=mine,
        )
        self._kept = Counter("commplan_kept_bytes", "Bytes of posts that were kept.", ["path"], registry=mine)
        self._receipts = Counter("commplan_receipts", "New facts that were applied, by kind.", ["kind"], registry=mine)
        self._events = Counter(
            "commplan_events",
            "Events in posts that were applied and told nothing new, by what became of them.",
            ["outcome"],
            registry=mine,
        )
        self._told = mine
        if shared is not None:
            self._told = CollectorRegistry()
            MultiProcessCollector(self._told, path=str(shared))  # type: ignore[no-untyped-call]
        self._told.register(_Waiting(store))

    def answered(self, path: str, code: str, why: str, *, seconds: float, size: int) -> None:
        """Count one request of `size` bytes."""
        self._answers.labels(path, code, why).inc()
        self._seconds.labels(path).observe(seconds)
        if path.startswith(_HOOKS) and code.startswith("2"):
            self._kept.labels(path).inc(size)

    def applied(self, applied: Applied) -> None:
        """Count what came of posts."""
        for kind, count in applied.kinds.items():
            self._receipts.labels(kind).inc(count)
        for outcome in ("known", "foreign", "unreadable"):
            self._events.labels(outcome).inc(getattr(applied, outcome))

    async def metrics(self, request: Request) -> Response:
        """Tell the figures to whoever has the token; where none is set there is nothing here."""
        if self._token is None:
            return PlainTextResponse("set COMMPLAN_METRICS_TOKEN to read figures here\n", status_code=404)
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self._token):
            return PlainTextResponse(
                "give COMMPLAN_METRICS_TOKEN as a bearer token\n",
                status_code=401,
                headers={"WWW-Authenticate": "Bearer"},
            )
        figures = await run_in_threadpool(generate_latest, self._told)
        return Response(figures, headers={"Content-Type": CONTENT_TYPE_LATEST})


class _Waiting(Collector):
    """What the store says at the moment of asking: the same, whichever process is asked."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def collect(self) -> Iterator[Metric]:
        """Yield the figures; only that the store cannot be read, if it cannot."""
        try:
            backlog = tracking.backlog(self._store)
        except StoreError:
            backlog = None
        yield GaugeMetricFamily("commplan_store_readable", "1 if the store can be read.", value=backlog is not None)
        if backlog is None:
            return
        yield GaugeMetricFamily(
            "commplan_waiting_posts", "Posts that were kept and are not applied yet.", value=backlog.waiting
        )
        yield GaugeMetricFamily(
            "commplan_set_aside_posts", "Of these, posts that could not be applied so far.", value=backlog.aside
        )
        yield GaugeMetricFamily(
            "commplan_waiting_seconds", "Age of the oldest that waits and is not set aside.", value=backlog.seconds
        )


class Measured:
    """ASGI middleware: tells a meter of every request, under the path of the route that it came to.

    Of a path with a parameter what stands before it counts; what fits none is ``other``.
    """

    def __init__(self, app: ASGIApp, meter: Meter) -> None:
        self._app = app
        self._meter = meter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, size, is_answered = time.perf_counter(), 0, False
        state = scope.setdefault("state", {})

        def count(code: str) -> None:
            nonlocal is_answered
            is_answered = True
            seconds = time.perf_counter() - began
            self._meter.answered(_route(scope), code, state.get("why", ""), seconds=seconds, size=size)

        async def counting() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            return message

        async def noting(message: Message) -> None:
            # Before it is sent: who has an answer finds it counted.
            if message["type"] == "http.response.start":
                count(str(message["status"]))
            await send(message)

        try:
            await self._app(scope, counting, noting)
        finally:
            if not is_answered:
                count("none")


def _route(scope: Scope) -> str:
    asked = scope["path"]
    for route in scope["app"].routes:
        start = route.path.partition("{")[0]
        if asked == route.path or (start != route.path and asked.startswith(start)):
            return str(route.path)
    return "other"
