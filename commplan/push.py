"""Our opt-outs, put into the email provider's unsubscribe groups, so that other systems on the account heed them too.

Never into its global list, which would keep back other systems' password resets; never a pause, which ends by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import groupby
from typing import Any, Protocol

from sqlalchemy import BigInteger, Connection, Row, Text, and_, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.selectable import CTE

from commplan.channels.lists_sendgrid import MOST
from commplan.consent import EVERY_CHANNEL, SCOPE_ALL, in_force
from commplan.errors import DeliveryError, RejectedError
from commplan.ids import AddressKey
from commplan.settings import Settings
from commplan.store import Store
from commplan.store.given import given
from commplan.store.tables import group_entries, recipients, runs, suppressions
from commplan.terms import Channel, Reason

#: In the settings, the group of every opt-out whose topic has none of its own.
ANY = "any"
#: What a person asked for that is not the provider's own to know: STOP is of texts, spam reports come from there.
_PUSHED = (Reason.UNSUBSCRIBED, Reason.DECLINED, Reason.NEVER_CONTACT)
#: Requests of one pass; what is left waits for the next.
REQUESTS = 100


class Groups(Protocol):
    """Changes the unsubscribe groups of the email provider's account; to repeat a request changes nothing."""

    def join(self, group_id: int, addresses: Sequence[str]) -> None:
        """Put up to `MOST` addresses into a group; DeliveryError if that may not have happened."""

    def leave(self, group_id: int, address: str) -> None:
        """Take an address out of a group; DeliveryError if that may not have happened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """What one pass came to: addresses put in, and taken out, and why it stopped early."""

    joined: int = 0
    left: int = 0
    failure: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What is still to be put into groups, or taken out of them."""

    joining: int = 0
    leaving: int = 0


def backlog(store: Store, settings: Settings) -> Backlog:
    """Return how much is to be pushed; of addresses that a snapshot still has, as the list itself knows none."""
    if not settings.email.groups:
        return Backlog()
    with store.read() as connection:
        wanted = _wanted(connection, settings.email.groups, store.clock.now())
        joining = select(func.count()).select_from(_joining(wanted).subquery())
        leaving = select(func.count()).select_from(_leaving(wanted, settings.email.groups).subquery())
        return Backlog(
            joining=connection.execute(joining).scalar_one(), leaving=connection.execute(leaving).scalar_one()
        )


def push(store: Store, settings: Settings, groups: Callable[[], Groups]) -> Pushed:
    """Put into the groups of the settings who has opted out, and take out who came back; at most `REQUESTS` requests.

    A row for each address and group says that it was done: it is asked for once, and again only if that request may
    not have been heard, which changes nothing at the provider. No transaction is open while asking. A group of which
    the provider refuses something is left for the next pass, and the others go on; a pass ends at any other failure.
    Who came back is taken out first. What somebody was in before their group was in the settings is left alone.
    """
    pass_ = _Pass(store, settings, groups)
    try:
        pass_.leave()
        pass_.join()
    except DeliveryError as error:
        pass_.failure = pass_.failure or str(error)
    return Pushed(joined=pass_.joined, left=pass_.left, failure=pass_.failure)


class _Pass:
    """One pass over what is to be pushed; `refused` are the groups of which the provider refused something."""

    def __init__(self, store: Store, settings: Settings, groups: Callable[[], Groups]) -> None:
        self._store = store
        self._settings = settings
        self._groups = groups
        self._requests = 0
        self._refused: set[int] = set()
        self.joined = self.left = 0
        self.failure: str | None = None

    def leave(self) -> None:
        while self._requests < REQUESTS and (rows := self._next(joins=False)):
            for row in rows[: REQUESTS - self._requests]:
                if self._is_taken(row.group_id, partial(self._groups().leave, row.group_id, row.address)):
                    self.left += 1
                    with self._store.write() as connection:
                        _exit(connection, row, at=self._store.clock.now())

    def join(self) -> None:
        while self._requests < REQUESTS and (rows := self._next(joins=True)):
            for group_id, part in groupby(rows, key=lambda row: row.group_id):
                found = list(part)
                if self._is_taken(group_id, partial(self._groups().join, group_id, [row.address for row in found])):
                    self.joined += len(found)
                    with self._store.write() as connection:
                        enter(connection, group_id, [row.address_key for row in found], at=self._store.clock.now())

    def _is_taken(self, group_id: int, ask: Callable[[], None]) -> bool:
        """Ask for one change; False if the group is to be left alone in this pass."""
        if group_id in self._refused:
            return False
        self._requests += 1
        try:
            ask()
        except RejectedError as error:
            self._refused.add(group_id)
            self.failure = self.failure or f"group {group_id}: {error}"
            return False
        return True

    def _next(self, *, joins: bool) -> Sequence[Row[Any]]:
        return _next(self._store, self._settings, joins=joins, without=self._refused)


