"""The suppression list: addresses and people that must not be written to, kept as keyed hashes and ids.

Never sees an address, so an entry outlives erasure and re-import; never forgets one: what is lifted stays on record,
and every change of an entry is kept beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Row, Subquery, Text, and_, func, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from commplan.consent import (
    BLOCKS,
    EVERY_CHANNEL,
    EVERYWHERE,
    OF_TOPIC,
    SCOPE_ALL,
    WISHES,
    Contact,
    Suppression,
    in_force,
)
from commplan.ids import AddressKey, RunId
from commplan.store.given import given
from commplan.store.tables import recipients, suppression_changes, suppressions
from commplan.terms import Channel, Reason

#: Lines of the whole list that are read at once.
_PAGE = 5_000


class Listed:
    """The active entries of the suppression list about some addresses and people."""

    def __init__(
        self,
        by_address: Mapping[tuple[Channel, AddressKey], frozenset[Suppression]],
        by_contact: Mapping[tuple[str, Contact], frozenset[Suppression]],
    ) -> None:
        self._by_address = by_address
        self._by_contact = by_contact

    def __bool__(self) -> bool:
        """Whether anything is listed about any of them."""
        return bool(self._by_address or self._by_contact)

    def of(self, channel: Channel, address_key: AddressKey, contact: Contact | None) -> frozenset[Suppression]:
        """Return what is listed on a channel about an address, and about the person who has it if that is known."""
        found = self._by_address.get((channel, address_key), frozenset())
        if contact is not None:
            for where in (channel, EVERY_CHANNEL):
                found |= self._by_contact.get((where, contact), frozenset())
        return found


def suppress(
    connection: Connection,
    *,
    channel: Channel,
    address_key: AddressKey,
    contact: Contact | None,
    scope: str,
    reason: Reason,
    source: str,
    at: datetime,
    until: datetime | None = None,
    said: str | None = None,
) -> bool:
    """Put an address on the suppression list, in the caller's transaction; True if that changed anything.

    What a person asked for (`WISHES`) is listed for the person too, if it is known who it was: it follows them to
    their next address, and holds for whoever else has this one; what is about the content (`EVERYWHERE`) holds for the
    person on every channel. `at` is when it happened. The latest of opt-outs and
    `lift`s wins whatever order they are told in; at the same instant the opt-out wins. `until`: when a pause ends by
    itself. `said`: in whose words, or on whose word. ValueError for a reason that is no suppression, a scope that the
    reason cannot have, a pause without an end, or an end of anything else.
    """
    _check(reason, scope)
    _check_end(reason, until)
    place = _Place(connection=connection, channel=channel, address_key=address_key, scope=scope, reason=reason)
    word = _Word(source=source, at=at, until=until, said=said)
    changed = place.put_on(None, word)
    if contact is not None and reason in WISHES:
        changed |= place.put_on(contact, word)
    return changed


def lift(
    connection: Connection,
    *,
    channel: Channel,
    address_key: AddressKey,
    contacts: Iterable[Contact],
    scope: str,
    reason: Reason,
    source: str,
    at: datetime,
    said: str | None = None,
) -> bool:
    """Take an address, and people, off the suppression list, in the caller's transaction; True if one was on it.

    Later than `at`, or at the same instant, the opt-out stays. A lift that comes before the opt-out it is about is
    kept, so that an older opt-out told afterwards changes nothing.
    """
    _check(reason, scope)
    place = _Place(connection=connection, channel=channel, address_key=address_key, scope=scope, reason=reason)
    word = _Word(source=source, at=at, said=said)
    lifted = place.take_off(None, word)
    if reason in WISHES:
        for contact in contacts:
            lifted |= place.take_off(contact, word)
    return lifted


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of the suppression list, as it is written down: about an address (contact None), or about a person.

    `channel` is `EVERY_CHANNEL` for what holds for a person on every one.
    """

    channel: str
    address_key: AddressKey
    contact: Contact | None
    scope: str
    reason: Reason
    source: str
    at: datetime
    until: datetime | None = None
    lifted_at: datetime | None = None
    said: str | None = field(default=None, repr=False)


