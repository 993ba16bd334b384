"""Limits on how often one client may ask for what is not proven to be meant for them.

Never costs a provider's signed post or a recipient's own link anything: those are limited by nothing, or link by link.
Addresses are in memory only, as hashes under a key that ends with the process.
"""

from __future__ import annotations

import logging
import math
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from commplan.web.client import Proxies

_LOG = logging.getLogger("commplan.web")

#: Where programs ask, which are told in a word; everything else is for people.
_PROGRAMS = ("/hooks/", "/healthz", "/readyz", "/metrics")
#: What is answered to who has not proven to be who they say they are.
_REFUSED = (401, 403)


class Buckets:
    """How often each of many may do something: `burst` times at once, and `per_second` in the long run.

    Of more than `most` at a time, those that have not been seen for longest are forgotten.
    """

    def __init__(self, *, burst: int, per_second: float, most: int = 20_000) -> None:
        self._pause = 1 / per_second
        self._slack = (burst - 1) * self._pause
        self._most = most
        self._due: OrderedDict[bytes, float] = OrderedDict()

    def wait(self, key: bytes, now: float) -> float:
        """Return the seconds until it may be done again; 0 if it may be now."""
        return max(0.0, self._due.get(key, now) - now - self._slack)

    def take(self, key: bytes, now: float) -> float:
        """Note that it is done, if it may be; return the seconds until then if not."""
        wait = self.wait(key, now)
        if not wait:
            self._due[key] = max(now, self._due.get(key, now)) + self._pause
            self._due.move_to_end(key)
            if len(self._due) > self._most:
                self._due.popitem(last=False)
        return wait


class Throttle:
    """ASGI middleware: answers 429 to who asks too often, with the seconds to wait.

    `is_ours` tells whether a path carries a token of ours. `busy` is the page for people. Whoever is on this machine,
    or behind a proxy that does not say who asks, is not limited.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        proxies: Proxies,
        is_ours: Callable[[str], bool],
        busy: Callable[[Request], Response],
    ) -> None:
        self._app = app
        self._proxies = proxies
        self._is_ours = is_ours
        self._busy = busy
        self._secret = secrets.token_bytes(32)
        #: What one client asks for in vain: an unsigned post, a link that is none, a form without a token of ours.
        self._vain = Buckets(burst=40, per_second=0.5)
        #: One page to one client.
        self._pages = Buckets(burst=60, per_second=1.0)
        self._has_warned = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, or answer it here."""
        client = self._proxies.client_of(scope) if scope["type"] == "http" else None
        if client is None:
            await self._app(scope, receive, send)
            return
        self._warn(scope)
        if scope["path"].startswith(_PROGRAMS):
            await self._judge_afterwards(scope, receive, send, self._key(client))
        else:
            await self._judge_before(scope, receive, send, client)

    async def _judge_afterwards(self, scope: Scope, receive: Receive, send: Send, key: bytes) -> None:
        """Let a program be heard in any case, and only count what was refused."""
        is_over = False
        # Who is refused all the time fills no log.
        scope.setdefault("state", {})["is_limited"] = self._vain.wait(key, time.monotonic()) > 0

        async def replace(message: Message) -> None:
            nonlocal is_over
            if message["type"] == "http.response.start" and message["status"] in _REFUSED:
                wait = self._vain.take(key, time.monotonic())
                if wait:
                    is_over = True
                    answer = PlainTextResponse("too often\n", status_code=429, headers=_retry(wait))
                    await answer(scope, receive, send)
            if not is_over:
                await send(message)

        await self._app(scope, receive, replace)

    async def _judge_before(self, scope: Scope, receive: Receive, send: Send, client: str) -> None:
        """Let a person do what their link allows, and guess only now and then."""
        key, now = self._key(client), time.monotonic()
        ours = self._is_ours(scope["path"])
        wait = self._pages.take(self._key(client, scope["path"]), now) or (0.0 if ours else self._vain.wait(key, now))
        if wait:
            answer = await run_in_threadpool(self._busy, Request(scope))
            answer.headers.update(_retry(wait))
            await answer(scope, receive, send)
            return

        async def note(message: Message) -> None:
            is_answer = message["type"] == "http.response.start"
            if is_answer and not ours and (scope["method"] not in ("GET", "HEAD") or message["status"] >= 400):
                self._vain.take(key, time.monotonic())
            await send(message)

        await self._app(scope, receive, note)

    def _key(self, *parts: str) -> bytes:
        return blake2b("\n".join(parts).encode("utf-8", "surrogatepass"), key=self._secret, digest_size=16).digest()

    def _warn(self, scope: Scope) -> None:
        if not self._has_warned and self._proxies.is_passed_on_by_a_stranger(scope):
            self._has_warned = True
            _LOG.warning(
                "requests are passed on by a proxy that is not trusted, and everybody behind it counts as one client; "
                "if it is yours, list it in COMMPLAN_TRUSTED_PROXIES"
            )


def _retry(seconds: float) -> dict[str, str]:
    return {"Retry-After": str(math.ceil(seconds))}
