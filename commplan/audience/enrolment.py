"""Enrolment: how often one person may go through a plan, decided set by set in the store.

Never touches a place that another run has kept; a reserved place is given back when its run ends without a message.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, and_, delete, func, literal, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from commplan.ids import RunId
from commplan.plan import Plan
from commplan.store import Store
from commplan.store.tables import enrolments, messages, recipients, runs
from commplan.terms import Reason

#: Recipients looked at in one transaction.
CHUNK = 20_000


def enrol(store: Store, *, run_id: RunId, plan: Plan, people: int, now: datetime) -> None:
    """Reserve a place in the plan for each of the run's recipients 1 to `people`, and exclude those who get none.

    `once`, or once in a duration: a place that another run holds makes `already_enrolled`; one kept longer ago than
    the duration is taken over. `every_run`: a message of the same plan accepted less than `min_gap` ago makes
    `recently_sent`. Short transactions of its own; doing it again changes nothing.
    """
    enroll = plan.audience.enroll
    for first in range(1, people + 1, CHUNK):
        here = and_(
            recipients.c.run_id == run_id,
            recipients.c.seq.between(first, first + CHUNK - 1),
            recipients.c.excluded.is_(None),
        )
        with store.write() as connection:
            if enroll == "every_run":
                _exclude_recent(connection, run_id, plan, here, now=now)
            else:
                since = now - enroll if isinstance(enroll, timedelta) else None
                _reserve(connection, run_id, plan, here, now=now, since=since)


def release(connection: Connection, run_id: RunId) -> None:
    """Give back the places a run has reserved and not kept. In the caller's transaction."""
    connection.execute(delete(enrolments).where(enrolments.c.run_id == run_id, enrolments.c.state == "reserved"))


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
    )
    if since is None:
        reserved = reserved.on_conflict_do_nothing()
    else:
        reserved = reserved.on_conflict_do_update(
            index_elements=[enrolments.c.plan, enrolments.c.people, enrolments.c.contact_id],
            set_={"run_id": run_id, "state": "reserved", "at": now},
            where=and_(enrolments.c.state == "kept", enrolments.c.at <= since, enrolments.c.run_id != run_id),
        )
    connection.execute(reserved)
    ours = (
        select(enrolments.c.run_id)
        .where(
            enrolments.c.plan == plan.plan,
            enrolments.c.people == recipients.c.people,
            enrolments.c.contact_id == recipients.c.contact_id,
            enrolments.c.run_id == run_id,
        )
        .correlate(recipients)
    )
    connection.execute(update(recipients).where(here, ~ours.exists()).values(excluded=Reason.ALREADY_ENROLLED))


def _exclude_recent(
    connection: Connection, run_id: RunId, plan: Plan, here: ColumnElement[bool], *, now: datetime
) -> None:
    since = now - plan.audience.min_gap
    last_step = select(func.max(messages.c.step_no)).where(messages.c.run_id == runs.c.run_id).scalar_subquery()
    others = connection.execute(
        select(runs.c.run_id, last_step.label("steps")).where(
            runs.c.plan == plan.plan,
            runs.c.people == plan.audience.people,
            runs.c.run_id != run_id,
            runs.c.first_accepted_at.is_not(None),
            or_(runs.c.finished_at.is_(None), runs.c.finished_at > since),
        )
    ).all()
    earlier = recipients.alias("earlier")
    for other in others:
        # The steps are listed so that both databases find a person's messages by primary key.
        recent = (
            select(messages.c.seq)
            .join(earlier, and_(earlier.c.run_id == messages.c.run_id, earlier.c.seq == messages.c.seq))
            .where(
                earlier.c.run_id == other.run_id,
                earlier.c.contact_id == recipients.c.contact_id,
                messages.c.run_id == other.run_id,
                messages.c.step_no.in_(range(1, (other.steps or 0) + 1)),
                messages.c.accepted_at > since,
            )
            .correlate(recipients)
        )
        connection.execute(update(recipients).where(here, recent.exists()).values(excluded=Reason.RECENTLY_SENT))
