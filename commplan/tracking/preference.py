"""What people choose on the preference page: which topics on which channels, a pause, nothing at all.

Never switches on what the person did not ask for, nor what an address, or the records of consent, forbid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, Row, func, select

from commplan.consent import SCOPE_ALL, Contact, Suppression, exclusion
from commplan.errors import InputError
from commplan.ids import AddressKey, RunId, TokenPurpose
from commplan.ledger.run import plan_of
from commplan.plan import Localized, Plan
from commplan.store import Store
from commplan.store.tables import recipients, runs
from commplan.suppression import Entry, entries_about, look_up, restore, strike, suppress
from commplan.terms import Channel, Purpose, Reason, ReceiptKind
from commplan.tracking.inbox import take_turn
from commplan.tracking.page import Visit, find, note

#: How long a pause lasts.
PAUSE = timedelta(days=30)
#: What a person takes back here.
_CHOICES = frozenset({Reason.UNSUBSCRIBED, Reason.DECLINED})
_SOURCE = "preference page"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One topic on one channel. `wanted`: nothing that the person chose is against it.

    `closed`: why nothing they choose here would let it come; None if their choice decides.
    """

    wanted: bool
    closed: Reason | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """What some plans write about; `title` is None where they have no words for it but its name."""

    name: str
    title: Localized | None
    cells: Mapping[Channel, Cell]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preferences:
    """What the visitor gets: the topics they can choose, and what they asked for as a whole."""

    visit: Visit
    topics: tuple[Topic, ...]
    paused_until: datetime | None
    is_stopped: bool  #: they asked for nothing at all


def preferences(store: Store, token: str) -> Preferences | None:
    """Return what a link's person gets, None for a token that is not ours. Reads only."""
    with store.read() as connection:
        visit = find(store, connection, TokenPurpose.PREFERENCES, token)
        return None if visit is None else _read(store, connection, visit).preferences()


def choose(store: Store, token: str, wanted: Mapping[tuple[str, Channel], bool], *, said: str) -> None:
    """Make of some topics and channels what the person wants of them; others stay as they are. Own transaction.

    Who takes back an opt-out that was about more (all marketing, everything) still does not get the rest of what it
    covered: each topic known by now stays off until they choose it. `said`: what the page showed. A token that is not
    ours changes nothing.
    """
    with store.write() as connection:
        take_turn(connection)
        visit = find(store, connection, TokenPurpose.PREFERENCES, token)
        if visit is None:
            return
        person = _read(store, connection, visit)
        before = {cell: person.wants(*cell) for cell in person.cells()}
        after = before | {cell: choice for cell, choice in wanted.items() if person.is_open(*cell)}
        on = [cell for cell in after if after[cell] and not before[cell]]
        lifted = {reason_scope for cell in on for reason_scope in person.against(*cell)}
        person.strike(
            lambda line: line.reason is Reason.UNSUBSCRIBED and (line.reason, line.scope) in lifted, said=said
        )
        for topic, channel in on:
            person.strike(
                lambda line, topic=topic, channel=channel: (  # type: ignore[misc]
                    line.reason is Reason.DECLINED and line.channel == channel and line.scope in (topic, SCOPE_ALL)
                ),
                said=said,
            )
        was_lifted = any(reason is Reason.UNSUBSCRIBED for reason, _ in lifted)
        for cell, choice in after.items():
            if not choice and (before[cell] or was_lifted):
                person.decline(*cell, said=said)
        own = (visit.plan.topic, visit.channel)
        if before.get(own) != after.get(own):
            note(store, connection, visit.ref, ReceiptKind.OPTED_IN if after[own] else ReceiptKind.OPTED_OUT)


def pause(store: Store, token: str, *, said: str) -> None:
    """Keep back for `PAUSE` what a pause keeps back (marketing and care). Own transaction."""
    with store.write() as connection:
        take_turn(connection)
        visit = find(store, connection, TokenPurpose.PREFERENCES, token)
        if visit is not None:
            now = store.clock.now()
            suppress(
                connection,
                channel=visit.channel,
                address_key=visit.address_key,
                contact=visit.contact,
                scope=SCOPE_ALL,
                reason=Reason.PAUSED,
                source=_SOURCE,
                at=now,
                until=now + PAUSE,
                said=said,
            )


