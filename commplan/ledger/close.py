"""Writing down what became of a request: accepted, refused, never left, or unknown.

Completing a message and what follows from it (enrolment kept, follow-ups due) happen in one transaction. A late
answer never overrides evidence: every change names the attempt and the states it may come from.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

import orjson
from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    Text,
    Update,
    and_,
    bindparam,
    case,
    func,
    null,
    or_,
    select,
    update,
)

from commplan.ids import AttemptId, MessageRef, RunId
from commplan.ledger.claim import Batch
from commplan.ledger.schedule import release_followers
from commplan.store import Store
from commplan.store.tables import attempts, batches, enrolments, messages, recipients, runs
from commplan.store.types import UtcDateTime, among, entry, listed, machine_now
from commplan.terms import AttemptOutcome, MessageState, OnUnknown, Reason, RunState

_ON_WIRE = (MessageState.SENDING, MessageState.UNKNOWN)
_TO_SEND = (MessageState.QUEUED, MessageState.CLAIMED)


def _of_run(state: RunState) -> ColumnElement[bool]:
    of_message = select(runs.c.run_id).where(runs.c.run_id == messages.c.run_id, runs.c.state == state)
    return of_message.correlate(messages).exists()


#: What becomes of a message that has not been sent after all: queued again, unless its run is over.
_BACK: Mapping[str, object] = {
    "state": case(
        (or_(_of_run(RunState.CANCELLED), _of_run(RunState.FINISHED)), MessageState.CANCELLED),
        else_=MessageState.QUEUED,
    ),
    "reason": case(
        (_of_run(RunState.CANCELLED), Reason.RUN_CANCELLED),
        (_of_run(RunState.FINISHED), Reason.RUN_ENDED),
        else_=null(),
    ),
    "batch_id": None,
}


#: Requests were taken by the provider, which has named them.
_TAKEN = (
    update(attempts)
    .where(
        attempts.c.attempt_id.in_(bindparam("of_attempts", expanding=True)),
        or_(attempts.c.outcome == AttemptOutcome.OPEN, attempts.c.outcome == AttemptOutcome.UNKNOWN),
        attempts.c.decision.is_distinct_from(OnUnknown.RESEND),
    )
    .values(
        outcome=AttemptOutcome.ACCEPTED,
        provider_id=entry(bindparam("named", type_=Text()), attempts.c.attempt_id),
        status=None,
        code=None,
        closed_machine=machine_now(),
    )
)
_OF_ATTEMPTS = messages.c.attempt_id.in_(bindparam("of_attempts", expanding=True))
_PROVIDER_ID = (
    select(attempts.c.provider_id)
    .where(attempts.c.attempt_id == messages.c.attempt_id)
    .correlate(messages)
    .scalar_subquery()
)
#: Its messages are accepted, and those that a receipt has moved on already get the provider's id.
_ACCEPTED = (
    update(messages)
    .where(_OF_ATTEMPTS, messages.c.state.in_(_ON_WIRE))
    .values(state=MessageState.ACCEPTED, accepted_at=bindparam("now", type_=UtcDateTime()), provider_id=_PROVIDER_ID)
    .returning(messages.c.run_id, messages.c.step_no, messages.c.seq)
)
_CARRIED = select(func.coalesce(func.sum(attempts.c.messages), 0)).where(
    attempts.c.attempt_id.in_(bindparam("of_attempts", expanding=True))
)
_NAMED_LATER = (
    update(messages)
    .where(_OF_ATTEMPTS, messages.c.provider_id.is_(None), messages.c.state.not_in(_TO_SEND))
    .values(provider_id=_PROVIDER_ID)
)


def _close_attempt(
    connection: Connection,
    attempt_id: AttemptId,
    outcome: AttemptOutcome,
    *,
    status: int | None = None,
    code: str | None = None,
    provider_id: str | None = None,
) -> None:
    connection.execute(
        update(attempts)
        .where(
            attempts.c.attempt_id == attempt_id,
            attempts.c.outcome.in_((AttemptOutcome.OPEN, AttemptOutcome.UNKNOWN)),
            attempts.c.decision.is_distinct_from(OnUnknown.RESEND),
        )
        .values(outcome=outcome, status=status, code=code, provider_id=provider_id, closed_machine=machine_now())
    )


def accept(
    store: Store, accepted: Mapping[AttemptId, str | None], *, now: datetime, finishing: Batch | None = None
) -> int:
    """Record that the provider took some requests, each with the id it answered, if any.

    Returns how many messages became accepted by it. Own transaction. Messages that a receipt has already moved on
    keep what the receipt said and get the provider's id. `finishing`: a batch that is closed by the same commit.
    """
    with store.write() as connection:
        count = accept_in(connection, accepted, now=now)
        if finishing is not None:
            _abandon(connection, [finishing.batch_id])
    return count


def accept_in(connection: Connection, accepted: Mapping[AttemptId, str | None], *, now: datetime) -> int:
    """Do what `accept` does, in the caller's transaction."""
    if not accepted:
        return 0
    named = orjson.dumps(accepted).decode()
    these = {"of_attempts": sorted(accepted), "now": now, "named": named}
    connection.execute(_TAKEN, these)
    rows = connection.execute(_ACCEPTED, these).all()
    if len(rows) < connection.execute(_CARRIED, these).scalar_one():
        connection.execute(_NAMED_LATER, these)
    refs = [*recover(connection, accepted), *(MessageRef(row.run_id, row.step_no, row.seq) for row in rows)]
    keep(connection, refs, now=now)
    return len(refs)


