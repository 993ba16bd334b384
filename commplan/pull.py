"""What the email provider's suppression lists say, taken into ours: for what its webhook never told, or told others.

Never stores anything about an address that no run of ours knows, and never takes anybody off our list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import Connection, Row, Text, insert, select, update

from commplan.channels.lists_sendgrid import MOST, Listed
from commplan.consent import SCOPE_ALL, SCOPE_MARKETING, Contact
from commplan.errors import DeliveryError, TransientError
from commplan.holder import people_at
from commplan.ids import AddressKey
from commplan.push import ANY, enter
from commplan.settings import Settings
from commplan.store import Store
from commplan.store.given import given
from commplan.store.tables import group_entries, provider_lists
from commplan.store.types import machine_now
from commplan.suppression import suppress
from commplan.terms import Channel, Reason
from commplan.tracking.inbox import take_turn
from commplan.tracking.sender import email_key

#: Machine seconds from one reading of a list to the next, and from a failure at least.
EVERY, AGAIN = 900.0, 60.0
#: Pages of one list that are read in one pass: a first reading may take several.
PAGES = 200
#: The provider's seconds that every reading goes back: an entry may be listed later than it is dated.
OVERLAP = 7_200
#: Everybody in an unsubscribe group of the account, as a list.
GROUPS = "groups"
#: The provider's lists, and what each says of an address and of the people who have it. A global unsubscribe ends mail
#: of the whole account to the address; of us its person wants no marketing, and the rest has opt-outs of its own.
LISTS: Mapping[str, tuple[Reason, str, str]] = {
    "bounces": (Reason.HARD_BOUNCE, SCOPE_ALL, SCOPE_ALL),
    "invalid_emails": (Reason.HARD_BOUNCE, SCOPE_ALL, SCOPE_ALL),
    "spam_reports": (Reason.SPAM_REPORT, SCOPE_ALL, SCOPE_ALL),
    "unsubscribes": (Reason.UNSUBSCRIBED, SCOPE_ALL, SCOPE_MARKETING),
}


class ProviderLists(Protocol):
    """Reads the suppression lists of the email provider's account."""

    def page(self, name: str, *, since: int, offset: int) -> Sequence[Listed]:
        """Return up to `MOST` entries since a second of the provider's clock; DeliveryError if that was no answer."""

    def in_groups(self) -> Sequence[Listed]:
        """Return everybody in an unsubscribe group; DeliveryError if that was no answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulled:
    """What one pass came to: entries about addresses of ours that changed something, and why it stopped early."""

    new: int = 0
    failure: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How far a list has been read; `pulled_at` is when it was last read to its end, if ever."""

    name: str
    pulled_at: datetime | None = None
    failure: str | None = None
    placed: int = 0
    strangers: int = 0


def standing(store: Store) -> list[Standing]:
    """Return how far each of the provider's lists has been read."""
    with store.read() as connection:
        rows = {row.name: row for row in connection.execute(select(provider_lists))}
    return [
        Standing(
            name=name,
            pulled_at=rows[name].pulled_at,
            failure=rows[name].failure,
            placed=rows[name].placed,
            strangers=rows[name].strangers,
        )
        if name in rows
        else Standing(name=name)
        for name in (*LISTS, GROUPS)
    ]


def pull(store: Store, settings: Settings, lists: Callable[[], ProviderLists], *, force: bool = False) -> Pulled:
    """Read what is new on every list that is due, or with `force` on all; a pass ends at the first failure.

    Each page is taken in, and the place noted, in one short transaction of its own, so that a pass that is killed or
    refused goes on where it was. No transaction is open while asking; `lists` is called if anything is due.
    """
    new = 0
    for name in (*LISTS, GROUPS):
        row = _due(store, name, force=force)
        if row is None:
            continue
        try:
            if name == GROUPS:
                new += _take_groups(store, settings, row, lists().in_groups())
            else:
                new += _read(store, row, lists())
        except DeliveryError as error:
            wait = (error.retry_after or 0.0) if isinstance(error, TransientError) else 0.0
            _fail(store, name, str(error), max(AGAIN, wait))
            return Pulled(new=new, failure=str(error))
    return Pulled(new=new)


def _due(store: Store, name: str, *, force: bool) -> Row[Any] | None:
    with store.write() as connection:
        mine = provider_lists.c.name == name
        if connection.execute(select(provider_lists.c.name).where(mine)).first() is None:
            connection.execute(insert(provider_lists).values(name=name))
        query = select(provider_lists).where(mine)
        return connection.execute(
            query if force else query.where(provider_lists.c.next_machine <= machine_now())
        ).one_or_none()


