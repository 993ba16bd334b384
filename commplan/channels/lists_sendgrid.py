"""SendGrid's suppression lists and unsubscribe groups, through the official SDK on our transport.

Never touches the global list: it would keep back other systems' mail, too. Never puts an address into an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import quote

import orjson

from commplan.channels.email_sendgrid import Body, open_sdk, reading
from commplan.channels.transport import Transport
from commplan.errors import HaltError, RejectedError
from commplan.settings import EmailSettings

#: Most entries of one page, and most addresses handed over in one request.
MOST = 500
#: What reading the lists, and changing the groups, needs a permission for.
_READ, _CHANGE = "read the suppression lists (Suppressions)", "change unsubscribe groups (Suppressions)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """An address on a list, in seconds of the provider's clock; of a group, which one."""

    address: str = field(repr=False)
    created: int
    group_id: int | None = None

    @property
    def at(self) -> datetime:
        """When it came onto the list."""
        return datetime.fromtimestamp(self.created, UTC)


class SendGridLists:
    """Reads the lists of an account, and changes its groups."""

    def __init__(self, settings: EmailSettings, *, transport: Transport | None = None) -> None:
        self._transport = transport or Transport(settings.base_url.rstrip("/"), timeout=settings.timeout)
        self._client = open_sdk(settings, self._transport).client

    def page(self, name: str, *, since: int, offset: int) -> tuple[Listed, ...]:
        """Return up to `MOST` entries of a list that were made at `since` or later, from the `offset`-th on.

        `name` as in ``/v3/suppression/{name}``. DeliveryError for whatever is not a whole answer.
        """
        asked = {"start_time": since, "limit": MOST, "offset": offset}
        with reading(_READ):
            answer = self._client.suppression._(name).get(query_params=asked)
            return _entries(json.loads(answer.body), "created")

    def in_groups(self) -> tuple[Listed, ...]:
        """Return everybody in an unsubscribe group of the account; SendGrid gives them in one answer."""
        with reading(_READ):
            return _entries(json.loads(self._client.asm.suppressions.get().body), "created_at")

    def join(self, group_id: int, addresses: Sequence[str]) -> None:
        """Put up to `MOST` addresses into a group; those that are in it already stay."""
        if not 1 <= len(addresses) <= MOST:
            raise ValueError(f"a request takes 1 to {MOST} addresses")
        body = Body(orjson.dumps({"recipient_emails": list(addresses)}))
        with _of_group(), reading(_CHANGE):
            self._client.asm.groups._(str(group_id)).suppressions.post(request_body=body)

    def leave(self, group_id: int, address: str) -> None:
        """Take an address out of a group; nothing happens if it is not in it."""
        with _of_group(), reading(_CHANGE):
            self._client.asm.groups._(str(group_id)).suppressions._(quote(address, safe="")).delete()

    def close(self) -> None:
        """Close the idle connections."""
        self._transport.close()


@contextmanager
def _of_group() -> Iterator[None]:
    """Turn what says that there is no such group into a refusal of this one: the account itself is right."""
    try:
        yield
    except HaltError as error:
        if error.status != 404:
            raise
        raise RejectedError("SendGrid has no such group; correct COMMPLAN_EMAIL__GROUPS", status=404) from None


def _entries(found: Iterable[Mapping[str, object]], time: str) -> tuple[Listed, ...]:
    if not isinstance(found, list):
        raise ValueError
    return tuple(
        Listed(
            address=str(entry["email"]),
            created=_number(entry[time]),
            group_id=_number(entry["group_id"]) if time == "created_at" else None,
        )
        for entry in found
    )


def _number(value: object) -> int:
    if not isinstance(value, int | float):
        raise ValueError
    return int(value)
