"""Faults at the exact boundary of a request: after it was accepted and before the client knows.

Never touches a request that no fault was drawn for.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from commplan.sandbox.dice import Dice
from commplan.sandbox.switches import Fault
from commplan.terms import Channel

#: Machine seconds after which a hanging request is closed from this side.
_LONGEST_HANG = 120.0


class Faults:
    """Decides which request goes wrong: those asked for first, then a share of the rest."""

    def __init__(self, seed: int, shares: Mapping[Fault, float]) -> None:
        self._seed = seed
        self._shares = shares
        self._asked: dict[Channel, deque[Fault]] = {channel: deque() for channel in Channel}
        self._requests: Counter[tuple[Channel, str]] = Counter()

    def ask(self, channel: Channel, fault: Fault, times: int) -> None:
        """Let the next requests of a channel go wrong."""
        self._asked[channel].extend([fault] * times)

    def draw(self, channel: Channel, about: str) -> Fault | None:
        """Return what goes wrong with a request; usually None.

        The same for the same seed, `about` (the first recipient's address, say) and how-manieth request about it: in
        whatever order requests arrive.
        """
        if self._asked[channel]:
            return self._asked[channel].popleft()
        if not self._shares:
            return None
        self._requests[channel, about] += 1
        drawn = Dice(self._seed, "fault", channel, about, self._requests[channel, about]).draw("which")
        for fault, share in self._shares.items():
            if drawn < share:
                return fault
            drawn -= share
        return None


async def go_wrong(
    fault: Fault,
    request: Request,
    handle: Callable[[], Awaitable[Response]],
    *,
    busy: Callable[[], Response],
    slow_seconds: float,
    late_seconds: float,
) -> Response:
    """Answer, or fail to answer, a request; `handle` is what accepts it, `busy` makes the 429. Seconds are
    machine time.

    The request's body must have been read.
    """
    match fault:
        case Fault.BUSY:
            return busy()
        case Fault.DROP:
            return _Closed(request)
        case Fault.LATE:
            await _client_gone(request)
            await asyncio.sleep(late_seconds)
            await handle()
            return _Closed(request)
    response = await handle()
    match fault:
        case Fault.CLOSE:
            return _Closed(request)
        case Fault.HANG:
            await _client_gone(request)
            return _Closed(request)
        case Fault.SLOW:
            await asyncio.sleep(slow_seconds)
            return response
    return Response("Internal Server Error", status_code=500, media_type="text/plain")


async def _client_gone(request: Request) -> None:
    try:
        async with asyncio.timeout(_LONGEST_HANG):
            while (await request.receive())["type"] != "http.disconnect":
                pass
    except TimeoutError:
        return


class _Closed(Response):
    """No answer: the connection closes."""

    def __init__(self, request: Request) -> None:
        super().__init__()
        self._request = request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        transport: Any = scope["state"]["transport"]
        transport.close()
        await _client_gone(self._request)