def restore(connection: Connection, line: Entry) -> bool:
    """Take one line of another list into this one, in the caller's transaction; True if that changed anything.

    What this list knows to have happened later stays. ValueError as with `suppress`.
    """
    _check(line.reason, line.scope)
    _check_end(line.reason, line.until)
    here = _place_of(connection, line)
    # Lifted as soon as it was said: somebody took back what was never on the list.
    never = line.lifted_at is not None and line.lifted_at <= line.at
    word = _Word(source=line.source, at=line.at, until=line.until, said=line.said)
    changed = not never and here.put_on(line.contact, word)
    if line.lifted_at is not None:
        changed |= here.take_off(line.contact, _Word(source=line.source, at=line.lifted_at))
    return changed


def strike(connection: Connection, line: Entry, *, source: str, at: datetime, said: str | None = None) -> bool:
    """Lift one line and no other, in the caller's transaction; False if it was said again, or lifted, meanwhile."""
    return _place_of(connection, line).take_off(line.contact, _Word(source=source, at=at, said=said))


def _place_of(connection: Connection, line: Entry) -> _Place:
    return _Place(
        connection=connection,
        channel=line.channel,
        address_key=line.address_key,
        scope=line.scope,
        reason=line.reason,
    )


def entries(connection: Connection) -> Iterator[Entry]:
    """Yield every line of the list, lifted ones included, oldest first, a page at a time."""
    last = 0
    while True:
        page = connection.execute(
            select(suppressions)
            .where(suppressions.c.suppression_id > last)
            .order_by(suppressions.c.suppression_id)
            .limit(_PAGE)
        ).all()
        if not page:
            return
        yield from map(_entry, page)
        last = page[-1].suppression_id


def entries_about(
    connection: Connection, *, address_keys: Iterable[AddressKey], contacts: Iterable[Contact]
) -> list[Entry]:
    """Return the lines about some addresses and some people, lifted ones included, oldest first."""
    keys, who = _asked(connection, address_keys, contacts)
    about_address = select(suppressions).join(keys, suppressions.c.address_key == keys.c.address_key)
    rows = [
        *connection.execute(about_address.where(suppressions.c.people.is_(None))),
        *connection.execute(select(suppressions).join(who, _is_named(who))),
    ]
    return [_entry(row) for row in sorted(rows, key=lambda row: row.suppression_id)]


def _entry(row: Row[Any]) -> Entry:
    return Entry(
        channel=row.channel,
        address_key=AddressKey(row.address_key),
        contact=None if row.people is None else Contact(people=row.people, contact_id=row.contact_id),
        scope=row.scope,
        reason=Reason(row.reason),
        source=row.source,
        at=row.at,
        until=row.until,
        lifted_at=row.lifted_at,
        said=row.said,
    )


def count_in_force(connection: Connection, now: datetime) -> dict[Reason, int]:
    """Return how many lines of the list are in force for each reason, in order of precedence."""
    rows = connection.execute(
        select(suppressions.c.reason, func.count().label("lines")).where(in_force(now)).group_by(suppressions.c.reason)
    )
    found = {row.reason: row.lines for row in rows}
    return {reason: found[reason] for reason in BLOCKS if reason in found}


def spoke_from(
    connection: Connection, *, channel: Channel, address_key: AddressKey, reason: Reason
) -> frozenset[Contact]:
    """Return the people who are listed for a wish that came from this address last."""
    rows = connection.execute(
        select(suppressions.c.people, suppressions.c.contact_id).where(
            suppressions.c.channel == channel,
            suppressions.c.address_key == address_key,
            suppressions.c.reason == reason,
            suppressions.c.people.is_not(None),
        )
    )
    return frozenset(Contact(people=row.people, contact_id=row.contact_id) for row in rows)


