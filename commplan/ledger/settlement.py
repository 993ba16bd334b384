"""Writing down what became of requests whose outcome was unknown: proven, lost, or decided without proof.

Every conclusion names the attempt and the states it comes from, so that a receipt or a late answer that comes first
wins.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, and_, case, func, insert, or_, select, update

from commplan.errors import RunError
from commplan.ids import AttemptId, MessageRef, RunId
from commplan.ledger import unsettled
from commplan.ledger.close import keep
from commplan.ledger.ending import release_enrolments
from commplan.ledger.run import plan_of, record
from commplan.ledger.schedule import release_followers
from commplan.ledger.unsettled import Inquiry, Unsettled
from commplan.store import Store
from commplan.store.tables import attempts, batches, inquiries, messages, receipts, runs
from commplan.store.types import machine_now
from commplan.terms import AttemptOutcome, MessageState, OnUnknown, Reason, Retry, RunState

_ENDED = {RunState.FINISHED: Reason.RUN_ENDED, RunState.CANCELLED: Reason.RUN_CANCELLED}


def notice(store: Store, run_id: RunId) -> int:
    """Begin the time of evidence of requests that have become unknown; return how many. Own transaction."""
    with store.write() as connection:
        return connection.execute(
            update(attempts)
            .where(
                attempts.c.run_id == run_id,
                attempts.c.outcome == AttemptOutcome.UNKNOWN,
                attempts.c.given_up_at.is_(None),
            )
            .values(given_up_at=store.clock.now())
        ).rowcount


def note(store: Store, attempt_id: AttemptId, inquiry: Inquiry, *, asked: int) -> None:
    """Keep that a provider was asked about a request, for so many addresses, and what was found. Own transaction."""
    with store.write() as connection:
        connection.execute(
            insert(inquiries).values(attempt_id=attempt_id, at=inquiry.at, finding=inquiry.finding, asked=asked)
        )


def accept(store: Store, attempt_id: AttemptId, provider_id: str) -> int:
    """Record evidence that a request was accepted, as of the moment it was written; return its messages.

    Own transaction. 0 when something else was known first.
    """
    with store.write() as connection:
        row = connection.execute(
            update(attempts)
            .where(attempts.c.attempt_id == attempt_id, unsettled.is_in_doubt(attempts))
            .values(
                outcome=AttemptOutcome.ACCEPTED, provider_id=provider_id, closed_machine=machine_now(), decision=None
            )
            .returning(attempts.c.wire_at)
        ).one_or_none()
        if row is None:
            return 0
        accepted = connection.execute(
            update(messages)
            .where(messages.c.attempt_id == attempt_id, messages.c.state == MessageState.UNKNOWN)
            .values(state=MessageState.ACCEPTED, accepted_at=row.wire_at, provider_id=provider_id)
            .returning(messages.c.run_id, messages.c.step_no, messages.c.seq)
        ).all()
        refs = [MessageRef(RunId(one.run_id), one.step_no, one.seq) for one in accepted]
        keep(connection, refs, now=store.clock.now())
        return len(refs)


def lose(store: Store, one: Unsettled) -> int:
    """Record proof that a request was not accepted: its messages may be sent again. Returns how many.

    Own transaction. 0 when its worker may still write it, when something else was known first, or when sending again
    by itself is off for the run (`is_resending_off`). In a run that has ended they are cancelled.
    """
    gone = or_(batches.c.closed_machine.is_not(None), batches.c.lease_machine < machine_now())
    batch = select(batches.c.batch_id).where(batches.c.batch_id == attempts.c.batch_id, gone)
    with store.write() as connection:
        if is_resending_off(connection, one.run_id):
            return 0
        # The request before the run before its messages: receipts lock in that order, too.
        if not connection.execute(
            update(attempts)
            .where(attempts.c.attempt_id == one.attempt_id, unsettled.is_in_doubt(attempts), batch.exists())
            .values(outcome=AttemptOutcome.LOST, closed_machine=machine_now(), decision=None)
        ).rowcount:
            return 0
        state = _lock_run(connection, one.run_id)
        change: dict[str, object] = {"state": MessageState.QUEUED, "due_at": store.clock.now()}
        if state in _ENDED:
            change = {"state": MessageState.CANCELLED, "reason": _ENDED[state]}
        # They keep the name of the request: a receipt for it, before they go out again, still counts.
        back = connection.execute(
            update(messages)
            .where(messages.c.attempt_id == one.attempt_id, messages.c.state == MessageState.UNKNOWN)
            .values(**change, batch_id=None)
        ).rowcount
        if state in _ENDED:
            release_enrolments(connection, one.run_id)
        record(connection, one.run_id, store.clock.now(), "judged lost", {"messages": back, "step": one.step_no})
        return back


def _lock_run(connection: Connection, run_id: RunId) -> RunState:
    return RunState(
        connection.execute(select(runs.c.state).where(runs.c.run_id == run_id).with_for_update()).scalar_one()
    )


def decide(store: Store, one: Unsettled) -> int:
    """Apply the step's policy to a request that stays unknown; return how many messages it concerned. Own transaction.

    `assume_sent`: they stay unknown, and what follows them becomes due as if they had been sent. `resend`: they are
    queued again, unless sending again by itself is off for the run, the run has ended, or the request's worker may
    still write it.
    """
    now = store.clock.now()
    with store.write() as connection:
        if one.policy is OnUnknown.HOLD:
            return 0
        if one.policy is OnUnknown.RESEND and (not one.worker_gone or is_resending_off(connection, one.run_id)):
            return 0
        if not connection.execute(
            update(attempts)
            .where(
                attempts.c.attempt_id == one.attempt_id,
                attempts.c.outcome == AttemptOutcome.UNKNOWN,
                attempts.c.decision.is_(None),
            )
            .values(decision=one.policy, decided_at=now)
        ).rowcount:
            return 0
        if one.policy is OnUnknown.ASSUME_SENT:
            return _assume(connection, one, now=now)
        return _send_again(connection, one, now=now)


def _assume(connection: Connection, one: Unsettled, *, now: datetime) -> int:
    rows = connection.execute(
        select(messages.c.step_no, messages.c.seq).where(
            messages.c.attempt_id == one.attempt_id, messages.c.state == MessageState.UNKNOWN
        )
    ).all()
    refs = [MessageRef(one.run_id, row.step_no, row.seq) for row in rows]
    release_followers(connection, refs)
    record(connection, one.run_id, now, "assumed sent", {"messages": len(refs), "step": one.step_no})
    return len(refs)


def _send_again(connection: Connection, one: Unsettled, *, now: datetime) -> int:
    if _lock_run(connection, one.run_id) in _ENDED:
        connection.execute(
            update(attempts).where(attempts.c.attempt_id == one.attempt_id).values(decision=None, decided_at=None)
        )
        return 0
    again = connection.execute(
        update(messages)
        .where(messages.c.attempt_id == one.attempt_id, messages.c.state == MessageState.UNKNOWN)
        .values(state=MessageState.QUEUED, due_at=now, batch_id=None)
    ).rowcount
    record(connection, one.run_id, now, "sent again without evidence", {"messages": again, "step": one.step_no})
    return again


def is_resending_off(connection: Connection, run_id: RunId) -> bool:
    """Tell whether the run has proof that a request judged lost had been accepted, and its people got it twice."""
    witness = connection.execute(
        select(attempts.c.attempt_id)
        .where(
            attempts.c.run_id == run_id,
            attempts.c.outcome == AttemptOutcome.LOST,
            attempts.c.provider_id.is_not(None),
        )
        .limit(1)
    ).first()
    return witness is not None or doubts(connection, run_id).duplicates > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubts:
    """What was decided on a run's requests without an answer, in messages.

    `unknown` may have been sent, the first of them `since`; of them `assumed` are treated as if they had been. `lost`
    are proven not to have been accepted the first time, `resent` were sent again without evidence. `duplicates` arrived
    twice although the first request was judged not to have gone through; `repeats` arrived twice because it was decided
    to send them again.
    """

    unknown: int = 0
    assumed: int = 0
    lost: int = 0
    resent: int = 0
    duplicates: int = 0
    repeats: int = 0
    since: datetime | None = None


def doubts(connection: Connection, run_id: RunId) -> Doubts:
    """Return the counts of a run; what arrived twice is told by the providers' receipts alone."""
    unknown, assumed, since = connection.execute(
        select(func.count(), func.count(attempts.c.decision), func.min(attempts.c.wire_at))
        .select_from(messages)
        .join(attempts, attempts.c.attempt_id == messages.c.attempt_id)
        .where(messages.c.run_id == run_id, messages.c.state == MessageState.UNKNOWN)
    ).one()
    lost, resent = connection.execute(
        select(
            func.coalesce(func.sum(case((attempts.c.outcome == AttemptOutcome.LOST, attempts.c.messages))), 0),
            func.coalesce(func.sum(case((attempts.c.decision == OnUnknown.RESEND, attempts.c.messages))), 0),
        ).where(attempts.c.run_id == run_id)
    ).one()
    # A receipt of a request that the message does not stand for: another one brought it, too.
    twice = (
        select(func.min(case((attempts.c.decision == OnUnknown.RESEND, 1), else_=0)).label("decided"))
        .select_from(receipts)
        .join(attempts, attempts.c.attempt_id == receipts.c.attempt_id)
        .join(messages, and_(*(messages.c[name] == receipts.c[name] for name in ("run_id", "step_no", "seq"))))
        .where(
            receipts.c.run_id == run_id,
            messages.c.accepted_at.is_not(None),
            messages.c.attempt_id != receipts.c.attempt_id,
        )
        .group_by(receipts.c.step_no, receipts.c.seq)
        .subquery()
    )
    decided = func.coalesce(func.sum(twice.c.decided), 0)
    repeats, both = connection.execute(select(decided, func.count(twice.c.decided))).one()
    return Doubts(
        unknown=unknown,
        assumed=assumed,
        lost=int(lost),
        resent=int(resent),
        duplicates=both - int(repeats),
        repeats=int(repeats),
        since=since,
    )


