"""SendGrid's suppression lists and unsubscribe groups over HTTP: what the account holds, whoever put it there.

Never more than the service: a list pages by 500, newest first, and what its questions cannot say is a 400.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from commplan.sandbox.config import SandboxConfig
from commplan.sandbox.dice import Dice

#: Most entries of one page, and how many it has unless fewer are asked for.
MOST = 500
#: What each list says of an entry besides its address and time.
_FIELDS: Mapping[str, tuple[str, ...]] = {
    "bounces": ("reason", "status"),
    "blocks": ("reason", "status"),
    "spam_reports": ("ip",),
    "invalid_emails": ("reason",),
    "unsubscribes": (),
}
_BUSY = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An address on a list, as it was written, since a moment of the provider's clock."""

    email: str = field(repr=False)
    created: int
    says: Mapping[str, str]


@dataclass(slots=True, kw_only=True)
class _Group:
    name: str
    description: str
    is_default: bool
    entries: dict[str, Entry] = field(default_factory=dict, repr=False)


class SuppressionLists:
    """The lists and groups of one account."""

    def __init__(self, config: SandboxConfig) -> None:
        self._config = config
        self._lists: dict[str, dict[str, Entry]] = {name: {} for name in _FIELDS}
        self._groups: dict[int, _Group] = {}
        self._asked = 0

    def put(self, name: str, email: str, created: int, **says: str) -> None:
        """Put an address on a list; it is there once, with its latest entry."""
        known = {key: says.get(key, "") for key in _FIELDS[name]}
        self._lists[name][email.casefold()] = Entry(email=email, created=created, says=known)

    def has(self, name: str, email: str) -> bool:
        """Tell whether an address is on a list."""
        return email.casefold() in self._lists[name]

    def routes(self) -> list[Route]:
        """Return what the lists answer to."""
        groups = "/v3/asm/groups"
        return [
            Route("/v3/suppression/{name}", self._page, methods=["GET"]),
            Route("/v3/suppression/{name}/{email:path}", self._one, methods=["GET", "DELETE"]),
            Route("/v3/asm/suppressions/global", self._add_global, methods=["POST"]),
            Route("/v3/asm/suppressions/global/{email:path}", self._global, methods=["GET", "DELETE"]),
            Route("/v3/asm/suppressions", self._all, methods=["GET"]),
            Route(groups, self._list_groups, methods=["GET", "POST"]),
            Route(groups + "/{group_id:int}/suppressions", self._of_group, methods=["GET", "POST"]),
            Route(groups + "/{group_id:int}/suppressions/{email:path}", self._leave, methods=["DELETE"]),
        ]

    def _refused(self, request: Request) -> Response | None:
        given = request.headers.get("authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {self._config.api_key}".encode()):
            return _error(401, "The provided authorization grant is invalid, expired, or revoked")
        self._asked += 1
        if Dice(self._config.seed, "lists", self._asked).chance("busy", self._config.switches.lists_busy_share):
            headers = {
                "X-RateLimit-Limit": str(_BUSY),
                "X-RateLimit-Remaining": "0",
                "X-RateLimit-Reset": str(int(self._config.stamp()) + 1),
            }
            return _error(429, "too many requests", headers=headers)
        return None

    async def _page(self, request: Request) -> Response:
        if (refused := self._refused(request)) is not None:
            return refused
        entries = self._lists.get(request.path_params["name"])
        if entries is None:
            return _error(404, "not found")
        asked = dict(request.query_params)
        try:
            limit, offset = int(asked.pop("limit", MOST)), int(asked.pop("offset", 0))
            first, last = int(asked.pop("start_time", 0)), int(asked.pop("end_time", 2**62))
        except ValueError:
            return _error(400, "start_time, end_time, limit and offset are whole numbers")
        if asked or not 1 <= limit <= MOST or offset < 0:
            return _error(400, f"limit is between 1 and {MOST}, offset 0 or more, and nothing else is emulated")
        found = [entry for entry in entries.values() if first <= entry.created <= last]
        found.sort(key=lambda entry: (-entry.created, entry.email))
        return JSONResponse([_line(entry) for entry in found[offset : offset + limit]])

    async def _one(self, request: Request) -> Response:
        if (refused := self._refused(request)) is not None:
            return refused
        entries, email = self._lists.get(request.path_params["name"]), _email(request)
        if entries is None:
            return _error(404, "not found")
        if request.method == "DELETE":
            return Response(status_code=204) if entries.pop(email, None) else _error(404, "email does not exist")
        return JSONResponse([_line(entries[email])] if email in entries else [])

    async def _add_global(self, request: Request) -> Response:
        if (refused := self._refused(request)) is not None:
            return refused
        emails = await _emails(request)
        if emails is None:
            return _error(400, "recipient_emails is a list of addresses", field="recipient_emails")
        for email in emails:
            self.put("unsubscribes", email, int(self._config.now()))
        return JSONResponse({"recipient_emails": emails}, status_code=201)

    async def _global(self, request: Request) -> Response:
        if (refused := self._refused(request)) is not None:
            return refused
        entries, email = self._lists["unsubscribes"], _email(request)
        if request.method == "DELETE":
            entries.pop(email, None)
            return Response(status_code=204)
        return JSONResponse({"recipient_email": entries[email].email} if email in entries else {})

    async def _all(self, request: Request) -> Response:
        if (refused := self._refused(request)) is not None:
            return refused
        return JSONResponse(
            [
                {"email": entry.email, "group_id": number, "group_name": group.name, "created_at": entry.created}
                for number, group in self._groups.items()
                for entry in group.entries.values()
            ]
        )

    async def _list_groups(self, request: Request) -> Response:
        if (refused := self._refused(request)) is not None:
            return refused
        if request.method == "GET":
            return JSONResponse([_shown(number, group) for number, group in self._groups.items()])
        match await _body(request):
            case {"name": str(name), "description": str(description), **more} if 0 < len(name) <= 30:
                number = 101 + len(self._groups)
                group = _Group(name=name, description=description, is_default=more.get("is_default") is True)
                self._groups[number] = group
                return JSONResponse(_named(number, group), status_code=201)
        return _error(400, "a group has a name of up to 30 characters and a description")

    async def _of_group(self, request: Request) -> Response:
        if (refused := self._refused(request)) is not None:
            return refused
        group = self._groups.get(request.path_params["group_id"])
        if group is None:
            return _error(404, "group not found")
        if request.method == "GET":
            return JSONResponse([entry.email for entry in group.entries.values()])
        emails = await _emails(request)
        if emails is None:
            return _error(400, "recipient_emails is a list of addresses", field="recipient_emails")
        for email in emails:
            entry = Entry(email=email, created=int(self._config.now()), says={})
            group.entries.setdefault(email.casefold(), entry)
        return JSONResponse({"recipient_emails": emails}, status_code=201)

    async def _leave(self, request: Request) -> Response:
        if (refused := self._refused(request)) is not None:
            return refused
        group = self._groups.get(request.path_params["group_id"])
        if group is None:
            return _error(404, "group not found")
        group.entries.pop(_email(request), None)
        return Response(status_code=204)


def _email(request: Request) -> str:
    return unquote(request.path_params["email"]).casefold()


def _line(entry: Entry) -> dict[str, object]:
    return {"created": entry.created, "email": entry.email, **entry.says}


def _named(number: int, group: _Group) -> dict[str, object]:
    return {"id": number, "name": group.name, "description": group.description, "is_default": group.is_default}


def _shown(number: int, group: _Group) -> dict[str, object]:
    return {**_named(number, group), "unsubscribes": len(group.entries)}


async def _body(request: Request) -> Any:
    try:
        return json.loads(await request.body())
    except ValueError:
        return None


async def _emails(request: Request) -> list[str] | None:
    match await _body(request):
        case {"recipient_emails": [*emails]} if all(isinstance(email, str) and "@" in email for email in emails):
            return emails
    return None


def _error(
    status: int, message: str, *, field: str | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    return JSONResponse({"errors": [{"message": message, "field": field}]}, status_code=status, headers=headers)
