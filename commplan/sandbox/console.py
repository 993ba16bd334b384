"""What the sandbox shows of itself: the ground truth, how much is still to come, and faults on demand.

Never part of an emulated provider: nothing the product sends or decides may depend on it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from commplan.sandbox.config import SandboxConfig
from commplan.sandbox.fault import Faults
from commplan.sandbox.handset import Handsets
from commplan.sandbox.parse import ParseHook
from commplan.sandbox.schedule import Schedule
from commplan.sandbox.suppression import SuppressionLists
from commplan.sandbox.switches import Fault
from commplan.sandbox.truth import Truth
from commplan.sandbox.visit import Visitor
from commplan.sandbox.webhook import Callbacks, EventFeed
from commplan.terms import Channel

_LINES = 500


class Console:
    """The pages below ``/sandbox/``."""

    def __init__(
        self,
        *,
        config: SandboxConfig,
        schedule: Schedule,
        truth: Truth,
        faults: Faults,
        feed: EventFeed,
        callbacks: Callbacks,
        parse: ParseHook,
        handsets: Handsets,
        visitor: Visitor,
        lists: SuppressionLists,
    ) -> None:
        self._config = config
        self._schedule = schedule
        self._truth = truth
        self._faults = faults
        self._feed = feed
        self._callbacks = callbacks
        self._parse = parse
        self._handsets = handsets
        self._visitor = visitor
        self._lists = lists

    def routes(self) -> list[Route]:
        """Return what the console answers to."""
        return [
            Route("/sandbox/health", self._health, methods=["GET"]),
            Route("/sandbox/summary", self._summary, methods=["GET"]),
            Route("/sandbox/messages", self._messages, methods=["GET"]),
            Route("/sandbox/messages/{provider_id}", self._message, methods=["GET"]),
            Route("/sandbox/faults", self._ask_fault, methods=["POST"]),
            Route("/sandbox/feed", self._cut_feed, methods=["POST"]),
            Route("/sandbox/texts", self._write, methods=["POST"]),
            Route("/sandbox/lists", self._put, methods=["POST"]),
        ]

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok", "sandbox": True})

    async def _summary(self, request: Request) -> Response:
        next_due = self._schedule.next_due
        pending = self._schedule.pending + self._feed.unposted + self._parse.unposted
        return JSONResponse(
            {
                "sandbox": True,
                "now": self._config.clock.now().isoformat(),
                "channels": self._truth.counts(),
                "pending": pending,
                "quiet": pending == 0,
                "next_due": next_due.isoformat() if next_due else None,
                "lag_seconds": round(self._schedule.lag, 3),
                "unposted_events": self._feed.unposted,
                "callbacks_given_up": self._callbacks.given_up,
                "visits_failed": self._visitor.disappointed,
                "failures": self._schedule.failures,
            }
        )

    async def _messages(self, request: Request) -> Response:
        start = _number(request.query_params.get("offset"), 0)
        limit = request.query_params.get("limit")
        stop = min(len(self._truth), start + _number(limit, 0)) if limit else len(self._truth)

        async def lines() -> AsyncIterator[str]:
            for first in range(start, stop, _LINES):
                yield "".join(self._truth.lines(first, min(stop, first + _LINES)))
                await asyncio.sleep(0)

        return StreamingResponse(
            lines(), media_type="application/x-ndjson", headers={"X-Total-Count": str(len(self._truth))}
        )

    async def _message(self, request: Request) -> Response:
        content = self._truth.content(request.path_params["provider_id"])
        if content is None:
            return JSONResponse({"error": "unknown message, or its content is no longer kept"}, status_code=404)
        return JSONResponse(
            {
                "subject": content.subject,
                "text": content.text,
                "html": content.html,
                "headers": dict(content.headers),
            }
        )

    async def _ask_fault(self, request: Request) -> Response:
        try:
            asked: Any = json.loads(await request.body())
            channel, fault, times = Channel(asked["channel"]), Fault(asked["fault"]), int(asked.get("times", 1))
        except (ValueError, KeyError, TypeError, AttributeError):
            expected = {"channel": [*Channel], "fault": [*Fault], "times": "a number, 1 unless told"}
            return JSONResponse({"error": "not a fault that can be asked for", "expected": expected}, status_code=400)
        self._faults.ask(channel, fault, times)
        return Response(status_code=204)

    async def _put(self, request: Request) -> Response:
        """Put an address on a suppression list, as another system on the account would."""
        try:
            asked: Any = json.loads(await request.body())
            self._lists.put(str(asked["list"]), str(asked["email"]), int(asked["created"]))
        except (ValueError, KeyError, TypeError):
            return JSONResponse({"error": "an entry has a list, an email and the second it was created"}, 400)
        return Response(status_code=204)

    async def _cut_feed(self, request: Request) -> Response:
        try:
            down = json.loads(await request.body())["down"]
        except (ValueError, KeyError, TypeError):
            down = None
        if not isinstance(down, bool):
            return JSONResponse({"error": "say whether the feed is down", "expected": {"down": True}}, status_code=400)
        self._feed.is_down = self._callbacks.is_down = self._parse.is_down = down
        return Response(status_code=204)

    async def _write(self, request: Request) -> Response:
        try:
            asked = json.loads(await request.body())
            number, to, body = (asked[name] for name in ("from", "to", "body"))
        except (ValueError, KeyError, TypeError):
            number = to = body = None
        if not (isinstance(number, str) and isinstance(to, str) and isinstance(body, str)):
            expected = {"from": "+12025550123", "to": "the sender's number", "body": "STOP"}
            return JSONResponse({"error": "not a text that somebody can write", "expected": expected}, status_code=400)
        self._handsets.write(number, to, body)
        return Response(status_code=204)


def _number(text: str | None, default: int) -> int:
    return int(text) if text and text.isdigit() else default
