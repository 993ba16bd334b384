"""Settling unknown outcomes: the providers are asked what they know of a request, and what they say is weighed.

Never takes silence, an error or an incomplete answer for a *no*, and never keeps a transaction open while asking.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, and_, or_, select

from commplan.channels.base import Gateways
from commplan.channels.email_sendgrid import is_askable
from commplan.content import fill
from commplan.envelope import Listing, Sighting
from commplan.errors import DeliveryError
from commplan.ids import RunId
from commplan.ledger import settlement, unsettled
from commplan.ledger.unsettled import Inquiry, Unsettled
from commplan.settings import Settings
from commplan.store import Store
from commplan.store.tables import attempts, message_values, messages, receipts, recipients, skeletons, values_of
from commplan.terms import AttemptOutcome, Channel, Finding, MessageState, OnUnknown

_LOG = logging.getLogger("commplan.settle")

#: Addresses of one request that are asked for.
ADDRESSES = 3
#: How far a provider's times may be off, once the difference of the clocks is known.
MARGIN = timedelta(minutes=5)
#: How far back a search reaches before the difference of the clocks is known.
_REACH = timedelta(hours=1)
#: A provider that gives so many requests in a row no answer is left alone until the next time.
_DISCOURAGED = 3


@dataclass(slots=True, kw_only=True)
class Settled:
    """What one pass over a run's unknown outcomes came to: `asked` and `unanswered` requests, the rest in messages."""

    asked: int = 0
    unanswered: int = 0
    accepted: int = 0
    lost: int = 0
    assumed: int = 0
    resent: int = 0
    #: Messages still unknown, and when their providers are asked again; None: no more by itself.
    unknown: int = 0
    next_at: datetime | None = None
    #: What kept a provider from answering, in words.
    why: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a provider's records say of one request: a finding, its id there if it was found, and why there is none."""

    finding: Finding
    asked: int = 0
    provider_id: str | None = None
    why: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """The time within which a request can have been accepted, on the provider's clock."""

    start: datetime
    end: datetime

    @classmethod
    def of(cls, one: Unsettled, *, offset: timedelta) -> Span:
        """Return the span of a request; `offset` is how far the provider's clock is ahead of ours."""
        given_up_at = one.given_up_at or one.wire_at
        return cls(start=one.wire_at + offset - MARGIN, end=given_up_at + offset + MARGIN)

    def __contains__(self, moment: datetime) -> bool:
        return self.start <= moment <= self.end


def weigh_emails(sightings: Collection[Sighting], *, attempt_id: str, span: Span) -> tuple[Finding, str | None]:
    """Return what the logs of one address say of a request, and its id if it is there.

    A message that carries the request's own id is it. One within the span that carries no id may be; one that carries
    another request's is not.
    """
    for sighting in sightings:
        if sighting.attempt_id == attempt_id:
            return Finding.FOUND, sighting.provider_id.partition(".")[0]
    if any(sighting.attempt_id is None and sighting.created_at in span for sighting in sightings):
        return Finding.AMBIGUOUS, None
    return Finding.NOTHING, None


def weigh_texts(
    sightings: Collection[Sighting],
    *,
    body: str,
    sender: str,
    span: Span,
    bound: Collection[str],
    others_open: bool,
) -> tuple[Finding, str | None]:
    """Return what the list of a number says of a text, and its id if it is there.

    What counts is within the span, from our sender, and not `bound` to another request. It is found when there is one
    and it has the body; several, another body, or `others_open` (another request to the number without an outcome)
    leave it open.
    """
    candidates = [
        sighting
        for sighting in sightings
        if sighting.created_at in span and sighting.sender in ("", sender) and sighting.provider_id not in bound
    ]
    if not candidates and not others_open:
        return Finding.NOTHING, None
    if len(candidates) == 1 and not others_open and candidates[0].body.strip() == body.strip():
        return Finding.FOUND, candidates[0].provider_id
    return Finding.AMBIGUOUS, None


