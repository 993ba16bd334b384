"""Requests whose outcome is unknown: what has been asked about them, when to ask again, and what that proves.

Silence is never a proof: only a provider's own records, asked twice and long enough after the request, can say that it
was not accepted. Nothing here writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, FromClause, and_, case, func, or_, select

from commplan.ids import AttemptId, RunId
from commplan.ledger.run import plan_of
from commplan.store.tables import attempts, batches, inquiries, messages
from commplan.store.types import machine_now
from commplan.terms import AttemptOutcome, Channel, Finding, MessageState, OnUnknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """When a provider's records are believed that show nothing: `first` after the deadline, and again `apart` later."""

    first: timedelta
    apart: timedelta


#: SendGrid's logs may lag by minutes; Twilio finishes a request up to 30 seconds after its client has gone.
RULES: Mapping[Channel, Rule] = {
    Channel.EMAIL: Rule(first=timedelta(minutes=15), apart=timedelta(minutes=10)),
    Channel.SMS: Rule(first=timedelta(seconds=60), apart=timedelta(seconds=60)),
}
#: Plan time after which no evidence is to be expected: providers repeat a lost webhook for 24 hours.
EVIDENCE_TIME = timedelta(hours=25)
#: What is to be sent again must be, so long before its time is over.
_TIME_TO_SEND = timedelta(minutes=10)
_LONGEST_PAUSE = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inquiry:
    """One look into a provider's records: when it began, and what it found."""

    at: datetime
    finding: Finding


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsettled:
    """A request of which nobody knows whether it was accepted. Times are plan time.

    `given_up_at`: when it was noticed that no answer comes any more, its deadline; None: not noticed yet.
    `not_after`: the latest moment at which any of its messages may still be sent. `worker_gone`: nobody can be about
    to write it.
    """

    attempt_id: AttemptId
    run_id: RunId
    step_no: int
    channel: Channel
    messages: int
    wire_at: datetime
    given_up_at: datetime | None
    not_after: datetime | None
    worker_gone: bool
    policy: OnUnknown
    decision: OnUnknown | None
    inquiries: tuple[Inquiry, ...] = ()

    @property
    def evidence_ends(self) -> datetime:
        """When no more evidence is waited for and the step's policy applies.

        What is to be sent again is decided on sooner, while it may still be sent, but never before its provider can
        have been asked twice.
        """
        start = self.given_up_at or self.wire_at
        end = start + EVIDENCE_TIME
        if self.policy is OnUnknown.RESEND and self.not_after is not None:
            rule = RULES[self.channel]
            end = min(end, max(self.not_after - _TIME_TO_SEND, start + rule.first + rule.apart))
        return end


def is_lost(one: Unsettled) -> bool:
    """Tell whether it is proven that a request was not accepted.

    Its worker is gone, and the provider's records showed nothing twice: `first` after the deadline, and `apart`
    later. Whatever may have been it in between begins the count anew.
    """
    return one.worker_gone and len(_clean(one)) > 1


def _clean(one: Unsettled) -> list[Inquiry]:
    """Return the looks that count for a loss: none, one, or two far enough apart."""
    rule, found = RULES[one.channel], list[Inquiry]()
    if one.given_up_at is None:
        return found
    for inquiry in one.inquiries:
        if inquiry.finding in (Finding.FOUND, Finding.AMBIGUOUS):
            found.clear()
        elif inquiry.finding is Finding.NOTHING:
            earliest = found[-1].at + rule.apart if found else one.given_up_at + rule.first
            if inquiry.at >= earliest:
                found.append(inquiry)
    return found


def next_look(one: Unsettled, now: datetime) -> datetime | None:
    """Return when to ask about a request again; None when its time of evidence is over.

    The moment at which the step's policy applies is one of them. Asked in vain, a provider is asked ever more
    seldom, hourly at last.
    """
    if one.given_up_at is None:
        return now
    rule, end = RULES[one.channel], one.evidence_ends
    clean = _clean(one)
    look = clean[-1].at + rule.apart if clean else one.given_up_at + rule.first
    if one.inquiries:
        pause = min(rule.apart * 2 ** min(len(one.inquiries) - 1, 12), _LONGEST_PAUSE)
        look = max(look, one.inquiries[-1].at + pause)
    if look < end:
        return look
    tried = bool(one.inquiries) and one.inquiries[-1].at >= end
    if one.policy is OnUnknown.HOLD or one.decision is not None or tried:
        # What could not be decided on while its worker might still write it is decided on afterwards.
        undecided = tried and one.policy is OnUnknown.RESEND and not one.worker_gone
        return look if undecided else end if now < end else None
    return end


