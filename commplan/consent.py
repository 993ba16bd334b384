"""Permission: who may be written to for which purpose, and the list of addresses never to write to.

Never sees an address: suppression goes by keyed hash, so it outlives erasure and re-import.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import ColumnElement, Connection, FromClause, Select, and_, case, false, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from commplan.ids import AddressKey
from commplan.store.tables import suppressions
from commplan.terms import Channel, Purpose, Reason

#: Scope of a suppression that is about the address itself, whatever is sent to it.
SCOPE_ALL = "all"
#: Scope of an opt-out from marketing. Any other scope is the topic that the person opted out of.
SCOPE_MARKETING = "marketing"


class Blocks(StrEnum):
    """Whether a suppression keeps back messages of one purpose."""

    ALWAYS = "always"
    SAME_TOPIC = "same topic"  #: only messages of the topic that was opted out of
    NEVER = "never"


#: What each reason on the suppression list keeps back, on its own channel. In order of precedence: when several hold,
#: the first is the one that is reported.
BLOCKS: Mapping[Reason, Mapping[Purpose, Blocks]] = {
    reason: {Purpose.MARKETING: marketing, Purpose.SERVICE: service, Purpose.EMERGENCY: emergency}
    for reason, marketing, service, emergency in (
        (Reason.NEVER_CONTACT, Blocks.ALWAYS, Blocks.ALWAYS, Blocks.ALWAYS),
        (Reason.STOP, Blocks.ALWAYS, Blocks.ALWAYS, Blocks.ALWAYS),
        (Reason.SPAM_REPORT, Blocks.ALWAYS, Blocks.ALWAYS, Blocks.ALWAYS),
        (Reason.HARD_BOUNCE, Blocks.ALWAYS, Blocks.ALWAYS, Blocks.ALWAYS),
        (Reason.INVALID_NUMBER, Blocks.ALWAYS, Blocks.ALWAYS, Blocks.ALWAYS),
        (Reason.UNSUBSCRIBED, Blocks.ALWAYS, Blocks.SAME_TOPIC, Blocks.NEVER),
    )
}


class Needs(StrEnum):
    """What consent a message needs."""

    YES = "a recorded yes"
    NO_REFUSAL = "no recorded no"
    NOTHING = "nothing"


#: What each purpose needs on each channel. Marketing email needs only `Needs.NO_REFUSAL` where the plan states a basis.
NEEDS: Mapping[Purpose, Mapping[Channel, Needs]] = {
    Purpose.MARKETING: {Channel.EMAIL: Needs.YES, Channel.SMS: Needs.YES},
    Purpose.SERVICE: {Channel.EMAIL: Needs.NOTHING, Channel.SMS: Needs.NO_REFUSAL},
    Purpose.EMERGENCY: {Channel.EMAIL: Needs.NOTHING, Channel.SMS: Needs.NOTHING},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Suppression:
    """One active entry of the suppression list, about an address known from elsewhere."""

    reason: Reason
    scope: str


def needs(purpose: Purpose, channel: Channel, basis: str | None) -> Needs:
    """Return what consent a message needs; `basis` is the plan's stated reason for writing without one, if any."""
    if purpose is Purpose.MARKETING and channel is Channel.EMAIL and basis:
        return Needs.NO_REFUSAL
    return NEEDS[purpose][channel]


def exclusion(
    *,
    purpose: Purpose,
    channel: Channel,
    topic: str,
    consent: bool | None,
    basis: str | None = None,
    suppressions: Collection[Suppression] = (),
) -> Reason | None:
    """Return why a person may not be written to, or None. `consent` is None when nothing is on record.

    Pure; `suppressed` and `refused` say the same in SQL, from the same tables.
    """
    for reason, row in BLOCKS.items():
        for suppression in suppressions:
            if suppression.reason is reason and _blocks(row[purpose], suppression.scope, topic):
                return reason
    need = needs(purpose, channel, basis)
    if (need is Needs.YES and consent is not True) or (need is Needs.NO_REFUSAL and consent is False):
        return Reason.NO_CONSENT
    return None


def _blocks(blocks: Blocks, scope: str, topic: str) -> bool:
    return blocks is Blocks.ALWAYS or (blocks is Blocks.SAME_TOPIC and scope in (topic, SCOPE_ALL))