def _read(store: Store, row: Row[Any], lists: ProviderLists) -> int:
    name, since, newest, done = row.name, row.since, row.newest, row.done
    reason, scope, of_person = LISTS[name]
    new = 0
    for _ in range(PAGES):
        page = lists.page(name, since=since, offset=done)
        newest, done = max([newest, *(entry.created for entry in page)]), done + len(page)
        is_last = len(page) < MOST
        with store.write() as connection:
            take_turn(connection)
            known = _known(store, connection, page)
            for key, entry, people in known:
                word = _Word(name=name, at=entry.at, reason=reason, scope=scope)
                changed = _suppress(connection, key, (), word)
                if people:
                    changed |= _suppress(connection, key, people, replace(word, scope=of_person))
                new += changed
            _count(connection, row, page, [entry for _, entry, _ in known])
            at = {"since": max(0, newest - OVERLAP), "newest": 0, "done": 0} if is_last else {"newest": newest}
            connection.execute(update(provider_lists).where(provider_lists.c.name == name).values({"done": done, **at}))
            if is_last:
                _finish(connection, store, name)
        if is_last:
            break
    return new


def _take_groups(store: Store, settings: Settings, row: Row[Any], entries: Sequence[Listed]) -> int:
    """Take in who is in a group and was not put there by us; SendGrid tells all of them every time."""
    new, groups = 0, settings.email.groups
    fresh = [entry for entry in entries if entry.created >= row.since]
    for start in range(0, len(fresh), MOST):
        page = fresh[start : start + MOST]
        with store.write() as connection:
            take_turn(connection)
            known = _known(store, connection, page)
            ours = _standing_entries(connection, {key for key, _, _ in known})
            for key, entry, people in known:
                if entry.group_id is None or (entry.group_id, key) in ours:
                    continue
                scopes = {_scope(topic) for topic, group_id in groups.items() if group_id == entry.group_id}
                for scope in sorted(scopes or {SCOPE_MARKETING}):
                    word = _Word(name=GROUPS, at=entry.at, reason=Reason.UNSUBSCRIBED, scope=scope)
                    new += _suppress(connection, key, people, word)
                if scopes:
                    enter(connection, entry.group_id, [key], at=entry.at)
            _count(connection, row, page, [entry for _, entry, _ in known])
    with store.write() as connection:
        newest = max([row.since + OVERLAP, *(entry.created for entry in fresh)])
        connection.execute(
            update(provider_lists).where(provider_lists.c.name == GROUPS).values(since=max(0, newest - OVERLAP))
        )
        _finish(connection, store, GROUPS)
    return new


def _scope(topic: str) -> str:
    return SCOPE_MARKETING if topic == ANY else topic


def _known(
    store: Store, connection: Connection, page: Iterable[Listed]
) -> list[tuple[AddressKey, Listed, frozenset[Contact]]]:
    """Return the entries about addresses that a run of ours knows, with whoever has them."""
    keyed = [(key, entry) for entry in page if (key := email_key(store, entry.address)) is not None]
    people = people_at(connection, [key for key, _ in keyed])
    return [(key, entry, people[key]) for key, entry in keyed if key in people]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Word:
    """What a list says of an address, since when."""

    name: str
    at: datetime
    reason: Reason
    scope: str


def _suppress(connection: Connection, key: AddressKey, people: Iterable[Contact], word: _Word) -> bool:
    who: list[Contact | None] = [*sorted(people, key=lambda one: (one.people, one.contact_id))]
    changed = [
        suppress(
            connection,
            channel=Channel.EMAIL,
            address_key=key,
            contact=contact,
            scope=word.scope,
            reason=word.reason,
            source=f"SendGrid's list of {word.name.replace('_', ' ')}",
            at=word.at,
        )
        for contact in who or [None]
    ]
    return any(changed)


def _standing_entries(connection: Connection, keys: Iterable[AddressKey]) -> set[tuple[int, str]]:
    wanted = given(connection, {"address_key": Text()}, [(key,) for key in sorted(keys)])
    rows = connection.execute(
        select(group_entries.c.group_id, group_entries.c.address_key)
        .join(wanted, wanted.c.address_key == group_entries.c.address_key)
        .where(group_entries.c.removed_at.is_(None))
    )
    return {(row.group_id, row.address_key) for row in rows}


def _count(connection: Connection, row: Row[Any], page: Sequence[Listed], placed: Sequence[Listed]) -> None:
    """Count the entries of a page that no earlier reading has counted."""
    seen = row.since + OVERLAP if row.since else -1
    fresh, ours = (sum(entry.created > seen for entry in entries) for entries in (page, placed))
    columns = provider_lists.c
    connection.execute(
        update(provider_lists)
        .where(columns.name == row.name)
        .values(placed=columns.placed + ours, strangers=columns.strangers + fresh - ours)
    )


def _finish(connection: Connection, store: Store, name: str) -> None:
    connection.execute(
        update(provider_lists)
        .where(provider_lists.c.name == name)
        .values(pulled_at=store.clock.now(), failure=None, next_machine=machine_now() + EVERY)
    )


def _fail(store: Store, name: str, why: str, wait: float) -> None:
    with store.write() as connection:
        connection.execute(
            update(provider_lists)
            .where(provider_lists.c.name == name)
            .values(failure=why, next_machine=machine_now() + wait)
        )
