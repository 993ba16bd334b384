"""What a run has still to do: its queue by step, how fast it goes, when it would be done, and what is in doubt.

Read-only; counts and moments, never a person.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, and_, case, func, select

from commplan.clock import Clock
from commplan.ids import RunId
from commplan.ledger.breaker import halted_countries, held_back
from commplan.ledger.run import plan_of
from commplan.store.tables import attempts, messages
from commplan.store.types import machine_now
from commplan.terms import AttemptOutcome, MessageState

#: Machine seconds over which a rate is measured.
LATELY = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StepBacklog:
    """One step's queue. `rate` is messages a machine second over the last minutes; times are plan time.

    `done_by` is when the queue would be empty at that rate, or its last message due; None without either. Messages
    that wait for an earlier step, or for their country, are not in it.
    """

    step_no: int
    step: str
    due: int
    later: int
    next_at: datetime | None
    not_due: int
    held_back: int
    under_way: int
    unknown: int
    unknown_since: datetime | None
    rate: float
    done_by: datetime | None


def backlog(connection: Connection, run_id: RunId, clock: Clock) -> list[StepBacklog]:
    """Return what each step of a run has still to do."""
    now = clock.now()
    countries = halted_countries(connection, run_id)
    waits = and_(messages.c.state == MessageState.QUEUED, held_back(countries, now))
    queued = and_(messages.c.state == MessageState.QUEUED, ~held_back(countries, now))
    later = and_(queued, messages.c.due_at > now)
    rows = connection.execute(
        select(
            messages.c.step_no,
            func.count(case((and_(queued, messages.c.due_at <= now), 1))).label("due"),
            func.count(case((later, 1))).label("later"),
            func.min(case((later, messages.c.due_at))).label("next_at"),
            func.max(case((queued, messages.c.due_at))).label("last_at"),
            func.count(case((messages.c.state == MessageState.NOT_DUE, 1))).label("not_due"),
            func.count(case((waits, 1))).label("held_back"),
            func.count(case((messages.c.state.in_((MessageState.CLAIMED, MessageState.SENDING)), 1))).label(
                "under_way"
            ),
        )
        .where(messages.c.run_id == run_id)
        .group_by(messages.c.step_no)
    )
    counted = {row.step_no: row for row in rows}
    doubts = _unknown(connection, run_id)
    rates = _rates(connection, run_id)
    found = []
    for step_no, step in enumerate(plan_of(connection, run_id).sequence, 1):
        row = counted.get(step_no)
        if row is None:
            continue
        unknown, since = doubts.get(step_no, (0, None))
        rate = rates.get(step_no, 0.0)
        found.append(
            StepBacklog(
                step_no=step_no,
                step=step.step,
                due=row.due,
                later=row.later,
                next_at=row.next_at,
                not_due=row.not_due,
                held_back=row.held_back,
                under_way=row.under_way,
                unknown=unknown,
                unknown_since=since,
                rate=rate,
                done_by=_done_by(clock, now, due=row.due + row.under_way, rate=rate, last_at=row.last_at),
            )
        )
    return found


def _done_by(clock: Clock, now: datetime, *, due: int, rate: float, last_at: datetime | None) -> datetime | None:
    moments = [] if last_at is None or last_at <= now else [last_at]
    if due and not rate:
        return None
    if due:
        moments.append(now + timedelta(seconds=due / rate * clock.factor))
    return max(moments, default=None)


def _unknown(connection: Connection, run_id: RunId) -> dict[int, tuple[int, datetime]]:
    rows = connection.execute(
        select(messages.c.step_no, func.count().label("messages"), func.min(attempts.c.wire_at).label("since"))
        .join(attempts, attempts.c.attempt_id == messages.c.attempt_id)
        .where(messages.c.run_id == run_id, messages.c.state == MessageState.UNKNOWN)
        .group_by(messages.c.step_no)
    )
    return {row.step_no: (row.messages, row.since) for row in rows}


def _rates(connection: Connection, run_id: RunId) -> dict[int, float]:
    """Return the messages accepted a second by step, from the first that was accepted in the last minutes until now."""
    rows = connection.execute(
        select(
            attempts.c.step_no,
            func.sum(attempts.c.messages).label("messages"),
            (machine_now() - func.min(attempts.c.wire_machine)).label("seconds"),
        )
        .where(
            attempts.c.run_id == run_id,
            attempts.c.outcome == AttemptOutcome.ACCEPTED,
            attempts.c.closed_machine > machine_now() - LATELY,
        )
        .group_by(attempts.c.step_no)
    )
    return {row.step_no: int(row.messages) / max(1.0, row.seconds) for row in rows}
