"""Taking messages to send: claim a batch under a lease, then the last look right before the wire.

Never opens a connection to anyone; between these two short transactions and `close` no transaction is open.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, and_, insert, select, true, update

from commplan import consent
from commplan.ids import AddressKey, AttemptId, BatchId, MessageRef, RunId
from commplan.ledger import evidence
from commplan.ledger.readdress import follow_addresses
from commplan.ledger.run import plan_of
from commplan.ledger.schedule import zones_of
from commplan.plan import Plan
from commplan.store import Store
from commplan.store.tables import attempts, batches, messages, recipients, runs, skeletons
from commplan.store.types import machine_now
from commplan.terms import AttemptOutcome, Channel, MessageState, Reason, RunState
from commplan.window import next_open


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A finished text with placeholders, as it was frozen."""

    subject: str = field(repr=False)
    text: str = field(repr=False)
    html: str = field(repr=False)
    placeholders: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Messages that this worker may send until its lease is over; all share one text.

    `batch_id` is the fencing token: every later change of these rows names it.
    """

    batch_id: BatchId
    run_id: RunId
    step_no: int
    channel: Channel
    seqs: tuple[int, ...]
    text: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """One message that passed the last look; its attempt is committed."""

    ref: MessageRef
    attempt_id: AttemptId
    address: str = field(repr=False)
    values: tuple[str, ...] = field(repr=False)
    not_after: datetime
    closes_at: datetime | None


@dataclass(frozen=True, slots=True)
class Shard:
    """A share of a step's messages: those whose position leaves `index` when divided by `count`."""

    index: int = 0
    count: int = 1

    def __contains__(self, seq: int) -> bool:
        return seq % self.count == self.index

    def where(self) -> ColumnElement[bool]:
        """Return the share as SQL."""
        return true() if self.count == 1 else messages.c.seq % self.count == self.index


#: All of a step.
WHOLE = Shard()


def claim(
    store: Store,
    *,
    run_id: RunId,
    step_no: int,
    worker: str,
    limit: int,
    lease: float,
    shard: Shard = WHOLE,
) -> Batch | None:
    """Take up to `limit` due messages of a step that share a text; None when nothing is due or the run is stopped.

    The lease is `lease` machine seconds on the database's clock. Own transaction. Two workers never get the same
    message: on SQLite writers queue up, on PostgreSQL rows locked by another are skipped.
    """
    now = store.clock.now()
    with store.write() as connection:
        state = connection.execute(select(runs.c.state).where(runs.c.run_id == run_id)).scalar_one()
        if state != RunState.EXECUTING:
            return None
        due = and_(
            messages.c.run_id == run_id,
            messages.c.step_no == step_no,
            messages.c.state == MessageState.QUEUED,
            messages.c.due_at <= now,
            shard.where(),
        )
        first = connection.execute(
            select(messages.c.skeleton_no, messages.c.channel).where(due).order_by(messages.c.due_at).limit(1)
        ).one_or_none()
        if first is None:
            return None
        seqs = (
            connection.execute(
                select(messages.c.seq)
                .where(due, messages.c.skeleton_no == first.skeleton_no)
                .order_by(messages.c.due_at, messages.c.seq)
                .limit(limit)
                .with_for_update(skip_locked=True)
            )
            .scalars()
            .all()
        )
        if not seqs:
            return None
        batch_id = connection.execute(
            insert(batches)
            .values(
                run_id=run_id,
                step_no=step_no,
                worker=worker,
                claimed=len(seqs),
                lease_machine=machine_now() + lease,
            )
            .returning(batches.c.batch_id)
        ).scalar_one()
        connection.execute(
            update(messages)
            .where(
                messages.c.run_id == run_id,
                messages.c.step_no == step_no,
                messages.c.seq.in_(seqs),
                messages.c.state == MessageState.QUEUED,
            )
            .values(state=MessageState.CLAIMED, batch_id=batch_id)
        )
        text = connection.execute(
            select(skeletons).where(skeletons.c.run_id == run_id, skeletons.c.skeleton_no == first.skeleton_no)
        ).one()
    return Batch(
        batch_id=BatchId(batch_id),
        run_id=run_id,
        step_no=step_no,
        channel=Channel(first.channel),
        seqs=tuple(seqs),
        text=Text(
            subject=text.subject, text=text.text, html=text.html, placeholders=tuple(json.loads(text.placeholders))
        ),
    )


