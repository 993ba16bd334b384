"""SendGrid's Email Logs over HTTP: which messages were accepted, searched as its query language allows.

Never shows a message before its lag is over, and never more of the language than is emulated: the rest is a 400.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from commplan.sandbox.config import SandboxConfig
from commplan.sandbox.dice import Dice
from commplan.sandbox.mailbox import Mail, Mailboxes
from commplan.sandbox.webhook import new_event_id

#: Most messages of one answer, and how many it has unless more are asked for.
MOST, USUAL = 1_000, 10

_CONDITION = re.compile(
    r"""\s*(?P<field>to_email|sg_message_id)\s*=\s*'(?P<text>[^'\\]*)'\s*
    |\s*sg_message_id_created_at\s*(?P<sign>>=|<=|>|<)\s*TIMESTAMP\s*"(?P<moment>[^"]*)"\s*""",
    re.VERBOSE,
)
_AND = re.compile(r"AND(?=\s)")
_SIGNS: dict[str, Callable[[float, float], bool]] = {
    ">=": lambda at, limit: at >= limit,
    "<=": lambda at, limit: at <= limit,
    ">": lambda at, limit: at > limit,
    "<": lambda at, limit: at < limit,
}
#: What a log shows of events that are not its own words.
_STATUSES = {"queued": "processed"}

Holds = Callable[[Mail, float], bool]


class MailLog:
    """The logs of one account."""

    def __init__(self, config: SandboxConfig, mailboxes: Mailboxes) -> None:
        self._config = config
        self._mailboxes = mailboxes
        self._asked = 0

    def routes(self) -> list[Route]:
        """Return what the logs answer to."""
        return [
            Route("/v3/logs", self._search, methods=["POST"]),
            Route("/v3/logs/{sg_message_id}", self._detail, methods=["GET"]),
        ]

    def _refused(self, request: Request) -> Response | None:
        given = request.headers.get("authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {self._config.api_key}".encode()):
            return _error(401, "The provided authorization grant is invalid, expired, or revoked")
        self._asked += 1
        if Dice(self._config.seed, "logs", self._asked).chance("busy", self._config.switches.logs_busy_share):
            return _error(429, "too many requests")
        return None

    async def _search(self, request: Request) -> Response:
        raw = await request.body()
        refused = self._refused(request)
        if refused is not None:
            return refused
        try:
            asked: Any = json.loads(raw)
        except ValueError:
            asked = None
        limit = asked.get("limit", USUAL) if isinstance(asked, dict) else None
        if not isinstance(limit, int) or not 1 <= limit <= MOST or asked.keys() - {"query", "limit"}:
            return _error(400, f"the request has a query and a limit between 1 and {MOST}")
        conditions = read_query(asked.get("query", ""), address=self._address)
        if conditions is None:
            return _error(400, "the query is not one that these logs understand", field="query")
        found = [mail for mail, created in self._visible() if all(holds(mail, created) for holds in conditions)]
        return JSONResponse({"messages": [self._line(mail) for mail in found[:limit]]})

    async def _detail(self, request: Request) -> Response:
        refused = self._refused(request)
        if refused is not None:
            return refused
        wanted = request.path_params["sg_message_id"]
        for mail, _ in self._visible():
            if mail.provider_id == wanted:
                return JSONResponse(self._whole(mail))
        return _error(404, "message not found")

    def _visible(self) -> Iterator[tuple[Mail, float]]:
        """Yield what the logs know by now, newest first, each with its time on the provider's clock."""
        switches = self._config.switches
        last = self._config.clock.now().timestamp() - 60 * switches.logs_lag
        for mail in reversed(self._mailboxes.accepted):
            if mail.accepted_at <= last:
                yield mail, mail.accepted_at + switches.clock_offset

    def _address(self, mail: Mail) -> str:
        return mail.to.lower() if self._config.switches.logs_lowercase else mail.to

    def _line(self, mail: Mail) -> dict[str, object]:
        created = datetime.fromtimestamp(mail.accepted_at + self._config.switches.clock_offset, UTC)
        return {
            "from_email": mail.sender,
            "sg_message_id": mail.provider_id,
            "subject": mail.subject,
            "to_email": self._address(mail),
            "reason": "",
            "status": _STATUSES.get(mail.status, mail.status),
            "sg_message_id_created_at": created.isoformat(timespec="seconds").replace("+00:00", "Z"),
        }

    def _whole(self, mail: Mail) -> dict[str, object]:
        line = self._line(mail)
        created = int(mail.accepted_at + self._config.switches.clock_offset)
        event = {
            "event": "processed",
            "email": mail.to,
            "sg_message_id": mail.provider_id,
            "sg_event_id": new_event_id(),
            "smtp-id": f"<{mail.request_id}@geopod-ismtpd-1>",
            "timestamp": created,
            "custom_args": dict(mail.args),
        }
        return {
            **{name: line[name] for name in ("from_email", "sg_message_id", "subject", "to_email", "status")},
            "template_id": "",
            "asm_group_id": 0,
            "teammate": "",
            "api_key_id": "",
            "client_ip": "127.0.0.1",
            "outbound_ip": "",
            "outbound_ip_type": "",
            "category": list(mail.categories),
            "custom_args": dict(mail.args),
            "events": [] if mail.status in {"queued", "dropped"} else [event],
        }


def read_query(query: object, *, address: Callable[[Mail], str]) -> list[Holds] | None:
    """Return the conditions of a query, which must all hold; None if it says anything that is not emulated.

    Comparisons of text are case-sensitive, as the service's are; `address` is how the logs know a recipient.
    """
    if not isinstance(query, str) or not query.strip():
        return None
    conditions: list[Holds] = []
    at = 0
    while True:
        found = _CONDITION.match(query, at)
        condition = None if found is None else _condition(found, address)
        if found is None or condition is None:
            return None
        conditions.append(condition)
        at = found.end()
        if at == len(query):
            return conditions
        joined = _AND.match(query, at)
        if joined is None:
            return None
        at = joined.end()


def _condition(found: re.Match[str], address: Callable[[Mail], str]) -> Holds | None:
    text = found["text"]
    if found["field"] == "to_email":
        return lambda mail, _: address(mail) == text
    if found["field"] == "sg_message_id":
        return lambda mail, _: mail.provider_id == text
    compare = _SIGNS[found["sign"]]
    try:
        limit = datetime.fromisoformat(found["moment"].replace("Z", "+00:00"))
    except ValueError:
        return None
    if limit.tzinfo is None:
        return None
    seconds = limit.timestamp()
    return lambda _, created: compare(created, seconds)


def _error(status: int, message: str, *, field: str | None = None) -> Response:
    error = {"message": message} | ({} if field is None else {"field": field})
    return JSONResponse({"errors": [error]}, status_code=status)
