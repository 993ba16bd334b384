"""The last look: one transaction right before the wire that finds out whether each message may still go out.

Never opens a connection to anyone. What passes has its attempt committed; what does not has its state and its reason.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, and_, insert, select, update

from commplan import condition as conditions
from commplan import consent
from commplan.ids import AddressKey, AttemptId, MessageRef
from commplan.ledger import breaker, evidence
from commplan.ledger.claim import Batch
from commplan.ledger.readdress import follow_addresses
from commplan.ledger.run import plan_of
from commplan.ledger.schedule import LOOK_LATER, zones_of
from commplan.ledger.standstill import sending_state
from commplan.plan import Plan
from commplan.store import Store
from commplan.store.tables import attempts, batches, messages, recipients
from commplan.store.types import machine_now
from commplan.terms import AttemptOutcome, Channel, MessageState, Reason, RunState
from commplan.window import next_open

#: An earlier message in one of these may still be delivered, or not: what is claimed about it is not known yet.
_PENDING = (
    MessageState.QUEUED,
    MessageState.CLAIMED,
    MessageState.SENDING,
    MessageState.UNKNOWN,
    MessageState.ACCEPTED,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """One message that passed the last look; its attempt is committed."""

    ref: MessageRef
    attempt_id: AttemptId
    address: str = field(repr=False)
    values: tuple[str, ...] = field(repr=False)
    not_after: datetime
    closes_at: datetime | None


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
        state = sending_state(connection, batch.run_id)
        if state is not RunState.EXECUTING:
            to = MessageState.CANCELLED if state is RunState.CANCELLED else MessageState.QUEUED
            reason = Reason.RUN_CANCELLED if state is RunState.CANCELLED else None
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
        unsettled = and_(holds.is_(None), _awaits_receipt(step.condition, plan), messages.c.not_after >= now)
        rules += [
            (unsettled, {"state": MessageState.QUEUED, "due_at": now + LOOK_LATER}),
            (holds.is_(None), {"state": MessageState.NOT_NEEDED, "reason": Reason.CONDITION_UNKNOWN}),
            (~holds, {"state": MessageState.NOT_NEEDED, "reason": Reason.CONDITION_FALSE}),
        ]
    rules.append((breaker.held_back(connection, batch.run_id, now), {"state": MessageState.QUEUED}))
    rules.append((messages.c.not_after < now, {"state": MessageState.EXPIRED, "reason": Reason.TOO_LATE}))
    for applies, change in rules:
        connection.execute(update(messages).where(mine, applies).values(**change, batch_id=None))


def _awaits_receipt(condition: conditions.Condition, plan: Plan) -> ColumnElement[bool]:
    """Return whether a message that `condition` speaks of may still be delivered."""
    earlier = messages.alias("awaited")
    steps = {
        plan.step_number(claim.subject)
        for claim in conditions.claims(condition)
        if claim.verb not in conditions.CONVERSION_CLAIMS
    }
    return (
        select(earlier.c.seq)
        .where(
            earlier.c.run_id == messages.c.run_id,
            earlier.c.seq == messages.c.seq,
            earlier.c.step_no.in_(steps),
            earlier.c.state.in_(_PENDING),
        )
        .correlate(messages)
        .exists()
    )


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
    who = recipients.c
    address, key = (who.email, who.email_key) if batch.channel is Channel.EMAIL else (who.phone, who.phone_key)
    rows = connection.execute(
        select(
            messages.c.seq,
            messages.c.slot_values,
            messages.c.not_after,
            address.label("address"),
            (key == messages.c.address_key).label("is_looked_up"),
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
        if not row.is_looked_up:
            # The address changed under the look: another look, at the new one.
            closed.setdefault(now + timedelta(minutes=1), []).append(row.seq)
        elif opens > now:
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
