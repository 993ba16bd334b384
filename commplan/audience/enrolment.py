"""Enrolment: how often one person may go through a plan, decided set by set in the store.

Never touches a place that another run has kept; a reserved place is given back when its run ends without a message.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    delete,
    false,
    func,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from commplan.audience.planning import Planning, give_up_silent
from commplan.ids import RunId
from commplan.plan import Plan
from commplan.store import Store
from commplan.store.tables import attempts, enrolments, messages, recipients, runs
from commplan.terms import MessageState, Reason, RunState

#: Recipients looked at in one transaction.
CHUNK = 20_000
#: The numbers a step can have, listed so that both databases find messages by their index.
_STEPS = range(1, 51)
#: In one of these a run may still send what it has queued.
_UNDER_WAY = (RunState.READY, RunState.EXECUTING, RunState.PAUSED, RunState.HELD)
_OVER = (RunState.FINISHED, RunState.CANCELLED, RunState.SUPERSEDED)
#: Whether a message in one of these arrives is not known.
_PERHAPS = (MessageState.SENDING, MessageState.UNKNOWN)


def enrol(store: Store, *, planning: Planning, plan: Plan, people: int, now: datetime) -> None:
    """Reserve a place in the plan for each of the run's recipients 1 to `people`, and exclude those who get none.

    `once`, or once in a duration: a place that another run holds makes `already_enrolled`. Taken over are places kept
    longer ago than the duration; places a run only reserved and can no longer use, because it is over or because its
    planning was abandoned; and, after the duration, those of a run that ended without knowing whether it wrote.

    `every_run`: another run's first step makes `recently_sent` if it was accepted, or perhaps sent, less than
    `min_gap` ago, or will still be sent. Only the first step counts: every later one follows it at the plan's own
    pace, so the distance of two runs' first steps is that of all the others, and who got an earlier run's last step
    an hour ago may begin anew.

    Short transactions of its own, in each of which the planning must still be this process's; doing it again changes
    nothing.
    """
    enroll = plan.audience.enroll
    with store.write() as connection:
        planning.hold(connection)
        give_up_silent(connection, plan=plan.plan, but=planning.run_id)
    _finish_releases(store, planning, plan)
    for first in range(1, people + 1, CHUNK):
        here = and_(
            recipients.c.run_id == planning.run_id,
            recipients.c.seq.between(first, first + CHUNK - 1),
            recipients.c.excluded.is_(None),
        )
        with store.write() as connection:
            planning.hold(connection)
            if enroll == "every_run":
                _exclude_recent(connection, planning.run_id, plan, here, now=now)
            else:
                since = now - enroll if isinstance(enroll, timedelta) else None
                _reserve(connection, planning.run_id, plan, here, now=now, since=since)


def release(connection: Connection, run_id: RunId) -> None:
    """Give back the places a run has reserved and not kept. In the caller's transaction."""
    connection.execute(delete(enrolments).where(enrolments.c.run_id == run_id, enrolments.c.state == "reserved"))


def _finish_releases(store: Store, planning: Planning, plan: Plan) -> None:
    """Give back what runs that are over have reserved and cannot have written to, where they died before they could."""
    left = and_(enrolments.c.run_id == runs.c.run_id, enrolments.c.state == "reserved")
    last = select(func.max(recipients.c.seq)).where(recipients.c.run_id == runs.c.run_id).scalar_subquery()
    with store.read() as connection:
        over = connection.execute(
            select(runs.c.run_id, func.coalesce(last, 0)).where(
                runs.c.plan == plan.plan,
                runs.c.state.in_(_OVER),
                select(enrolments.c.run_id).where(left).correlate(runs).exists(),
            )
        ).all()
    for run_id, last in over:
        perhaps_written_to = select(messages.c.seq).where(
            messages.c.run_id == run_id, messages.c.step_no.in_(_STEPS), messages.c.state.in_(_PERHAPS)
        )
        for first in range(1, last + 1, CHUNK):
            not_written_to = select(recipients.c.contact_id).where(
                recipients.c.run_id == run_id,
                recipients.c.seq.between(first, first + CHUNK - 1),
                recipients.c.seq.not_in(perhaps_written_to),
            )
            with store.write() as connection:
                planning.hold(connection)
                connection.execute(
                    delete(enrolments).where(
                        enrolments.c.run_id == run_id,
                        enrolments.c.state == "reserved",
                        enrolments.c.contact_id.in_(not_written_to),
                    )
                )