def retriable(connection: Connection, run_id: RunId, only: Retry) -> int:
    """Return how many messages `retry` would queue. RunError when the run has ended."""
    run = connection.execute(select(runs.c.run_key, runs.c.state).where(runs.c.run_id == run_id)).one()
    if RunState(run.state) in _ENDED:
        raise RunError(f"{run.run_key} is {run.state}: nothing of it is sent any more; start another run")
    return connection.execute(
        select(func.count()).select_from(messages).where(messages.c.run_id == run_id, _chosen(run_id, only))
    ).scalar_one()


def _chosen(run_id: RunId, only: Retry) -> ColumnElement[bool]:
    if only is Retry.UNKNOWN:
        of_run = select(attempts.c.attempt_id).where(attempts.c.run_id == run_id, unsettled.is_in_doubt(attempts))
        return and_(messages.c.state == MessageState.UNKNOWN, messages.c.attempt_id.in_(of_run))
    perhaps_sent = select(attempts.c.attempt_id).where(
        attempts.c.attempt_id == messages.c.attempt_id, attempts.c.outcome != AttemptOutcome.LOST
    )
    return and_(
        messages.c.state == MessageState.EXPIRED,
        messages.c.reason.in_((Reason.TOO_LATE, Reason.SILENCE_UNPROVEN)),
        messages.c.address_key.is_not(None),
        ~perhaps_sent.correlate(messages).exists(),
    )


