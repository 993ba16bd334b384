"""SendGrid's settings of the event webhook and of Inbound Parse, and the test of the first, over HTTP.

Never tells a setting that the feed does not follow: what is switched off here is not posted.
"""

from __future__ import annotations

import hmac
import json
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from commplan.sandbox.config import SandboxConfig
from commplan.sandbox.parse import INBOUND
from commplan.sandbox.webhook import EventFeed

_HOOK = "77d4a5da-7015-11ed-a1eb-0242ac120002"
#: The settings by which events are switched on, as the document calls them.
_SETTINGS = (
    "group_resubscribe",
    "delivered",
    "group_unsubscribe",
    "spam_report",
    "bounce",
    "deferred",
    "unsubscribe",
    "processed",
    "open",
    "click",
    "dropped",
)


class Webhooks:
    """The one event webhook of the emulated account."""

    def __init__(self, config: SandboxConfig, feed: EventFeed) -> None:
        self._config = config
        self._feed = feed

    def routes(self) -> list[Route]:
        """Return what the service answers to."""
        base = "/v3/user/webhooks/event"
        return [
            Route(f"{base}/settings/all", self._all, methods=["GET"]),
            Route(f"{base}/test", self._test, methods=["POST"]),
            Route("/v3/user/webhooks/parse/settings", self._parse, methods=["GET"]),
        ]

    def _refused(self, request: Request) -> Response | None:
        given = request.headers.get("authorization", "")
        if hmac.compare_digest(given.encode(), f"Bearer {self._config.api_key}".encode()):
            return None
        return _error(401, "The provided authorization grant is invalid, expired, or revoked")

    async def _all(self, request: Request) -> Response:
        refused = self._refused(request)
        if refused is not None:
            return refused
        off = self._config.switches.events_off
        hook = {
            "enabled": True,
            "url": self._feed.url,
            "account_status_change": False,
            **{name: name not in off for name in _SETTINGS},
            "friendly_name": "commplan",
            "id": _HOOK,
            "oauth_client_id": None,
            "oauth_token_url": None,
            "public_key": self._feed.public_key,
            "created_date": "2023-01-01T12:00:00Z",
            "updated_date": "2023-02-15T10:00:00Z",
        }
        return JSONResponse({"max_allowed": 5, "webhooks": [hook]})

    async def _parse(self, request: Request) -> Response:
        refused = self._refused(request)
        if refused is not None:
            return refused
        host, url = self._config.inbound_domain, self._config.public_url.rstrip("/") + INBOUND
        setting = {"url": url, "hostname": host, "spam_check": False, "send_raw": False}
        return JSONResponse({"result": [] if host is None else [setting]})

    async def _test(self, request: Request) -> Response:
        refused = self._refused(request)
        if refused is not None:
            return refused
        try:
            asked: Any = json.loads(await request.body())
            url, hook = str(asked["url"]), asked.get("id", _HOOK)
        except (ValueError, KeyError, TypeError, AttributeError):
            return _error(400, "url is required")
        if hook != _HOOK:
            return _error(404, "webhook not found")
        if not url.startswith(self._config.public_url.rstrip("/") + "/"):
            return _error(400, "the sandbox calls nobody but the receiver that it was configured with")
        self._feed.test(url)
        return Response(status_code=204)


def _error(status: int, message: str) -> Response:
    return JSONResponse({"errors": [{"message": message, "field": None}]}, status_code=status)
