"""The web application: receiver of the providers' webhooks, and the recipients' pages.

Never answers 2xx before what it was told is durable.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from commplan import tracking
from commplan.errors import StoreError
from commplan.ids import TokenPurpose
from commplan.returnaddress import INBOUND_PATH
from commplan.settings import Settings
from commplan.store import Store
from commplan.web.client import Proxies
from commplan.web.gate import Gate
from commplan.web.hooks import Hooks
from commplan.web.links import Links
from commplan.web.meter import Measured, Meter
from commplan.web.pages import Pages
from commplan.web.priority import Priority
from commplan.web.ready import Readiness
from commplan.web.throttle import Throttle

_LOG = logging.getLogger("commplan.web")

#: Largest post of a provider, largest of a mail (Inbound Parse takes 30 MB), and largest form of a person, in bytes.
MAX_POST = 5 * 1024 * 1024
MAX_MAIL = 31 * 1024 * 1024
MAX_FORM = 64 * 1024


class Applier:
    """A thread that applies kept posts as they come, and those that an earlier process left.

    `wake` is set when there is something to apply. `first` is called before each helping, and in the end.
    """

    def __init__(
        self, store: Store, meter: Meter, priority: Priority, *, wake: threading.Event, first: Callable[[], None]
    ) -> None:
        self._store = store
        self._priority = priority
        self._meter = meter
        self._wake = wake
        self._first = first
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="commplan-applier", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after the helping under way."""
        self._ended.set()
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        failures = 0
        while not self._ended.is_set():
            pause = 1.0
            try:
                self._first()
                # Small helpings, so that a stop does not wait for a long backlog.
                applied = tracking.apply_inbox(self._store, limit=50, give_way=self._priority.give_way)
                self._meter.applied(applied)
                if applied.posts:
                    pause = 0.0
                failures = 0
            except Exception as error:
                failures += 1
                pause = min(30.0, 2.0**failures / 2)
                _LOG.error("cannot apply posts; trying again", extra={"kind": type(error).__name__, "seconds": pause})
            if pause:
                self._wake.wait(pause)
                self._wake.clear()
        with suppress(StoreError):
            self._first()


def create_app(store: Store, settings: Settings, *, applies: bool = False, figures: Path | None = None) -> Starlette:
    """Return the application over an open store; with `applies` it also applies what it has kept, in a thread.

    `figures` is the folder in which several processes of one receiver count together.
    """
    meter = Meter(store, settings, shared=figures)
    priority = Priority()
    wake = threading.Event()
    hooks = Hooks(store, settings, priority=priority, on_post=wake.set)
    pages = Pages(store, settings)
    readiness = Readiness(store, settings)
    links = Links(store, pages, priority=priority, on_click=wake.set)
    applier = Applier(store, meter, priority, wake=wake, first=links.keep_waiting)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        if applies:
            applier.start()
        yield
        if applies:
            await run_in_threadpool(applier.stop)

    async def healthz(request: Request) -> Response:
        waiting = await run_in_threadpool(tracking.waiting, store)
        return JSONResponse({"status": "ok", "waiting": waiting})

    async def not_found(request: Request, error: Exception) -> Response:
        return await run_in_threadpool(pages.not_found, request)

    return Starlette(
        routes=[
            Route("/hooks/sendgrid/events", hooks.sendgrid_events, methods=["POST"]),
            Route(INBOUND_PATH, hooks.sendgrid_inbound, methods=["POST"]),
            Route("/hooks/twilio/status", hooks.twilio_status, methods=["POST"]),
            Route("/hooks/twilio/inbound", hooks.twilio_inbound, methods=["POST"]),
            *pages.routes,
            Route("/l/{token}", links.follow, methods=["GET"]),
            Route("/healthz", healthz, methods=["GET"]),
            Route("/readyz", readiness.readyz, methods=["GET"]),
            Route("/metrics", meter.metrics, methods=["GET"]),
        ],
        middleware=[
            Middleware(Measured, meter=meter),
            Middleware(
                Gate,
                limits={INBOUND_PATH: MAX_MAIL, "/hooks/": MAX_POST, "/": MAX_FORM},
                headers=_headers(pages.style_hash),
            ),
            Middleware(
                Throttle, proxies=Proxies(settings.trusted_proxies), is_ours=partial(_is_ours, store), busy=pages.busy
            ),
        ],
        exception_handlers={404: not_found},
        lifespan=lifespan,
    )


def _is_ours(store: Store, path: str) -> bool:
    """Tell whether a path carries a token of ours, for whatever purpose."""
    open_, open_link = store.keyring.open, store.keyring.open_link
    return any(
        open_link(part) or any(open_(purpose, part) for purpose in TokenPurpose) for part in path.split("/")[1:3]
    )


def _headers(style_hash: str) -> dict[str, str]:
    return {
        "Content-Security-Policy": (
            f"default-src 'none'; style-src 'sha256-{style_hash}'; form-action 'self'; "
            "base-uri 'none'; frame-ancestors 'none'"
        ),
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "X-Robots-Tag": "noindex, nofollow",
        "Cache-Control": "no-store",
    }