def resume(store: Store, token: str, *, said: str) -> None:
    """End a pause before its time. Own transaction."""
    _strike(store, token, lambda line: line.reason is Reason.PAUSED, said=said)


def stop(store: Store, token: str, *, said: str) -> None:
    """Write to the person, and their addresses, no more, except in an emergency. Own transaction."""
    with store.write() as connection:
        take_turn(connection)
        visit = find(store, connection, TokenPurpose.PREFERENCES, token)
        if visit is None:
            return
        changed = [
            suppress(
                connection,
                channel=channel,
                address_key=key,
                contact=visit.contact,
                scope=SCOPE_ALL,
                reason=Reason.UNSUBSCRIBED,
                source=_SOURCE,
                at=store.clock.now(),
                said=said,
            )
            for channel, key in visit.keys.items()
        ]
        if any(changed):
            note(store, connection, visit.ref, ReceiptKind.OPTED_OUT)


def unstop(store: Store, token: str, *, said: str) -> None:
    """Take a `stop` back; what was chosen topic by topic holds again. Own transaction."""
    _strike(
        store,
        token,
        lambda line: line.reason is Reason.UNSUBSCRIBED and line.scope == SCOPE_ALL,
        said=said,
        kind=ReceiptKind.OPTED_IN,
    )


def _strike(
    store: Store, token: str, which: Callable[[Entry], bool], *, said: str, kind: ReceiptKind | None = None
) -> None:
    with store.write() as connection:
        take_turn(connection)
        visit = find(store, connection, TokenPurpose.PREFERENCES, token)
        if visit is not None and _read(store, connection, visit).strike(which, said=said) and kind is not None:
            note(store, connection, visit.ref, kind)


