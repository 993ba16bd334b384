"""SendGrid v3 over HTTP: mail/send with its authentication, its rules and its way of answering.

Never answers more than the real service does: 202 and an empty body mean queued, and nothing else.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from commplan.sandbox.config import SandboxConfig
from commplan.sandbox.fault import Faults, go_wrong
from commplan.sandbox.mail import Envelope, envelopes
from commplan.sandbox.mailbox import Mailboxes, Tracking
from commplan.sandbox.validation import Problem, check, is_unverified
from commplan.terms import Channel

MAX_BYTES = 30 * 1024 * 1024

_NO_KEY = "The provided authorization grant is invalid, expired, or revoked"
_TOO_LARGE = (
    "<html>\r\n<head><title>413 Request Entity Too Large</title></head>\r\n"
    "<body>\r\n<center><h1>413 Request Entity Too Large</h1></center>\r\n<hr><center>nginx</center>\r\n"
    "</body>\r\n</html>\r\n"
)
_RATE_LIMIT = 600
_TO = re.compile(rb'"to":\s*\[\s*\{[^}]*"email":\s*"([^"]*)"')


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reading:
    """A request that was read: its problems, or what is in it."""

    problems: Sequence[Problem]
    envelopes: Sequence[Envelope] = ()
    tracking: Tracking = field(default_factory=Tracking)
    invalid: frozenset[int] = frozenset()
    is_rehearsal: bool = False


class SendGrid:
    """The emulated service of one account."""

    def __init__(self, config: SandboxConfig, mailboxes: Mailboxes, faults: Faults) -> None:
        self._config = config
        self._mailboxes = mailboxes
        self._faults = faults

    def routes(self) -> list[Route]:
        """Return what the service answers to."""
        return [Route("/v3/mail/send", self._mail_send, methods=["POST"])]

    async def _mail_send(self, request: Request) -> Response:
        given = request.headers.get("authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {self._config.api_key}".encode()):
            return _errors(401, _NO_KEY)
        if int(request.headers.get("content-length", "0")) > MAX_BYTES:
            return Response(_TOO_LARGE, status_code=413, media_type="text/html")
        raw = await request.body()
        if len(raw) > MAX_BYTES:
            return Response(_TOO_LARGE, status_code=413, media_type="text/html")
        if not request.headers.get("content-type", "").startswith("application/json"):
            return _errors(415, "Content-Type should be application/json.")
        fault = self._faults.draw(Channel.EMAIL, _first_recipient(raw))
        handle = partial(self._accept, raw)
        if fault is None:
            return await handle()
        return await go_wrong(
            fault,
            request,
            handle,
            busy=self._busy,
            slow_seconds=self._config.switches.slow_seconds,
            late_seconds=self._config.late_seconds,
        )

    async def _accept(self, raw: bytes) -> Response:
        # Parsing and substituting for a thousand recipients takes a while; the loop has others to serve.
        reading = await asyncio.to_thread(self._read, raw)
        if reading.problems:
            status = 403 if is_unverified(list(reading.problems)) else 400
            return _refusal(status, reading.problems, name_field=self._config.switches.errors_name_field)
        if reading.is_rehearsal:
            return Response(status_code=200)
        request_id = secrets.token_urlsafe(16)
        self._mailboxes.accept(request_id, reading.envelopes, reading.tracking, reading.invalid)
        return Response(status_code=202, headers={"X-Message-Id": request_id})

    def _read(self, raw: bytes) -> _Reading:
        try:
            body: Any = json.loads(raw)
        except ValueError:
            return _Reading(problems=[Problem(message="Bad Request", field=None)])
        problems = check(body, now=self._config.now(), verified=self._config.verified_senders)
        invalid: frozenset[int] = frozenset()
        if problems and not self._config.switches.whole_request_refused:
            invalid = frozenset(problem.recipient for problem in problems if problem.recipient is not None)
            problems = [problem for problem in problems if problem.recipient is None]
        if problems:
            return _Reading(problems=problems)
        return _Reading(
            problems=(),
            envelopes=list(envelopes(body, nested=self._config.switches.nested_substitution)),
            tracking=_tracking(body),
            invalid=invalid,
            is_rehearsal=_is_on(body.get("mail_settings"), "sandbox_mode"),
        )

    def _busy(self) -> Response:
        reset = str(int(self._config.stamp()) + 1)
        headers = {"X-RateLimit-Limit": str(_RATE_LIMIT), "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": reset}
        return _errors(429, "too many requests", headers=headers)


def _first_recipient(raw: bytes) -> str:
    found = _TO.search(raw)
    return found[1].decode("utf-8", "replace") if found else ""


def _tracking(body: Mapping[str, Any]) -> Tracking:
    tracking, mail = body.get("tracking_settings"), body.get("mail_settings")
    return Tracking(
        opens=_is_on(tracking, "open_tracking", default=True),
        clicks=_is_on(tracking, "click_tracking", default=True),
        unsubscribes=_is_on(tracking, "subscription_tracking"),
        ignores_suppressions=_is_on(mail, "bypass_list_management"),
    )


def _is_on(settings: object, name: str, *, default: bool = False) -> bool:
    setting = settings.get(name) if isinstance(settings, dict) else None
    return bool(setting.get("enable", default)) if isinstance(setting, dict) else default


def _refusal(status: int, problems: Sequence[Problem], *, name_field: bool) -> Response:
    errors = [
        {"message": problem.message, "field": problem.field if name_field else None, "help": None}
        for problem in problems
    ]
    return JSONResponse({"errors": errors}, status_code=status)


def _errors(status: int, message: str, *, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse(
        {"errors": [{"message": message, "field": None, "help": None}]}, status_code=status, headers=headers
    )