#: Requests that were given up for lost, or are to be sent again.
_GIVEN_UP = select(attempts.c.attempt_id, attempts.c.wire_at).where(
    attempts.c.attempt_id.in_(bindparam("of_attempts", expanding=True)),
    or_(
        attempts.c.outcome == AttemptOutcome.LOST,
        and_(attempts.c.outcome == AttemptOutcome.UNKNOWN, attempts.c.decision == OnUnknown.RESEND),
    ),
)


def recover(connection: Connection, proven: Mapping[AttemptId, str | None]) -> list[MessageRef]:
    """Take back the decision to send again what was accepted after all; return the messages it came in time for.

    `proven`: requests that the provider has taken, by proof, with its name for them. Messages that are still to be
    sent again become accepted as of the moment the request was written; those that went out again have arrived
    twice, and the request keeps its outcome and the provider's name as a witness of that. In the caller's transaction.
    """
    refs: list[MessageRef] = []
    for row in connection.execute(_GIVEN_UP, {"of_attempts": sorted(proven)}).all():
        provider_id = proven[AttemptId(row.attempt_id)]
        saved = connection.execute(
            update(messages)
            .where(messages.c.attempt_id == row.attempt_id, messages.c.state.in_(_TO_SEND))
            .values(state=MessageState.ACCEPTED, accepted_at=row.wire_at, provider_id=provider_id, batch_id=None)
            .returning(messages.c.run_id, messages.c.step_no, messages.c.seq)
        ).all()
        change: dict[str, object] = {"provider_id": provider_id}
        if saved:
            change |= {"outcome": AttemptOutcome.ACCEPTED, "messages": len(saved), "decision": None}
        connection.execute(update(attempts).where(attempts.c.attempt_id == row.attempt_id).values(**change))
        refs.extend(MessageRef(RunId(one.run_id), one.step_no, one.seq) for one in saved)
    return refs


_FIRST = (
    update(runs)
    .where(runs.c.run_id == bindparam("of_run"), runs.c.first_accepted_at.is_(None))
    .values(first_accepted_at=bindparam("now", type_=UtcDateTime()))
)
_PLAN = select(runs.c.plan, runs.c.people).where(runs.c.run_id == bindparam("of_run"))
_REACHED = and_(recipients.c.run_id == bindparam("of_run"), among(recipients.c.seq, bindparam("of_seqs", type_=Text())))


def _kept(reached: ColumnElement[bool]) -> Update:
    """Return how places of a run in its plan become kept, for those `reached`."""
    return (
        update(enrolments)
        .where(
            enrolments.c.plan == bindparam("of_plan"),
            enrolments.c.people == bindparam("of_people"),
            reached,
            enrolments.c.run_id == bindparam("of_run"),
            # Written so that no index of the run's whole list is searched for it.
            enrolments.c.state + "" == "reserved",
        )
        .values(state="kept", at=bindparam("now", type_=UtcDateTime()))
    )


#: Each database goes through the whole list where the other finds each person by the key.
_KEPT = {
    "sqlite": _kept(enrolments.c.contact_id.in_(select(recipients.c.contact_id).where(_REACHED))),
    "postgresql": _kept(and_(enrolments.c.contact_id == recipients.c.contact_id, _REACHED)),
}


def keep(connection: Connection, refs: Sequence[MessageRef], *, now: datetime) -> None:
    """Do what follows from newly accepted messages: enrolments are kept, later steps get their due time.

    In the caller's transaction; whoever makes a message accepted, a sender or a receipt, calls this.
    """
    for run_id in {ref.run_id for ref in refs}:
        # The run's row first, as everywhere: whoever cancels the run holds it while taking enrolments back.
        connection.execute(_FIRST, {"of_run": run_id, "now": now})
        plan, people = connection.execute(_PLAN, {"of_run": run_id}).one()
        seqs = listed([ref.seq for ref in refs if ref.run_id == run_id])
        these = {"of_run": run_id, "of_plan": plan, "of_people": people, "of_seqs": seqs, "now": now}
        connection.execute(_KEPT[connection.dialect.name], these)
    release_followers(connection, refs)


def reject(
    store: Store, attempt_id: AttemptId, *, status: int | None, code: str | None, seqs: Collection[int] | None = None
) -> None:
    """Record that the provider refused a request for good. Own transaction.

    `seqs`: only these messages are over, the others of the request go back to the batch; None: all are over.
    """
    with store.write() as connection:
        reject_in(connection, attempt_id, now=store.clock.now(), status=status, code=code, seqs=seqs)