def exist(connection: Connection, run_id: RunId) -> bool:
    """Tell whether a run has any request of unknown outcome."""
    mine = select(attempts.c.attempt_id).where(_of_run(connection, run_id), is_in_doubt(attempts))
    return connection.execute(mine.limit(1)).first() is not None


def read(connection: Connection, run_id: RunId) -> list[Unsettled]:
    """Return a run's requests of unknown outcome, oldest first; those whose messages are sent again are left out."""
    plan = plan_of(connection, run_id)
    steps = range(1, len(plan.sequence) + 1)
    latest = (
        select(messages.c.attempt_id, func.max(messages.c.not_after).label("not_after"))
        .where(messages.c.run_id == run_id, messages.c.step_no.in_(steps), messages.c.state == MessageState.UNKNOWN)
        .group_by(messages.c.attempt_id)
        .subquery()
    )
    gone = or_(batches.c.closed_machine.is_not(None), batches.c.lease_machine < machine_now())
    rows = connection.execute(
        select(attempts, latest.c.not_after, case((gone, 1), else_=0).label("worker_gone"))
        .join(batches, batches.c.batch_id == attempts.c.batch_id)
        .join(latest, latest.c.attempt_id == attempts.c.attempt_id)
        .where(_of_run(connection, run_id), is_in_doubt(attempts))
        .order_by(attempts.c.wire_at, attempts.c.attempt_id)
    ).all()
    asked: dict[str, list[Inquiry]] = {}
    if rows:
        for row in connection.execute(
            select(inquiries)
            .join(attempts, attempts.c.attempt_id == inquiries.c.attempt_id)
            .where(_of_run(connection, run_id), is_in_doubt(attempts))
            .order_by(inquiries.c.at, inquiries.c.inquiry_id)
        ):
            asked.setdefault(row.attempt_id, []).append(Inquiry(at=row.at, finding=Finding(row.finding)))
    return [
        Unsettled(
            attempt_id=AttemptId(row.attempt_id),
            run_id=run_id,
            step_no=row.step_no,
            channel=Channel(row.channel),
            messages=row.messages,
            wire_at=row.wire_at,
            given_up_at=row.given_up_at,
            not_after=row.not_after,
            worker_gone=bool(row.worker_gone),
            policy=plan.sequence[row.step_no - 1].on_unknown,
            decision=None if row.decision is None else OnUnknown(row.decision),
            inquiries=tuple(asked.get(row.attempt_id, ())),
        )
        for row in rows
    ]


def _of_run(connection: Connection, run_id: RunId) -> ColumnElement[bool]:
    """Return the SQL for the requests of a run, with its steps named: the index goes by step before outcome."""
    steps = range(1, len(plan_of(connection, run_id).sequence) + 1)
    return and_(attempts.c.run_id == run_id, attempts.c.step_no.in_(steps))


def is_in_doubt(attempt: FromClause) -> ColumnElement[bool]:
    """Return the SQL for: nobody knows whether this request was accepted, and its messages wait for that."""
    return and_(
        attempt.c.outcome == AttemptOutcome.UNKNOWN,
        attempt.c.decision.is_distinct_from(OnUnknown.RESEND),
    )


def next_moment(found: Sequence[Unsettled], now: datetime) -> datetime | None:
    """Return when any of these is to be asked about next."""
    return min((look for one in found if (look := next_look(one, now)) is not None), default=None)


def number_in_doubt(message: FromClause, since: ColumnElement[datetime]) -> ColumnElement[bool]:
    """Return the SQL for: of another text to the number of a row of `message` nobody knows whether it was sent.

    A second one would make the two indistinguishable in the provider's list. Past the time of evidence, that is
    written before `since`, it no longer matters.
    """
    other, attempt = messages.alias("in_doubt"), attempts.alias("of_doubt")
    return (
        select(other.c.seq)
        .join(attempt, attempt.c.attempt_id == other.c.attempt_id)
        .where(
            other.c.address_key == message.c.address_key,
            other.c.channel == Channel.SMS,
            other.c.state == MessageState.UNKNOWN,
            attempt.c.decision.is_(None),
            attempt.c.wire_at > since,
        )
        .correlate(message)
        .exists()
    )