def _reserve(
    connection: Connection,
    run_id: RunId,
    plan: Plan,
    here: ColumnElement[bool],
    *,
    now: datetime,
    since: datetime | None,
) -> None:
    upsert = (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(enrolments)
    at = literal(now, enrolments.c.at.type)
    reserved = upsert.from_select(
        ["plan", "people", "contact_id", "run_id", "state", "at"],
        select(
            literal(plan.plan), recipients.c.people, recipients.c.contact_id, literal(run_id), literal("reserved"), at
        ).where(here),
    ).on_conflict_do_update(
        index_elements=[enrolments.c.plan, enrolments.c.people, enrolments.c.contact_id],
        set_={"run_id": run_id, "state": "reserved", "at": now},
        where=and_(enrolments.c.run_id != run_id, _is_free(plan, since)),
    )
    connection.execute(reserved)
    # By the primary key alone: with statistics of an earlier day PostgreSQL would look through all places of the run.
    holder = (
        select(enrolments.c.run_id)
        .where(
            enrolments.c.plan == plan.plan,
            enrolments.c.people == recipients.c.people,
            enrolments.c.contact_id == recipients.c.contact_id,
        )
        .correlate(recipients)
        .scalar_subquery()
    )
    connection.execute(
        update(recipients).where(here, holder.is_distinct_from(run_id)).values(excluded=Reason.ALREADY_ENROLLED)
    )


def _is_free(plan: Plan, since: datetime | None) -> ColumnElement[bool]:
    """Return the condition that a place which another run holds may be taken over."""

    def of_plan(state: ColumnElement[bool]) -> Select[tuple[int]]:
        return select(runs.c.run_id).where(runs.c.plan == plan.plan, state)

    over = of_plan(runs.c.state.in_(_OVER))
    abandoned = of_plan(and_(runs.c.state.in_((RunState.FROZEN, RunState.HELD)), runs.c.planner.is_(None)))
    reserved = enrolments.c.state == "reserved"
    long_ago = false() if since is None else enrolments.c.at <= since
    return or_(
        and_(enrolments.c.state == "kept", long_ago),
        and_(reserved, long_ago, enrolments.c.run_id.in_(over)),
        and_(reserved, enrolments.c.run_id.in_(abandoned)),
    )


def _exclude_recent(
    connection: Connection, run_id: RunId, plan: Plan, here: ColumnElement[bool], *, now: datetime
) -> None:
    since = now - plan.audience.min_gap
    others = connection.execute(
        select(runs.c.run_id, runs.c.state).where(
            runs.c.plan == plan.plan,
            runs.c.people == plan.audience.people,
            runs.c.run_id != run_id,
            or_(
                and_(runs.c.state.in_(_UNDER_WAY), runs.c.planner.is_not(None)),
                and_(runs.c.state.in_(_OVER), runs.c.finished_at > since),
                and_(runs.c.state == RunState.FROZEN, runs.c.audience_size.is_not(None)),
            ),
        )
    ).all()
    earlier = recipients.alias("earlier")
    for other in others:
        same_person = and_(earlier.c.run_id == other.run_id, earlier.c.contact_id == recipients.c.contact_id)
        if other.state == RunState.FROZEN:
            recent = select(earlier.c.seq).where(same_person, earlier.c.excluded.is_(None))
        else:
            recent = (
                select(messages.c.seq)
                .join(earlier, and_(earlier.c.run_id == messages.c.run_id, earlier.c.seq == messages.c.seq))
                .outerjoin(attempts, attempts.c.attempt_id == messages.c.attempt_id)
                .where(
                    same_person,
                    messages.c.run_id == other.run_id,
                    messages.c.step_no == 1,
                    or_(
                        messages.c.accepted_at > since,
                        and_(messages.c.state.in_(_PERHAPS), attempts.c.wire_at > since),
                        _will_be_sent(now) if other.state in _UNDER_WAY else false(),
                    ),
                )
            )
        connection.execute(
            update(recipients).where(here, recent.correlate(recipients).exists()).values(excluded=Reason.RECENTLY_SENT)
        )


def _will_be_sent(now: datetime) -> ColumnElement[bool]:
    """Return the condition that a message waits to be sent and is not too late already."""
    return and_(
        messages.c.state.in_((MessageState.NOT_DUE, MessageState.QUEUED, MessageState.CLAIMED)),
        or_(messages.c.not_after.is_(None), messages.c.not_after >= now),
    )
