"""When messages are due: per person, moved into the hours of their own zone.

Due times are computed here and nowhere else; whether a due message goes out is the last look's business.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from babel.core import get_global
from sqlalchemy import ColumnElement, Connection, and_, bindparam, case, func, select, update

from commplan.ids import MessageRef, RunId
from commplan.ledger import breaker, unsettled
from commplan.ledger.claim import Shard
from commplan.ledger.run import plan_of, ranges
from commplan.ledger.state import NEVER_SENT
from commplan.plan import Plan, Touch
from commplan.store import Store
from commplan.store.tables import attempts, batches, messages, recipients
from commplan.store.types import machine_now
from commplan.terms import MessageState, OnUnknown, Reason
from commplan.window import next_open

#: Machine seconds after which a batch in somebody's hands is looked at again.
LOOK_AGAIN = 5.0


#: Plan time until something that is not known yet is looked at again.
LOOK_LATER = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """The next moment at which a run has something to send: `at`, in plan time, for `steps`."""

    at: datetime
    steps: tuple[int, ...]


@lru_cache(maxsize=512)
def zones_of(zone: str | None, country: str | None, default: ZoneInfo) -> tuple[ZoneInfo, ...]:
    """Return the zones a recipient may be in: their own, else all of their number's country, else the plan's."""
    if zone is not None:
        return (ZoneInfo(zone),)
    territories: Mapping[str, str] = get_global("zone_territories")
    found = sorted(name for name, territory in territories.items() if territory == country)
    return tuple(ZoneInfo(name) for name in found) or (default,)


@lru_cache(maxsize=4096)
def due_in(
    touch: Touch, moment: datetime, zones: tuple[ZoneInfo, ...], lateness: timedelta
) -> tuple[datetime, datetime]:
    """Return when a touch is due at or after `moment`, and after when it must not be sent any more."""
    due, _ = next_open(touch.window, moment, zones)
    return due, due + lateness


def release_followers(connection: Connection, refs: Iterable[MessageRef]) -> int:
    """Give the steps that follow newly accepted messages their due time; return how many became queued.

    In the caller's transaction, which is the one that records the acceptance. Doing it twice changes nothing.
    """
    seqs: dict[tuple[RunId, int], list[int]] = {}
    for ref in refs:
        seqs.setdefault((ref.run_id, ref.step_no), []).append(ref.seq)
    released = 0
    for (run_id, step_no), found in seqs.items():
        plan = plan_of(connection, run_id)
        for number in range(step_no + 1, len(plan.sequence) + 1):
            if plan.follows(number) == step_no:
                released += _release(connection, plan, run_id=run_id, earlier=step_no, step_no=number, seqs=found)
    return released


def _release(
    connection: Connection, plan: Plan, *, run_id: RunId, earlier: int, step_no: int, seqs: Sequence[int]
) -> int:
    before = messages.alias("before")
    released = 0
    for at in range(0, len(seqs), 500):
        # What is assumed sent counts from the moment it was written.
        begun = case(
            (before.c.accepted_at.is_not(None), before.c.accepted_at),
            (attempts.c.decision == OnUnknown.ASSUME_SENT, attempts.c.wire_at),
        )
        rows = connection.execute(
            select(messages.c.seq, begun.label("begun"), recipients.c.segment, recipients.c.zone, recipients.c.country)
            .join(before, (before.c.run_id == messages.c.run_id) & (before.c.seq == messages.c.seq))
            .join(recipients, (recipients.c.run_id == messages.c.run_id) & (recipients.c.seq == messages.c.seq))
            .outerjoin(attempts, attempts.c.attempt_id == before.c.attempt_id)
            .where(
                messages.c.run_id == run_id,
                messages.c.step_no == step_no,
                messages.c.state == MessageState.NOT_DUE,
                before.c.step_no == earlier,
                begun.is_not(None),
                messages.c.seq.in_(seqs[at : at + 500]),
            )
        ).all()
        changes = []
        for row in rows:
            touch = plan.touch(step_no, row.segment)
            due, late = due_in(
                touch,
                row.begun + touch.wait,
                zones_of(row.zone, row.country, plan.zone),
                plan.sequence[step_no - 1].lateness,
            )
            changes.append({"of": row.seq, "due": due, "late": late})
        if changes:
            connection.execute(
                update(messages)
                .where(
                    messages.c.run_id == run_id,
                    messages.c.step_no == step_no,
                    messages.c.seq == bindparam("of"),
                    messages.c.state == MessageState.NOT_DUE,
                )
                .values(state=MessageState.QUEUED, due_at=bindparam("due"), not_after=bindparam("late")),
                changes,
            )
        released += len(changes)
    return released


def drop_orphans(store: Store, run_id: RunId) -> int:
    """Close messages whose earlier step will never be sent, step by step down the sequence; return how many.

    Short transactions of its own, each over a range of recipients.
    """
    dropped = 0
    for first, last in ranges(store, run_id):
        with store.write() as connection:
            plan = plan_of(connection, run_id)
            for step_no in range(2, len(plan.sequence) + 1):
                dropped += _drop(connection, run_id, step_no, earlier=plan.follows(step_no), first=first, last=last)
    return dropped


def _drop(connection: Connection, run_id: RunId, step_no: int, *, earlier: int | None, first: int, last: int) -> int:
    before = messages.alias("before")
    never = (before.c.state.in_(NEVER_SENT)) | (
        (before.c.state == MessageState.FAILED) & before.c.accepted_at.is_(None)
    )
    return connection.execute(
        update(messages)
        .where(
            messages.c.run_id == run_id,
            messages.c.step_no == step_no,
            messages.c.seq.between(first, last),
            messages.c.state == MessageState.NOT_DUE,
            select(before.c.seq)
            .where(before.c.run_id == run_id, before.c.step_no == earlier, before.c.seq == messages.c.seq, never)
            .correlate(messages)
            .exists(),
        )
        .values(state=MessageState.NOT_NEEDED, reason=Reason.EARLIER_STEP_NOT_SENT)
    ).rowcount


def next_due(store: Store, run_id: RunId) -> Due | None:
    """Return the next moment with something to do and the steps due by then, or None when nothing is left.

    What waits for its country is left out: nobody knows when it goes on, and once it is late it is due to expire.

    No step is due at a moment that only asks providers about unknown outcomes (`unsettled.next_look`): a run does not
    end before its evidence is in, or no longer to be expected.

    A worker's open batch is looked at again after `LOOK_AGAIN`, or when its lease is over if that is sooner: a run
    does not end while somebody is still sending for it, and what a dead worker left is not waited for any longer.
    """
    now = store.clock.now()
    open_batches = and_(batches.c.run_id == run_id, batches.c.closed_machine.is_(None))
    with store.read() as connection:
        queued = and_(
            messages.c.run_id == run_id,
            messages.c.state == MessageState.QUEUED,
            ~breaker.held_back(breaker.halted_countries(connection, run_id), now),
        )
        moments: list[tuple[datetime, int]] = [
            (row.at, row.step_no)
            for row in connection.execute(
                select(messages.c.step_no, func.min(messages.c.due_at).label("at"))
                .where(queued)
                .group_by(messages.c.step_no)
            )
        ]
        for row in connection.execute(
            select(batches.c.step_no, func.min(batches.c.lease_machine - machine_now()).label("left"))
            .where(open_batches)
            .group_by(batches.c.step_no)
        ):
            wait = min(max(0.0, row.left), LOOK_AGAIN) * store.clock.factor
            moments.append((now + timedelta(seconds=wait), row.step_no))
        look = unsettled.next_moment(unsettled.read(connection, run_id), now)
    if look is not None:
        moments.append((look, 0))
    if not moments:
        return None
    at = max(min(moment for moment, _ in moments), now)
    return Due(at=at, steps=tuple(sorted({step_no for moment, step_no in moments if moment <= at and step_no})))


def postpone(store: Store, run_id: RunId, step_no: int, *, shard: Shard, until: datetime) -> int:
    """Make what is due of a step due later, because its provider cannot be reached; return how many.

    Short transactions of its own, each over a range of recipients.
    """
    return reschedule(store, run_id, step_no, messages.c.due_at < until, shard.where(), to=until)


def reschedule(
    store: Store,
    run_id: RunId,
    step_no: int,
    *which: ColumnElement[bool],
    to: datetime,
    parameters: Mapping[str, object] | None = None,
) -> int:
    """Make those queued messages of a step for which all of `which` holds due at another time; return how many.

    `parameters` are those of `which`. Short transactions of its own, each over a range of recipients.
    """
    moved = 0
    for first, last in ranges(store, run_id):
        with store.write() as connection:
            moved += connection.execute(
                update(messages)
                .where(
                    messages.c.run_id == run_id,
                    messages.c.step_no == step_no,
                    messages.c.seq.between(first, last),
                    messages.c.state == MessageState.QUEUED,
                    *which,
                )
                .values(due_at=to),
                dict(parameters or {}),
            ).rowcount
    return moved


def due_count(store: Store, *, run_id: RunId, step_no: int, now: datetime) -> int:
    """Return how many messages of a step may be claimed at `now`."""
    with store.read() as connection:
        return int(
            connection.execute(
                select(func.count()).where(
                    messages.c.run_id == run_id,
                    messages.c.step_no == step_no,
                    messages.c.state == MessageState.QUEUED,
                    messages.c.due_at <= now,
                    ~breaker.held_back(breaker.halted_countries(connection, run_id), now),
                )
            ).scalar_one()
        )