def enter(connection: Connection, group_id: int, keys: Iterable[AddressKey], *, at: datetime) -> None:
    """Note that addresses stand in a group, in the caller's transaction."""
    upsert = (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(group_entries)
    rows = [{"group_id": group_id, "address_key": key, "at": at} for key in sorted(set(keys))]
    connection.execute(
        upsert.on_conflict_do_update(
            index_elements=[group_entries.c.group_id, group_entries.c.address_key],
            set_={"at": at, "removed_at": None},
        ),
        rows,
    )


def _exit(connection: Connection, row: Row[Any], *, at: datetime) -> None:
    connection.execute(
        update(group_entries)
        .where(group_entries.c.group_id == row.group_id, group_entries.c.address_key == row.address_key)
        .values(removed_at=at)
    )


def _next(store: Store, settings: Settings, *, joins: bool, without: Collection[int]) -> Sequence[Row[Any]]:
    if not settings.email.groups:
        return ()
    with store.read() as connection:
        wanted = _wanted(connection, settings.email.groups, store.clock.now())
        found = (_joining(wanted) if joins else _leaving(wanted, settings.email.groups)).subquery()
        ordered = select(found).where(found.c.group_id.not_in(without)).order_by(found.c.group_id, found.c.address_key)
        return connection.execute(ordered.limit(MOST)).all()


def _wanted(connection: Connection, groups: Mapping[str, int], now: datetime) -> CTE:
    """Return which address should stand in which group: what is said of it, and of whoever has it by now."""
    s, r = suppressions.c, recipients.c
    counts = and_(s.reason.in_(_PUSHED), in_force(now))
    scopes = connection.execute(select(s.scope).where(counts).distinct()).scalars()
    places = given(
        connection,
        {"scope": Text(), "group_id": BigInteger()},
        sorted({(scope, group_id) for scope in scopes for group_id in _groups_of(scope, groups)}),
    )
    of_address = (
        select(places.c.group_id, s.address_key)
        .select_from(suppressions)
        .join(places, places.c.scope == s.scope)
        .where(counts, s.people.is_(None), s.channel == Channel.EMAIL)
    )
    of_person = (
        select(places.c.group_id, r.email_key.label("address_key"))
        .select_from(suppressions)
        .join(places, places.c.scope == s.scope)
        .join(recipients, and_(r.people == s.people, r.contact_id == s.contact_id))
        .where(
            counts,
            s.channel.in_((Channel.EMAIL, EVERY_CHANNEL)),
            r.run_id.in_(select(runs.c.run_id)),
            r.email_key.is_not(None),
        )
    )
    return of_address.union(of_person).cte("wanted")


def _groups_of(scope: str, groups: Mapping[str, int]) -> set[int]:
    if scope == SCOPE_ALL:
        return set(groups.values())
    own = groups.get(scope, groups.get(ANY))
    return set() if own is None else {own}


def _joining(wanted: CTE) -> Any:
    g, r = group_entries.c, recipients.c
    here = and_(g.group_id == wanted.c.group_id, g.address_key == wanted.c.address_key)
    known = and_(r.run_id.in_(select(runs.c.run_id)), r.email_key == wanted.c.address_key)
    return (
        select(wanted.c.group_id, wanted.c.address_key, func.min(r.email).label("address"))
        .select_from(wanted)
        .outerjoin(group_entries, here)
        .join(recipients, known)
        .where(or_(g.address_key.is_(None), g.removed_at.is_not(None)), r.email.is_not(None))
        .group_by(wanted.c.group_id, wanted.c.address_key)
    )


def _leaving(wanted: CTE, groups: Mapping[str, int]) -> Any:
    g, r = group_entries.c, recipients.c
    still = select(wanted.c.group_id).where(wanted.c.group_id == g.group_id, wanted.c.address_key == g.address_key)
    known = and_(r.run_id.in_(select(runs.c.run_id)), r.email_key == g.address_key)
    return (
        select(g.group_id, g.address_key, func.min(r.email).label("address"))
        .select_from(group_entries)
        .join(recipients, known)
        .where(
            g.removed_at.is_(None), g.group_id.in_(sorted(set(groups.values()))), ~still.exists(), r.email.is_not(None)
        )
        .group_by(g.group_id, g.address_key)
    )