def look_up(
    connection: Connection, *, address_keys: Iterable[str], contacts: Iterable[Contact], now: datetime
) -> Listed:
    """Return what the suppression list says about addresses and people, on every channel; two statements."""
    keys, who = _asked(connection, address_keys, contacts)
    return _listed(connection, keys, who, now)


def _asked(
    connection: Connection, address_keys: Iterable[str], contacts: Iterable[Contact]
) -> tuple[Subquery, Subquery]:
    # Each once: a join would otherwise tell a line as often as it was asked for.
    keys = given(connection, {"address_key": Text()}, [(key,) for key in sorted(set(address_keys))])
    named = {(contact.people, contact.contact_id) for contact in contacts}
    return keys, given(connection, {"people": Text(), "contact_id": Text()}, sorted(named))


def _is_named(who: Subquery) -> ColumnElement[bool]:
    return (suppressions.c.people == who.c.people) & (suppressions.c.contact_id == who.c.contact_id)


def of_recipients(connection: Connection, run_id: RunId, first: int, last: int, *, now: datetime) -> Listed:
    """Return what the suppression list says about a range of a run's recipients and their addresses."""
    mine = and_(recipients.c.run_id == run_id, recipients.c.seq.between(first, last))
    emails = select(recipients.c.email_key.label("address_key")).where(mine)
    keys = emails.union_all(select(recipients.c.phone_key).where(mine)).subquery("keys")
    who = select(recipients.c.people, recipients.c.contact_id).where(mine).subquery("who")
    return _listed(connection, keys, who, now)


def _listed(connection: Connection, keys: Subquery, who: Subquery, now: datetime) -> Listed:
    by_address: dict[tuple[Channel, AddressKey], frozenset[Suppression]] = {}
    by_contact: dict[tuple[str, Contact], frozenset[Suppression]] = {}
    for row in connection.execute(
        select(suppressions)
        .join(keys, suppressions.c.address_key == keys.c.address_key)
        .where(in_force(now), suppressions.c.people.is_(None))
    ):
        address = Channel(row.channel), AddressKey(row.address_key)
        by_address[address] = by_address.get(address, frozenset()) | {_suppression(row)}
    for row in connection.execute(select(suppressions).join(who, _is_named(who)).where(in_force(now))):
        person = row.channel, Contact(people=row.people, contact_id=row.contact_id)
        by_contact[person] = by_contact.get(person, frozenset()) | {_suppression(row)}
    return Listed(by_address, by_contact)


def active(
    connection: Connection, *, channel: Channel, address_key: AddressKey, contact: Contact | None, now: datetime
) -> tuple[Suppression, ...]:
    """Return what the suppression list says about one address and its person, in order of precedence."""
    listed = look_up(connection, address_keys=[address_key], contacts=[] if contact is None else [contact], now=now)
    order = list(BLOCKS)
    found = listed.of(channel, address_key, contact)
    return tuple(sorted(found, key=lambda entry: (order.index(entry.reason), entry.scope)))


def _suppression(row: Row[Any]) -> Suppression:
    return Suppression(reason=Reason(row.reason), scope=row.scope)


def _check(reason: Reason, scope: str) -> None:
    if reason not in BLOCKS:
        raise ValueError(f"{reason} is not a reason to suppress an address")
    if reason not in OF_TOPIC and scope != SCOPE_ALL:
        raise ValueError(f"{reason} is about the address itself; its scope is {SCOPE_ALL!r}")


def _check_end(reason: Reason, until: datetime | None) -> None:
    if (reason is Reason.PAUSED) is (until is None):
        raise ValueError("a pause has an end, and nothing else on the suppression list has one")


#: Only a lift is known, as yet without the opt-out that it is about: the line's time is the lift's own.
_NEVER_ON = suppressions.c.at >= suppressions.c.lifted_at