def look(
    store: Store,
    batch: Batch,
    *,
    seqs: Sequence[int],
    attempt_ids: Sequence[AttemptId],
    lease: float,
    allowed: Collection[AddressKey] | None = None,
) -> list[Outgoing]:
    """Take the last look at some messages of a batch and put those that pass on the wire's side of the ledger.

    One attempt id: all of them share one request; as many ids as `seqs`: a request each. `allowed`: the only
    addresses that may be written to, None: every one. What does not pass gets its state and reason. Returns nothing
    when the lease was lost or the run was stopped. Own transaction; when it returns, attempts are committed, so the
    request may be written.
    """
    with store.write() as connection:
        if not _renew(connection, batch, lease):
            return []
        now = store.clock.now()
        mine = and_(
            messages.c.run_id == batch.run_id,
            messages.c.step_no == batch.step_no,
            messages.c.seq.in_(seqs),
            messages.c.batch_id == batch.batch_id,
            messages.c.state == MessageState.CLAIMED,
        )
        state = connection.execute(select(runs.c.state).where(runs.c.run_id == batch.run_id)).scalar_one()
        if state != RunState.EXECUTING:
            to = MessageState.CANCELLED if state == RunState.CANCELLED else MessageState.QUEUED
            reason = Reason.RUN_CANCELLED if state == RunState.CANCELLED else None
            connection.execute(update(messages).where(mine).values(state=to, reason=reason, batch_id=None))
            return []
        plan = plan_of(connection, batch.run_id)
        follow_addresses(connection, batch.run_id, which=mine)
        _refuse(connection, plan, batch, mine=mine, now=now, allowed=allowed)
        passed = _open_hours(connection, plan, batch, mine=mine, now=now)
        return _put_on_wire(connection, batch, passed=passed, attempt_ids=attempt_ids, seqs=seqs, now=now)


def _renew(connection: Connection, batch: Batch, lease: float) -> bool:
    return bool(
        connection.execute(
            update(batches)
            .where(
                batches.c.batch_id == batch.batch_id,
                batches.c.closed_machine.is_(None),
                batches.c.lease_machine > machine_now(),
            )
            .values(lease_machine=machine_now() + lease)
        ).rowcount
    )


def _refuse(
    connection: Connection,
    plan: Plan,
    batch: Batch,
    *,
    mine: ColumnElement[bool],
    now: datetime,
    allowed: Collection[AddressKey] | None,
) -> None:
    step = plan.sequence[batch.step_no - 1]
    suppressed = consent.suppressed(messages, plan.purpose, plan.topic)
    who = recipients.c
    if batch.channel is Channel.EMAIL:
        key, why_none, permission = who.email_key, who.email_reason, who.email_consent
    else:
        key, why_none, permission = who.phone_key, who.phone_reason, who.sms_consent
    of_person = and_(who.run_id == messages.c.run_id, who.seq == messages.c.seq)

    def holds_for_person(condition: ColumnElement[bool]) -> ColumnElement[bool]:
        return select(who.seq).where(of_person, condition).correlate(messages).exists()

    refused = consent.refused(batch.channel, permission, purpose=plan.purpose, basis=plan.basis)
    rules: list[tuple[ColumnElement[bool], dict[str, object]]] = [
        (messages.c.not_after < now, {"state": MessageState.EXPIRED, "reason": Reason.TOO_LATE}),
        (
            holds_for_person(who.left_at.is_not(None)),
            {"state": MessageState.CANCELLED, "reason": Reason.LEFT_AUDIENCE},
        ),
        (
            holds_for_person(key.is_(None)),
            {
                "state": MessageState.CANCELLED,
                "reason": select(why_none).where(of_person).correlate(messages).scalar_subquery(),
            },
        ),
        (
            suppressed.exists(),
            {"state": MessageState.SUPPRESSED, "reason": suppressed.limit(1).scalar_subquery()},
        ),
        (holds_for_person(refused), {"state": MessageState.SUPPRESSED, "reason": Reason.NO_CONSENT}),
    ]
    if allowed is not None:
        outside = messages.c.address_key.not_in(allowed)
        rules.append((outside, {"state": MessageState.CANCELLED, "reason": Reason.NOT_ON_ALLOW_LIST}))
    if step.condition is not None:
        holds = evidence.holds(step.condition, plan, messages)
        rules += [
            (holds.is_(None), {"state": MessageState.NOT_NEEDED, "reason": Reason.CONDITION_UNKNOWN}),
            (~holds, {"state": MessageState.NOT_NEEDED, "reason": Reason.CONDITION_FALSE}),
        ]
    for applies, change in rules:
        connection.execute(update(messages).where(mine, applies).values(**change, batch_id=None))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Passed:
    seq: int
    address: str = field(repr=False)
    values: str = field(repr=False)
    not_after: datetime
    closes_at: datetime | None


