"""The sandbox as one web application and one server: providers, sample site, ground truth and the people's schedule.

Never leaves the machine: it calls the receiver and the pages it was configured with, and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from asyncio import BaseTransport
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from email.utils import formatdate

import uvicorn
from starlette.applications import Starlette
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from commplan.sandbox.browser import Browser
from commplan.sandbox.client import Client
from commplan.sandbox.config import SandboxConfig
from commplan.sandbox.console import Console
from commplan.sandbox.fault import Faults
from commplan.sandbox.handset import Handsets
from commplan.sandbox.mailbox import Mailboxes
from commplan.sandbox.maillog import MailLog
from commplan.sandbox.parse import ParseHook
from commplan.sandbox.schedule import Schedule
from commplan.sandbox.sendgrid import SendGrid
from commplan.sandbox.site import Site
from commplan.sandbox.suppression import SuppressionLists
from commplan.sandbox.truth import Truth
from commplan.sandbox.twilio import Twilio
from commplan.sandbox.visit import Visitor
from commplan.sandbox.webhook import Callbacks, EventFeed
from commplan.sandbox.webhooks import Webhooks


def create_app(config: SandboxConfig) -> Starlette:
    """Return the sandbox as an ASGI application; people act while its lifespan is on."""
    client = Client()
    schedule = Schedule(config.clock)
    truth = Truth()
    feed = EventFeed(config, schedule, client)
    callbacks = Callbacks(config, schedule, client)
    parse = ParseHook(config, schedule, client)
    visitor = Visitor(config, schedule, Browser(client, config.may_follow))
    faults = Faults(config.seed, config.switches.faults)
    lists = SuppressionLists(config)
    mailboxes = Mailboxes(config, schedule, truth, feed, visitor, parse=parse, lists=lists)
    handsets = Handsets(config, schedule, truth, callbacks, visitor)
    site = Site(config.clock, config.crm)
    console = Console(
        config=config,
        schedule=schedule,
        truth=truth,
        faults=faults,
        feed=feed,
        callbacks=callbacks,
        parse=parse,
        handsets=handsets,
        visitor=visitor,
        lists=lists,
    )

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await client.open()
        running = asyncio.create_task(schedule.run())
        try:
            yield
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await schedule.close()
            await client.close()
            await site.close()

    routes = [
        *SendGrid(config, mailboxes, faults).routes(),
        *MailLog(config, mailboxes).routes(),
        *lists.routes(),
        *Webhooks(config, feed).routes(),
        *Twilio(config, handsets, faults).routes(),
        *site.routes(),
        *console.routes(),
    ]
    app = Starlette(routes=routes, lifespan=lifespan)
    app.add_middleware(_Banner, config=config)
    return app


class _Banner:
    """Marks every answer as the sandbox's, and dates it by the providers' clock."""

    def __init__(self, app: ASGIApp, config: SandboxConfig) -> None:
        self._app = app
        self._offset = config.switches.clock_offset

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                date = formatdate(time.time() + self._offset, usegmt=True).encode("ascii")
                message["headers"] = [*message["headers"], (b"date", date), (b"x-sandbox", b"SANDBOX")]
            await send(message)

        await self._app(scope, receive, marked if scope["type"] == "http" else send)


class _Protocol(H11Protocol):
    """HTTP/1.1 that hands each request its connection, so that a fault can close it without an answer."""

    def connection_made(self, transport: BaseTransport) -> None:
        self.app_state = {**self.app_state, "transport": transport}
        # asyncio only does this for sockets that name their protocol, and a socket handed over may not: without it
        # every answer on a kept connection takes 44 ms.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().connection_made(transport)  # type: ignore[arg-type]


class _Server(uvicorn.Server):
    """A server that says when it listens, and where."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()


def _prepare(
    config: SandboxConfig, listening: socket.socket, ready: Callable[[str], None] | None
) -> tuple[_Server, str]:
    host, port = listening.getsockname()[:2]
    url = f"http://{host}:{port}"
    config = replace(config, base_urls=(*config.base_urls, f"{url}/site"))
    settings = uvicorn.Config(
        create_app(config),
        http=_Protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        date_header=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=2,
    )
    return _Server(settings, lambda: ready(url) if ready else None), url


def _listen(host: str, port: int) -> socket.socket:
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((host, port))
    return listening


def serve(
    config: SandboxConfig,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    sock: socket.socket | None = None,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serve until interrupted (SIGINT, SIGTERM). `sock`, already bound, is used instead of `host` and `port`.

    `ready` is called with the address once it listens. Links to the sandbox's own site may be followed.
    """
    listening = sock or _listen(host, port)
    server, _ = _prepare(config, listening, ready)
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listening])


@contextlib.contextmanager
def running(config: SandboxConfig, *, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Serve in a thread of this process for as long as the block lasts; yields the address."""
    listening = _listen(host, port)
    is_ready = threading.Event()
    server, url = _prepare(config, listening, lambda _: is_ready.set())
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="sandbox", daemon=True)
    thread.start()
    try:
        while not is_ready.wait(0.05):
            if not thread.is_alive():
                raise RuntimeError("the sandbox did not start")
        yield url
    finally:
        server.should_exit = True
        thread.join()
        listening.close()