def suppressed(rows: FromClause, purpose: Purpose, topic: str) -> Select[tuple[str]]:
    """Return the subquery of the reasons for which `rows` (with `channel` and `address_key`) are suppressed.

    Correlated to `rows`, most important reason first: ``suppressed(…).exists()`` is the condition of the last look,
    ``suppressed(…).limit(1).scalar_subquery()`` the reason it reports. A row without an address is never suppressed.
    """
    always, same_topic = (
        [reason.value for reason, row in BLOCKS.items() if row[purpose] is extent]
        for extent in (Blocks.ALWAYS, Blocks.SAME_TOPIC)
    )
    precedence = {reason.value: place for place, reason in enumerate(BLOCKS)}
    return (
        select(suppressions.c.reason)
        .where(
            suppressions.c.channel == rows.c.channel,
            suppressions.c.address_key == rows.c.address_key,
            suppressions.c.lifted_at.is_(None),
            or_(
                suppressions.c.reason.in_(always),
                and_(suppressions.c.reason.in_(same_topic), suppressions.c.scope.in_([topic, SCOPE_ALL])),
            ),
        )
        .order_by(case(precedence, value=suppressions.c.reason))
        .correlate(rows)
    )


def refused(
    channel: Channel, consent: ColumnElement[bool], *, purpose: Purpose, basis: str | None
) -> ColumnElement[bool]:
    """Return the condition that the consent a message needs is missing; `consent` is the recipient's column."""
    match needs(purpose, channel, basis):
        case Needs.YES:
            return consent.is_not(True)
        case Needs.NO_REFUSAL:
            return consent.is_(False)
        case Needs.NOTHING:
            return false()


def suppress(
    connection: Connection,
    *,
    channel: Channel,
    address_key: AddressKey,
    scope: str,
    reason: Reason,
    source: str,
    at: datetime,
) -> bool:
    """Put an address on the suppression list, in the caller's transaction; True if it was not on it.

    `at` is when it happened. The latest of opt-outs and `lift`s wins whatever order they are told in; at the same
    instant the opt-out wins. ValueError for a reason that is no suppression, or a scope that the reason cannot have.
    """
    _check(reason, scope)
    key = _key(channel, address_key, scope, reason)
    if _insert(connection, key, source=source, at=at, lifted_at=None):
        return True
    here = and_(*(suppressions.c[name] == value for name, value in key.items()))
    back = connection.execute(
        update(suppressions)
        .where(here, suppressions.c.lifted_at.is_not(None), suppressions.c.lifted_at <= at)
        .values(lifted_at=None, at=at, source=source)
    )
    if back.rowcount:
        return True
    connection.execute(update(suppressions).where(here, suppressions.c.at < at).values(at=at, source=source))
    return False


def lift(
    connection: Connection,
    *,
    channel: Channel,
    address_key: AddressKey,
    scope: str,
    reason: Reason,
    source: str,
    at: datetime,
) -> bool:
    """Take an address off the suppression list, in the caller's transaction; True if it was on it.

    Later than `at`, or at the same instant, the opt-out stays. A lift that comes before the opt-out it is about is
    kept, so that an older opt-out told afterwards changes nothing.
    """
    _check(reason, scope)
    key = _key(channel, address_key, scope, reason)
    if _insert(connection, key, source=source, at=at, lifted_at=at):
        return False
    here = and_(*(suppressions.c[name] == value for name, value in key.items()))
    off = connection.execute(
        update(suppressions)
        .where(here, suppressions.c.lifted_at.is_(None), suppressions.c.at < at)
        .values(lifted_at=at)
    )
    if off.rowcount:
        return True
    connection.execute(update(suppressions).where(here, suppressions.c.lifted_at < at).values(lifted_at=at))
    return False


def active(connection: Connection, *, channel: Channel, address_key: AddressKey) -> tuple[Suppression, ...]:
    """Return what the suppression list says about one address, in order of precedence."""
    rows = connection.execute(
        select(suppressions.c.reason, suppressions.c.scope).where(
            suppressions.c.channel == channel,
            suppressions.c.address_key == address_key,
            suppressions.c.lifted_at.is_(None),
        )
    )
    order = list(BLOCKS)
    found = [Suppression(reason=Reason(row.reason), scope=row.scope) for row in rows]
    return tuple(sorted(found, key=lambda entry: (order.index(entry.reason), entry.scope)))


def _check(reason: Reason, scope: str) -> None:
    if reason not in BLOCKS:
        raise ValueError(f"{reason} is not a reason to suppress an address")
    if reason is not Reason.UNSUBSCRIBED and scope != SCOPE_ALL:
        raise ValueError(f"{reason} is about the address itself; its scope is {SCOPE_ALL!r}")


def _key(channel: Channel, address_key: AddressKey, scope: str, reason: Reason) -> dict[str, str]:
    return {"channel": channel.value, "address_key": address_key, "scope": scope, "reason": reason.value}


def _insert(
    connection: Connection, key: Mapping[str, str], *, source: str, at: datetime, lifted_at: datetime | None
) -> bool:
    insert = (postgresql if connection.dialect.name == "postgresql" else sqlite).insert
    statement = insert(suppressions).values(**key, source=source, at=at, lifted_at=lifted_at).on_conflict_do_nothing()
    return connection.execute(statement.returning(suppressions.c.suppression_id)).first() is not None