@dataclass(frozen=True, slots=True, kw_only=True)
class _Word:
    """Who said something about an entry, when, and in what words."""

    source: str
    at: datetime
    until: datetime | None = None
    said: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """What is listed, or lifted, at an address; about the address (contact None) or about a person who spoke there."""

    connection: Connection
    channel: str
    address_key: AddressKey
    scope: str
    reason: Reason

    def put_on(self, contact: Contact | None, word: _Word) -> bool:
        if self._insert(contact, word, lifted_at=None):
            return self._keep(contact, word, listed=True)
        here, told = self._here(contact), self._told(word)
        lifted, ended = suppressions.c.lifted_at, suppressions.c.until <= word.at
        over = or_(lifted <= word.at, and_(lifted.is_(None), ended))
        back = self.connection.execute(update(suppressions).where(here, over).values(lifted_at=None, **told))
        if back.rowcount:
            return self._keep(contact, word, listed=True)
        newer = or_(suppressions.c.at < word.at, _NEVER_ON, self._ties(suppressions.c.at, word))
        again = self.connection.execute(update(suppressions).where(here, newer).values(**told))
        if again.rowcount:
            self._keep(contact, word, listed=True)
        return False

    def take_off(self, contact: Contact | None, word: _Word) -> bool:
        if self._insert(contact, word, lifted_at=word.at):
            return False
        here = self._here(contact)
        lifted: dict[str, object] = {"lifted_at": word.at, **({"said": word.said} if word.said else {})}
        off = self.connection.execute(
            update(suppressions)
            .where(here, suppressions.c.lifted_at.is_(None), suppressions.c.at < word.at)
            .values(**lifted)
        )
        if off.rowcount:
            return self._keep(contact, word, listed=False)
        later = suppressions.c.lifted_at < word.at
        again = or_(later, self._ties(suppressions.c.lifted_at, word))
        told = {**self._told(word), **lifted}
        self.connection.execute(update(suppressions).where(here, _NEVER_ON, again).values(**told))
        self.connection.execute(update(suppressions).where(here, later).values(**lifted))
        return False

    def _keep(self, contact: Contact | None, word: _Word, *, listed: bool) -> bool:
        """Keep what was said beside the entry, which holds the last word only; True."""
        self.connection.execute(
            insert(suppression_changes).values(
                channel=self._channel_for(contact),
                people=None if contact is None else contact.people,
                contact_id=None if contact is None else contact.contact_id,
                scope=self.scope,
                reason=self.reason,
                listed=listed,
                **self._told(word),
            )
        )
        return True

    def _ties(self, at: Column[datetime], word: _Word) -> ColumnElement[bool]:
        """Of two who said it at the same instant one is on record, whoever was heard first."""
        return and_(at == word.at, suppressions.c.source < word.source)

    def _told(self, word: _Word) -> dict[str, object]:
        return {
            "at": word.at,
            "source": word.source,
            "until": word.until,
            "said": word.said,
            "address_key": self.address_key,
        }

    def _channel_for(self, contact: Contact | None) -> str:
        return EVERY_CHANNEL if contact is not None and self.reason in EVERYWHERE else self.channel

    def _here(self, contact: Contact | None) -> ColumnElement[bool]:
        if contact is None:
            about = and_(suppressions.c.people.is_(None), suppressions.c.address_key == self.address_key)
        else:
            about = and_(suppressions.c.people == contact.people, suppressions.c.contact_id == contact.contact_id)
        return and_(
            about,
            suppressions.c.channel == self._channel_for(contact),
            suppressions.c.scope == self.scope,
            suppressions.c.reason == self.reason,
        )

    def _insert(self, contact: Contact | None, word: _Word, *, lifted_at: datetime | None) -> bool:
        upsert = (postgresql if self.connection.dialect.name == "postgresql" else sqlite).insert
        statement = (
            upsert(suppressions)
            .values(
                channel=self._channel_for(contact),
                people=None if contact is None else contact.people,
                contact_id=None if contact is None else contact.contact_id,
                scope=self.scope,
                reason=self.reason,
                lifted_at=lifted_at,
                **self._told(word),
            )
            .on_conflict_do_nothing()
        )
        return self.connection.execute(statement.returning(suppressions.c.suppression_id)).first() is not None