def settle(store: Store, gateways: Gateways, settings: Settings, run_id: RunId, *, force: bool = False) -> Settled:
    """Ask the providers about a run's unknown outcomes and write down what is proven by it, in short transactions.

    Asks about what is due for it; with `force` about everything, though what is asked too early proves no loss. What
    stays unknown when its time of evidence is over gets its step's policy. `settings`: those the run was started with.
    """
    settlement.notice(store, run_id)
    with store.read() as connection:
        found = unsettled.read(connection, run_id)
    done = Settled()
    in_vain: dict[Channel, int] = dict.fromkeys(Channel, 0)
    for one in found:
        now = store.clock.now()
        due = unsettled.next_look(one, now)
        if not force and (due is None or due > now):
            continue
        if in_vain[one.channel] < _DISCOURAGED:
            answer = _ask(store, gateways, settings, one)
            done.asked += 1
        else:
            answer = Answer(finding=Finding.NO_ANSWER)
        unanswered = answer.finding is Finding.NO_ANSWER
        in_vain[one.channel] = in_vain[one.channel] + 1 if unanswered else 0
        done.unanswered += unanswered
        if answer.why is not None:
            done.why.add(answer.why)
        _conclude(store, one, Inquiry(at=now, finding=answer.finding), answer, done)
    with store.read() as connection:
        left = unsettled.read(connection, run_id)
    done.unknown = sum(one.messages for one in left)
    done.next_at = unsettled.next_moment(left, store.clock.now())
    if done.asked:
        _LOG.info(
            "asked about unknown outcomes",
            extra={"run": run_id} | {one.name: getattr(done, one.name) for one in fields(done)[:6]},
        )
    return done


def _conclude(store: Store, one: Unsettled, inquiry: Inquiry, answer: Answer, done: Settled) -> None:
    settlement.note(store, one.attempt_id, inquiry, asked=answer.asked)
    if answer.provider_id is not None:
        done.accepted += settlement.accept(store, one.attempt_id, answer.provider_id)
        return
    one = replace(one, inquiries=(*one.inquiries, inquiry))
    if unsettled.is_lost(one) and (lost := settlement.lose(store, one)):
        done.lost += lost
        return
    if inquiry.at >= one.evidence_ends and one.decision is None:
        decided = settlement.decide(store, one)
        if one.policy is OnUnknown.RESEND:
            done.resent += decided
        else:
            done.assumed += decided


def _ask(store: Store, gateways: Gateways, settings: Settings, one: Unsettled) -> Answer:
    try:
        return (
            _ask_logs(store, gateways, one)
            if one.channel is Channel.EMAIL
            else _ask_list(store, gateways, settings, one)
        )
    except DeliveryError as error:
        return Answer(finding=Finding.NO_ANSWER, why=error.reason)


def _offset(listing: Listing) -> timedelta:
    """Return how far the provider's clock is ahead of ours, by machine time."""
    return listing.provider_time - datetime.now(UTC)