def _open_hours(
    connection: Connection, plan: Plan, batch: Batch, *, mine: ColumnElement[bool], now: datetime
) -> dict[int, _Passed]:
    address = recipients.c.email if batch.channel is Channel.EMAIL else recipients.c.phone
    rows = connection.execute(
        select(
            messages.c.seq,
            messages.c.slot_values,
            messages.c.not_after,
            address.label("address"),
            recipients.c.segment,
            recipients.c.zone,
            recipients.c.country,
        )
        .join(recipients, and_(recipients.c.run_id == messages.c.run_id, recipients.c.seq == messages.c.seq))
        .where(mine)
        # From here on nobody can cancel them: what is read now is what goes out.
        .with_for_update(of=messages)
    ).all()
    passed: dict[int, _Passed] = {}
    closed: dict[datetime, list[int]] = {}
    for row in rows:
        touch = plan.touch(batch.step_no, row.segment)
        opens, closes = next_open(touch.window, now, zones_of(row.zone, row.country, plan.zone))
        if opens > now:
            closed.setdefault(opens, []).append(row.seq)
        else:
            passed[row.seq] = _Passed(
                seq=row.seq, address=row.address, values=row.slot_values, not_after=row.not_after, closes_at=closes
            )
    for opens, seqs in closed.items():
        connection.execute(
            update(messages)
            .where(mine, messages.c.seq.in_(seqs))
            .values(state=MessageState.QUEUED, due_at=opens, batch_id=None)
        )
    return passed


def _put_on_wire(
    connection: Connection,
    batch: Batch,
    *,
    passed: dict[int, _Passed],
    attempt_ids: Sequence[AttemptId],
    seqs: Sequence[int],
    now: datetime,
) -> list[Outgoing]:
    if not passed:
        return []
    ids = list(attempt_ids) * len(seqs) if len(attempt_ids) == 1 else list(attempt_ids)
    attempt_of = {seq: attempt_id for seq, attempt_id in zip(seqs, ids, strict=True) if seq in passed}
    carried: dict[AttemptId, list[int]] = {}
    for seq, attempt_id in attempt_of.items():
        carried.setdefault(attempt_id, []).append(seq)
    connection.execute(
        insert(attempts).values(wire_machine=machine_now()),
        [
            {
                "attempt_id": attempt_id,
                "batch_id": batch.batch_id,
                "run_id": batch.run_id,
                "step_no": batch.step_no,
                "channel": batch.channel,
                "messages": len(found),
                "wire_at": now,
                "outcome": AttemptOutcome.OPEN,
            }
            for attempt_id, found in carried.items()
        ],
    )
    for attempt_id, found in carried.items():
        connection.execute(
            update(messages)
            .where(
                messages.c.run_id == batch.run_id,
                messages.c.step_no == batch.step_no,
                messages.c.seq.in_(found),
                messages.c.batch_id == batch.batch_id,
                messages.c.state == MessageState.CLAIMED,
            )
            .values(state=MessageState.SENDING, attempt_id=attempt_id)
        )
    return [
        Outgoing(
            ref=MessageRef(batch.run_id, batch.step_no, seq),
            attempt_id=attempt_id,
            address=passed[seq].address,
            values=tuple(json.loads(passed[seq].values)),
            not_after=passed[seq].not_after,
            closes_at=passed[seq].closes_at,
        )
        for seq, attempt_id in attempt_of.items()
    ]
