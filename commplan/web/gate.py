"""The gate that every request passes: limits on its size and on the time it takes to come, headers, no stack trace.

Never logs an address or a path: the tokens in our paths are personal.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from commplan.errors import StoreError

_LOG = logging.getLogger("commplan.web")

#: Machine seconds in which a body has to have come, from the end of its head.
BODY_PATIENCE = 30.0
#: Most bytes that are read and thrown away so that a sender of too much gets its answer instead of a reset.
_MOST_DRAINED = 32 * 1024 * 1024


class Gate:
    """ASGI middleware: reads each request's body whole, within its limit, before the application sees it.

    `limits` maps a path's beginning to bytes; the first that fits counts. `patience` is machine seconds for a body.
    """

    def __init__(
        self, app: ASGIApp, limits: Mapping[str, int], headers: Mapping[str, str], *, patience: float = BODY_PATIENCE
    ) -> None:
        self._app = app
        self._patience = patience
        self._limits = limits
        self._headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, or answer it here."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            try:
                async with asyncio.timeout(self._patience):
                    body = await self._read(scope, receive)
            except TimeoutError:
                # The rest of it may still come, so nothing else can on this connection.
                answer = PlainTextResponse("too slow\n", status_code=408, headers={"Connection": "close"})
                await answer(scope, receive, send_with_headers)
                return
            except ClientDisconnect:
                return
            if body is None:
                answer = PlainTextResponse("too large\n", status_code=413)
                await answer(scope, receive, send_with_headers)
                return
            await self._app(scope, _replay(body, receive), send_with_headers)
        except Exception as error:
            _LOG.error("a request failed", extra={"kind": type(error).__name__})
            if not started:
                status = 503 if isinstance(error, StoreError) else 500
                await PlainTextResponse("not now\n", status_code=status)(scope, receive, send_with_headers)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """Return the body, None if it is larger than it may be; ClientDisconnect if its sender left before its end."""
        limit = next((most for start, most in self._limits.items() if scope["path"].startswith(start)), 0)
        declared = Headers(scope=scope).get("content-length", "0")
        kept: bytearray | None = bytearray() if declared.isdigit() and int(declared) <= limit else None
        seen, more = 0, True
        while more and seen <= _MOST_DRAINED:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            chunk = message.get("body", b"")
            seen += len(chunk)
            if seen > limit:
                kept = None
            if kept is not None:
                kept += chunk
            more = message.get("more_body", False)
        return None if kept is None else bytes(kept)


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