def _ask_logs(store: Store, gateways: Gateways, one: Unsettled) -> Answer:
    with store.read() as connection:
        addresses = [
            address
            for address in connection.execute(
                select(recipients.c.email)
                .join(messages, and_(messages.c.run_id == recipients.c.run_id, messages.c.seq == recipients.c.seq))
                .where(
                    messages.c.attempt_id == one.attempt_id,
                    messages.c.state == MessageState.UNKNOWN,
                    # Somebody's new address was not written to.
                    recipients.c.email_key == messages.c.address_key,
                )
                .order_by(messages.c.seq)
            ).scalars()
            if is_askable(address)
        ][:ADDRESSES]
        known = frozenset(
            connection.execute(
                select(attempts.c.provider_id).where(
                    attempts.c.channel == Channel.EMAIL,
                    attempts.c.provider_id.is_not(None),
                    attempts.c.attempt_id != one.attempt_id,
                    attempts.c.wire_at >= one.wire_at - 2 * _REACH,
                )
            ).scalars()
        )
    since = one.wire_at - _REACH
    findings: list[Finding] = []
    for address in addresses:
        # The logs compare case, and whether they keep it is not documented.
        listings = [
            gateways.email.find(spelling, since=since, known=known)
            for spelling in dict.fromkeys((address, address.lower()))
        ]
        span = Span.of(one, offset=_offset(listings[-1]))
        sightings = [sighting for listing in listings for sighting in listing.sightings]
        finding, provider_id = weigh_emails(sightings, attempt_id=one.attempt_id, span=span)
        if provider_id is not None:
            return Answer(finding=finding, asked=len(findings) + 1, provider_id=provider_id)
        if span.start < since:
            return Answer(
                finding=Finding.NO_ANSWER, asked=len(findings) + 1, why="SendGrid's clock is far behind; correct ours"
            )
        findings.append(finding)
    if Finding.AMBIGUOUS in findings:
        return Answer(finding=Finding.AMBIGUOUS, asked=len(findings))
    if len(findings) < min(ADDRESSES, one.messages):
        why = "the Email Logs cannot be asked for enough addresses of a request"
        return Answer(finding=Finding.NO_ANSWER, asked=len(findings), why=why)
    return Answer(finding=Finding.NOTHING, asked=len(findings))


def _ask_list(store: Store, gateways: Gateways, settings: Settings, one: Unsettled) -> Answer:
    with store.read() as connection:
        row = connection.execute(
            select(
                messages.c.address_key,
                recipients.c.phone,
                recipients.c.phone_key,
                message_values.c.slot_values,
                skeletons.c.text,
                skeletons.c.placeholders,
            )
            .join(recipients, and_(recipients.c.run_id == messages.c.run_id, recipients.c.seq == messages.c.seq))
            .join(
                skeletons,
                and_(skeletons.c.run_id == messages.c.run_id, skeletons.c.skeleton_no == messages.c.skeleton_no),
            )
            .join(message_values, values_of(messages))
            .where(messages.c.attempt_id == one.attempt_id, messages.c.state == MessageState.UNKNOWN)
        ).one_or_none()
    if row is None or row.phone_key != row.address_key:
        return Answer(finding=Finding.NO_ANSWER, why="somebody has another number than was written to")
    listing = gateways.sms.find(row.phone)
    with store.read() as connection:
        # After the list was read: a row that is bound by now was bound, or in doubt, when it was read.
        others = connection.execute(
            select(attempts.c.attempt_id)
            .join(messages, messages.c.attempt_id == attempts.c.attempt_id)
            .where(
                messages.c.address_key == row.address_key,
                messages.c.channel == Channel.SMS,
                messages.c.attempt_id != one.attempt_id,
                or_(attempts.c.outcome == AttemptOutcome.OPEN, unsettled.is_in_doubt(attempts)),
            )
            .limit(1)
        ).first()
        seen = [sighting.provider_id for sighting in listing.sightings]
        bound = _bound(connection, seen, one)
    finding, provider_id = weigh_texts(
        listing.sightings,
        body=fill(row.text, json.loads(row.placeholders), json.loads(row.slot_values)),
        sender=settings.sms.from_number,
        span=Span.of(one, offset=_offset(listing)),
        bound=bound,
        others_open=others is not None,
    )
    return Answer(finding=finding, asked=1, provider_id=provider_id)


def _bound(connection: Connection, seen: Sequence[str], one: Unsettled) -> set[str]:
    """Return which of the provider's ids belong to another request, by its answer or by a receipt."""
    bound: set[str] = set()
    for at in range(0, len(seen), 500):
        part = seen[at : at + 500]
        for table in (attempts, messages, receipts):
            bound.update(
                connection.execute(
                    select(table.c.provider_id).where(
                        table.c.provider_id.in_(part),
                        table.c.attempt_id.is_not(None),
                        table.c.attempt_id != one.attempt_id,
                    )
                ).scalars()
            )
    return bound
