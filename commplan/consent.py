"""Permission: who may be written to for which purpose, by recorded consent and by the suppression list.

Never sees an address, and never changes what is on record.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import BindParameter, ColumnElement, FromClause, Select, and_, case, false, or_, select, union_all

from commplan.store.tables import recipients, suppressions
from commplan.terms import Channel, Purpose, Reason

#: Scope of a suppression that is about the address itself, whatever is sent to it.
SCOPE_ALL = "all"
#: Scope of an opt-out from marketing. Any other scope is the topic that the person opted out of.
SCOPE_MARKETING = "marketing"


class Blocks(StrEnum):
    """Whether a suppression keeps back messages of one purpose."""

    ALWAYS = "always"
    SAME_TOPIC = "same topic"  #: only messages of the topic that was opted out of
    CARE = "care"  #: only messages of a plan that says `care`
    NEVER = "never"


#: What each reason on the suppression list keeps back. In order of precedence: when several hold,
#: the first is the one that is reported.
BLOCKS: Mapping[Reason, Mapping[Purpose, Blocks]] = {
    reason: {Purpose.MARKETING: marketing, Purpose.SERVICE: service, Purpose.EMERGENCY: emergency}
    for reason, marketing, service, emergency in (
        (Reason.NEVER_CONTACT, Blocks.ALWAYS, Blocks.ALWAYS, Blocks.ALWAYS),
        (Reason.ERASED, Blocks.ALWAYS, Blocks.ALWAYS, Blocks.ALWAYS),
        (Reason.STOP, Blocks.ALWAYS, Blocks.ALWAYS, Blocks.ALWAYS),
        (Reason.SPAM_REPORT, Blocks.ALWAYS, Blocks.ALWAYS, Blocks.ALWAYS),
        (Reason.HARD_BOUNCE, Blocks.ALWAYS, Blocks.ALWAYS, Blocks.ALWAYS),
        (Reason.SOFT_BOUNCES, Blocks.ALWAYS, Blocks.ALWAYS, Blocks.ALWAYS),
        (Reason.INVALID_NUMBER, Blocks.ALWAYS, Blocks.ALWAYS, Blocks.ALWAYS),
        (Reason.WRONG_PERSON, Blocks.ALWAYS, Blocks.ALWAYS, Blocks.ALWAYS),
        (Reason.UNSUBSCRIBED, Blocks.ALWAYS, Blocks.SAME_TOPIC, Blocks.NEVER),
        (Reason.DECLINED, Blocks.SAME_TOPIC, Blocks.SAME_TOPIC, Blocks.NEVER),
        (Reason.PAUSED, Blocks.ALWAYS, Blocks.CARE, Blocks.NEVER),
    )
}


#: What a person asked for, and so holds for that person at whatever address. The others are facts about the address.
WISHES = frozenset(
    {
        Reason.NEVER_CONTACT,
        Reason.ERASED,
        Reason.STOP,
        Reason.SPAM_REPORT,
        Reason.UNSUBSCRIBED,
        Reason.DECLINED,
        Reason.PAUSED,
    }
)
#: The wishes that may be about one topic only; every other reason is about whatever is sent.
OF_TOPIC = frozenset({Reason.UNSUBSCRIBED, Reason.DECLINED})
#: The wishes that are about what is written, not about the way it comes: for the person they hold on every channel, for
#: the address they came from on its own.
EVERYWHERE = frozenset({Reason.UNSUBSCRIBED, Reason.PAUSED})
#: Stands for the channel of what holds on every one.
EVERY_CHANNEL = "all"


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
    """One active entry of the suppression list, about an address or a person known from elsewhere."""

    reason: Reason
    scope: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Contact:
    """A person of the organisation's own: customer 17 is not employee 17."""

    people: str
    contact_id: str


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
    care: bool = False,
    consent: bool | None,
    basis: str | None = None,
    suppressions: Collection[Suppression] = (),
) -> Reason | None:
    """Return why a person may not be written to, or None. `consent` is None when nothing is on record.

    `care`: whether the plan says so of itself. Pure; `suppressed` and `refused` say the same in SQL, from the same
    tables.
    """
    for reason, row in BLOCKS.items() if suppressions else ():
        for suppression in suppressions:
            if suppression.reason is reason and _blocks(row[purpose], suppression.scope, topic, care):
                return reason
    need = needs(purpose, channel, basis)
    if (need is Needs.YES and consent is not True) or (need is Needs.NO_REFUSAL and consent is False):
        return Reason.NO_CONSENT
    return None


def _blocks(blocks: Blocks, scope: str, topic: str, care: bool) -> bool:
    match blocks:
        case Blocks.ALWAYS:
            return True
        case Blocks.SAME_TOPIC:
            return scope in (topic, SCOPE_ALL)
        case Blocks.CARE:
            return care
        case Blocks.NEVER:
            return False


def in_force(now: datetime | BindParameter[datetime]) -> ColumnElement[bool]:
    """Return the condition that an entry of the suppression list counts: not lifted, and no pause that is over."""
    return and_(suppressions.c.lifted_at.is_(None), or_(suppressions.c.until.is_(None), suppressions.c.until > now))


def suppressed(
    rows: FromClause, purpose: Purpose, topic: str, *, care: bool, now: datetime | BindParameter[datetime]
) -> Select[tuple[str]]:
    """Return the subquery of the reasons for which `rows` (of the shape of messages) are suppressed.

    An entry about the row's address counts, and one about the person it is for, whatever their address is by now.
    Correlated to `rows`, most important reason first: ``suppressed(…).exists()`` is the condition of the last look,
    ``suppressed(…).limit(1).scalar_subquery()`` the reason it reports.
    """
    always, same_topic, of_care = (
        [reason.value for reason, row in BLOCKS.items() if row[purpose] is extent]
        for extent in (Blocks.ALWAYS, Blocks.SAME_TOPIC, Blocks.CARE)
    )
    blocking = and_(
        in_force(now),
        or_(
            suppressions.c.reason.in_([*always, *(of_care if care else ())]),
            and_(suppressions.c.reason.in_(same_topic), suppressions.c.scope.in_([topic, SCOPE_ALL])),
        ),
    )
    of_address = select(suppressions.c.reason).where(
        blocking,
        suppressions.c.channel == rows.c.channel,
        suppressions.c.people.is_(None),
        suppressions.c.address_key == rows.c.address_key,
    )
    of_person = (
        select(suppressions.c.reason)
        .join_from(
            recipients,
            suppressions,
            and_(suppressions.c.people == recipients.c.people, suppressions.c.contact_id == recipients.c.contact_id),
        )
        .where(
            blocking,
            suppressions.c.channel.in_([rows.c.channel, EVERY_CHANNEL]),
            recipients.c.run_id == rows.c.run_id,
            recipients.c.seq == rows.c.seq,
        )
    )
    # Two look-ups, each by an index of its own, where one condition with OR would read the whole list.
    found = union_all(of_address.correlate(rows), of_person.correlate(rows)).subquery("found")
    precedence = {reason.value: place for place, reason in enumerate(BLOCKS)}
    return select(found.c.reason).order_by(case(precedence, value=found.c.reason)).correlate(rows)


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