def retry(store: Store, run_id: RunId, only: Retry) -> int:
    """Queue messages again because a person decided so; they may be as late from now as their step allows.

    Returns how many. Own transaction. RunError when the run has ended. The last look is taken at them as at others.
    """
    with store.write() as connection:
        in_doubt = select(attempts.c.attempt_id).where(attempts.c.run_id == run_id, unsettled.is_in_doubt(attempts))
        which = connection.execute(in_doubt.with_for_update()).scalars().all() if only is Retry.UNKNOWN else []
        _lock_run(connection, run_id)
        retriable(connection, run_id, only)
        plan, now, again = plan_of(connection, run_id), store.clock.now(), 0
        for step_no, step in enumerate(plan.sequence, 1):
            again += connection.execute(
                update(messages)
                .where(messages.c.run_id == run_id, messages.c.step_no == step_no, _chosen(run_id, only))
                .values(
                    state=MessageState.QUEUED, reason=None, due_at=now, not_after=now + step.lateness, batch_id=None
                )
            ).rowcount
        for at in range(0, len(which), 500):
            connection.execute(
                update(attempts)
                .where(attempts.c.attempt_id.in_(which[at : at + 500]), unsettled.is_in_doubt(attempts))
                .values(decision=OnUnknown.RESEND, decided_at=now)
            )
        record(connection, run_id, now, "retried", {"only": only.value, "messages": again})
        return again