def reject_in(
    connection: Connection,
    attempt_id: AttemptId,
    *,
    now: datetime,
    status: int | None,
    code: str | None,
    seqs: Collection[int] | None = None,
) -> None:
    """Do what `reject` does, in the caller's transaction."""
    _close_attempt(connection, attempt_id, AttemptOutcome.REJECTED, status=status, code=code)
    of_attempt = and_(messages.c.attempt_id == attempt_id, messages.c.state.in_(_ON_WIRE))
    over = of_attempt if seqs is None else and_(of_attempt, messages.c.seq.in_(seqs))
    connection.execute(
        update(messages)
        .where(over)
        .values(state=MessageState.FAILED, reason=Reason.REJECTED, failed_at=now, batch_id=None)
    )
    _return(connection, attempt_id)


def take_back(store: Store, attempt_id: AttemptId, *, status: int | None = None, code: str | None = None) -> None:
    """Record that a request certainly was not processed; its messages go back to their batch. Own transaction."""
    with store.write() as connection:
        _close_attempt(connection, attempt_id, AttemptOutcome.NEVER_LEFT, status=status, code=code)
        _return(connection, attempt_id)


def _return(connection: Connection, attempt_id: AttemptId) -> None:
    """Take messages of a request that did not carry them: back to the batch, or to the queue if it was swept."""
    for state, change in (
        (MessageState.SENDING, {"state": MessageState.CLAIMED}),
        (MessageState.UNKNOWN, _BACK),
    ):
        connection.execute(
            update(messages)
            .where(messages.c.attempt_id == attempt_id, messages.c.state == state)
            .values(**change, attempt_id=None)
        )


def lose_sight(store: Store, attempt_id: AttemptId, *, status: int | None = None, code: str | None = None) -> None:
    """Record that nobody knows whether a request was accepted; only evidence changes that. Own transaction."""
    with store.write() as connection:
        _close_attempt(connection, attempt_id, AttemptOutcome.UNKNOWN, status=status, code=code)
        connection.execute(
            update(messages)
            .where(messages.c.attempt_id == attempt_id, messages.c.state == MessageState.SENDING)
            .values(state=MessageState.UNKNOWN)
        )


def finish(store: Store, batch: Batch, *, again_at: datetime | None = None) -> int:
    """Close a batch; what is still claimed goes back to the queue, due at `again_at` if given. Own transaction.

    What is still on the wire has no answer that anyone will write down: it becomes unknown. Returns how many went
    back to the queue.
    """
    with store.write() as connection:
        back, _ = _abandon(connection, [batch.batch_id], due_at=again_at)
    return back


def sweep(store: Store, run_id: RunId) -> tuple[int, int]:
    """Take back what workers left behind when their lease ended; return (queued again, now unknown).

    Claimed was not attempted, so it is queued again. What was on the wire may have been accepted: it becomes
    unknown and waits for evidence. Own transaction, on the database's clock.
    """
    with store.write() as connection:
        ended = (
            connection.execute(
                select(batches.c.batch_id)
                .where(
                    batches.c.run_id == run_id,
                    batches.c.closed_machine.is_(None),
                    batches.c.lease_machine < machine_now(),
                )
                # Whoever holds the row is renewing the lease at this moment.
                .with_for_update(skip_locked=True)
            )
            .scalars()
            .all()
        )
        return _abandon(connection, ended) if ended else (0, 0)


_OF_BATCHES: BindParameter[int] = bindparam("of_batches", expanding=True)
_CLOSING = (
    update(batches)
    .where(batches.c.batch_id.in_(_OF_BATCHES), batches.c.closed_machine.is_(None))
    .values(closed_machine=machine_now())
    .returning(batches.c.batch_id)
)
#: Requests that nobody will write down an answer to any more, and their messages.
_UNANSWERED = (
    update(attempts)
    .where(attempts.c.batch_id.in_(_OF_BATCHES), attempts.c.outcome == AttemptOutcome.OPEN)
    .values(outcome=AttemptOutcome.UNKNOWN)
)
_LOST_SIGHT = (
    update(messages)
    .where(
        messages.c.attempt_id.in_(select(attempts.c.attempt_id).where(attempts.c.batch_id.in_(_OF_BATCHES))),
        messages.c.state == MessageState.SENDING,
    )
    .values(state=MessageState.UNKNOWN)
)
_BACK_AGAIN = (
    update(messages)
    .where(messages.c.batch_id.in_(_OF_BATCHES), messages.c.state == MessageState.CLAIMED)
    .values(**_BACK)
)


def _abandon(connection: Connection, ended: Sequence[int], *, due_at: datetime | None = None) -> tuple[int, int]:
    """Close batches that are open still. Locks batches, then requests, then messages, as the last look does."""
    closing = connection.execute(_CLOSING, {"of_batches": ended}).scalars().all()
    if not closing:
        return 0, 0
    these = {"of_batches": closing}
    connection.execute(_UNANSWERED, these)
    unknown = connection.execute(_LOST_SIGHT, these).rowcount
    again = _BACK_AGAIN if due_at is None else _BACK_AGAIN.values(due_at=due_at)
    return connection.execute(again, these).rowcount, unknown