class _Person:
    """A visitor's choices in one transaction: as they are when it begins, and written through it."""

    def __init__(
        self,
        connection: Connection,
        visit: Visit,
        plans: list[tuple[Plan, Row[tuple[bool, bool]] | None]],
        listed: Mapping[Channel, frozenset[Suppression]],
        now: datetime,
    ) -> None:
        self._connection = connection
        self._visit = visit
        self._listed = listed
        self._now = now
        self._by_topic: dict[str, list[tuple[Plan, Row[tuple[bool, bool]] | None]]] = {}
        for plan, permission in plans:
            self._by_topic.setdefault(plan.topic, []).append((plan, permission))

    def cells(self) -> Iterator[tuple[str, Channel]]:
        """Every topic on every channel that its plans use."""
        for topic, plans in self._by_topic.items():
            yield from ((topic, channel) for channel in Channel if any(channel in plan.channels for plan, _ in plans))

    def wants(self, topic: str, channel: Channel) -> bool:
        """Whether nothing that the person chose is against it, for one of its plans at least."""
        return any(self._excluded(plan, channel, _CHOICES) is None for plan, _ in self._plans(topic, channel))

    def closed(self, topic: str, channel: Channel) -> Reason | None:
        """Why it would not come whatever the person chooses."""
        email = channel is Channel.EMAIL
        if channel not in self._visit.keys:
            return Reason.NO_EMAIL if email else Reason.NO_PHONE
        found: list[Reason | None] = []
        for plan, permission in self._plans(topic, channel):
            consent = None if permission is None else permission.email_consent if email else permission.sms_consent
            found.append(self._excluded(plan, channel, set(Reason) - _CHOICES - {Reason.PAUSED}, consent=consent))
        return None if None in found else found[0]

    def is_open(self, topic: str, channel: Channel) -> bool:
        """Whether the person's choice decides."""
        return bool(self._plans(topic, channel)) and self.closed(topic, channel) is None

    def against(self, topic: str, channel: Channel) -> set[tuple[Reason, str]]:
        """What the person chose against it, as reasons and scopes."""
        return {
            (entry.reason, entry.scope)
            for plan, _ in self._plans(topic, channel)
            for entry in self._listed[channel]
            if entry.reason in _CHOICES and self._excluded(plan, channel, _CHOICES, of=[entry]) is not None
        }

    def strike(self, which: Callable[[Entry], bool], *, said: str) -> bool:
        """Lift what is in force about the person and their addresses; True if anything was."""
        who, keys = [self._visit.contact], self._visit.keys.values()
        lines = entries_about(self._connection, address_keys=keys, contacts=who)
        standing = (line for line in lines if line.lifted_at is None and which(line))
        return sum(strike(self._connection, line, source=_SOURCE, at=self._now, said=said) for line in standing) > 0

    def decline(self, topic: str, channel: Channel, *, said: str) -> None:
        """Write down that the person does not want a topic on a channel; at their address there, if they have one."""
        key = self._visit.keys.get(channel)
        holders = [self._visit.contact] if key is None else [None, self._visit.contact]
        for holder in holders:
            line = Entry(
                channel=channel,
                address_key=key or self._visit.address_key,
                contact=holder,
                scope=topic,
                reason=Reason.DECLINED,
                source=_SOURCE,
                at=self._now,
                said=said,
            )
            restore(self._connection, line)

    def preferences(self) -> Preferences:
        """Return what the page shows: the topics of which anything can be chosen, or is kept back by an address."""
        topics = []
        for name, plans in self._by_topic.items():
            cells = {
                channel: Cell(wanted=self.wants(name, channel), closed=self.closed(name, channel))
                for channel in Channel
                if self._plans(name, channel)
            }
            if any(cell.closed is not Reason.NO_CONSENT for cell in cells.values()):
                title = next((plan.topic_title for plan, _ in plans if plan.topic_title is not None), None)
                topics.append(Topic(name=name, title=title, cells=cells))
        everywhere = frozenset().union(*self._listed.values())
        return Preferences(
            visit=self._visit,
            topics=tuple(topics),
            paused_until=self._paused_until(),
            is_stopped=Suppression(reason=Reason.UNSUBSCRIBED, scope=SCOPE_ALL) in everywhere,
        )

    def _paused_until(self) -> datetime | None:
        lines = entries_about(self._connection, address_keys=[self._visit.address_key], contacts=[self._visit.contact])
        ends = [line.until for line in lines if line.reason is Reason.PAUSED and line.lifted_at is None and line.until]
        return max((end for end in ends if end > self._now), default=None)

    def _plans(self, topic: str, channel: Channel) -> list[tuple[Plan, Row[tuple[bool, bool]] | None]]:
        return [pair for pair in self._by_topic.get(topic, ()) if channel in pair[0].channels]

    def _excluded(
        self,
        plan: Plan,
        channel: Channel,
        reasons: Iterable[Reason],
        *,
        consent: bool | None = True,
        of: Iterable[Suppression] | None = None,
    ) -> Reason | None:
        listed = self._listed[channel] if of is None else of
        return exclusion(
            purpose=plan.purpose,
            channel=channel,
            topic=plan.topic,
            care=plan.care,
            consent=consent,
            basis=plan.basis,
            suppressions=[entry for entry in listed if entry.reason in reasons],
        )


def _read(store: Store, connection: Connection, visit: Visit) -> _Person:
    now = store.clock.now()
    found = look_up(connection, address_keys=visit.keys.values(), contacts=[visit.contact], now=now)
    nowhere = AddressKey("")
    listed = {channel: found.of(channel, visit.keys.get(channel, nowhere), visit.contact) for channel in Channel}
    return _Person(connection, visit, list(_plans(connection, visit.contact)), listed, now)


def _plans(connection: Connection, who: Contact) -> Iterator[tuple[Plan, Row[tuple[bool, bool]] | None]]:
    """Yield the newest version of each plan for the person's kind of people, and what consent it knows of them.

    An emergency is no topic that anybody could choose.
    """
    r = recipients.c
    newest = select(func.max(runs.c.run_id)).where(runs.c.people == who.people).group_by(runs.c.plan)
    for run_id, name in connection.execute(
        select(runs.c.run_id, runs.c.plan).where(runs.c.run_id.in_(newest)).order_by(runs.c.plan)
    ).all():
        try:
            plan = plan_of(connection, RunId(run_id))
        except InputError:
            continue  # of an earlier version, which this one does not read
        if plan.purpose is Purpose.EMERGENCY:
            continue
        permission = connection.execute(
            select(r.email_consent, r.sms_consent)
            .join(runs, runs.c.run_id == r.run_id)
            .where(runs.c.plan == name, r.people == who.people, r.contact_id == who.contact_id)
            .order_by(r.run_id.desc())
            .limit(1)
        ).one_or_none()
        yield plan, permission
