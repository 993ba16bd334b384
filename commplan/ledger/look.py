"""The last look: one transaction right before the wire that finds out whether each message may still go out.

Never opens a connection to anyone. What passes has its attempt committed; what does not has its state and its reason.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Connection, Row, and_, bindparam, case, insert, select, update

from commplan import condition as conditions
from commplan import consent
from commplan.clock import boottime
from commplan.ids import AddressKey, AttemptId, MessageRef, RunId
from commplan.ledger import breaker, evidence
from commplan.ledger.claim import WHOLE, Batch, Shard, pick, take_up
from commplan.ledger.rate import Limit, Wait
from commplan.ledger.readdress import follow_addresses
from commplan.ledger.run import plan_of
from commplan.ledger.schedule import LOOK_LATER, zones_of
from commplan.ledger.standstill import sending_state
from commplan.ledger.unsettled import number_in_doubt
from commplan.plan import Plan
from commplan.store import Store
from commplan.store.tables import attempts, batches, message_values, messages, recipients, values_of
from commplan.store.types import among, machine_now
from commplan.terms import AttemptOutcome, Channel, MessageState, Reason, RunState
from commplan.window import next_open

#: Plan time until a number is looked at again of which it is not known whether it has just been written to.
SETTLE_LATER = timedelta(minutes=5)
_LOG = logging.getLogger("commplan.ledger")

#: An earlier message in one of these may still be delivered, or not: what is claimed about it is not known yet.
_PENDING = (
    MessageState.QUEUED,
    MessageState.CLAIMED,
    MessageState.SENDING,
    MessageState.UNKNOWN,
    MessageState.ACCEPTED,
)

#: Machine seconds after which what the last look saw is too old to be written on.
OLDEST_LOOK = 5.0
#: Machine seconds that may pass from its commit to the request; a process that was stopped in between finds out.
LONGEST_PAUSE = 1.0


def write_by(looked_at: float) -> float:
    """Return until when a request may be written, by `clock.boottime`; to be asked once the look is committed."""
    return min(looked_at + OLDEST_LOOK, boottime() + LONGEST_PAUSE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """One message that passed the last look; its attempt is committed."""

    ref: MessageRef
    attempt_id: AttemptId
    address: str = field(repr=False)
    values: tuple[str, ...] = field(repr=False)
    not_after: datetime
    closes_at: datetime | None
    #: `clock.boottime` of the look.
    looked_at: float


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
        return look_in(connection, store, batch, seqs=seqs, attempt_ids=attempt_ids, lease=lease, allowed=allowed)


def look_in(
    connection: Connection,
    store: Store,
    batch: Batch,
    *,
    seqs: Sequence[int],
    attempt_ids: Sequence[AttemptId],
    lease: float,
    allowed: Collection[AddressKey] | None,
) -> list[Outgoing]:
    """Do what `look` does, in the caller's transaction: nothing may be written before that is committed."""
    if not _renew(connection, batch, lease):
        return []
    mine = and_(
        messages.c.run_id == batch.run_id,
        messages.c.step_no == batch.step_no,
        among(messages.c.seq, seqs),
        messages.c.batch_id == batch.batch_id,
        messages.c.state == MessageState.CLAIMED,
    )
    state = sending_state(connection, batch.run_id)
    if state is not RunState.EXECUTING:
        to = MessageState.CANCELLED if state is RunState.CANCELLED else MessageState.QUEUED
        reason = Reason.RUN_CANCELLED if state is RunState.CANCELLED else None
        connection.execute(update(messages).where(mine).values(state=to, reason=reason, batch_id=None))
        return []
    attempt_of = (
        dict(zip(seqs, attempt_ids, strict=True)) if len(attempt_ids) > 1 else dict.fromkeys(seqs, *attempt_ids)
    )
    return _pass(connection, store, batch, mine=mine, attempt_of=attempt_of, allowed=allowed)


def take(
    store: Store,
    *,
    run_id: RunId,
    step_no: int,
    worker: str,
    limit: int,
    lease: float,
    attempt_id: AttemptId,
    allowed: Collection[AddressKey] | None = None,
    shard: Shard = WHOLE,
    rates: Mapping[Channel, Limit] | None = None,
) -> tuple[Batch, list[Outgoing] | None] | Wait | None:
    """Claim due messages that share a text; emails get the last look in the same transaction, as one request.

    None when nothing is due or the run is stopped, a wait when the sender's rate leaves nothing now. As with `look`,
    what is returned as outgoing may be written at once; texts, which need a request each, are only claimed and come
    back as None.
    """
    with store.write() as connection:
        batch = pick(
            connection,
            store,
            run_id=run_id,
            step_no=step_no,
            worker=worker,
            limit=limit,
            lease=lease,
            shard=shard,
            rates=rates,
        )
        if not isinstance(batch, Batch):
            return batch
        queued = and_(
            messages.c.run_id == run_id,
            messages.c.step_no == step_no,
            among(messages.c.seq, batch.seqs),
            messages.c.state == MessageState.QUEUED,
        )
        if batch.channel is Channel.SMS:
            take_up(connection, batch, queued)
            return batch, None
        attempt_of = dict.fromkeys(batch.seqs, attempt_id)
        return batch, _pass(connection, store, batch, mine=queued, attempt_of=attempt_of, allowed=allowed)


def _pass(
    connection: Connection,
    store: Store,
    batch: Batch,
    *,
    mine: ColumnElement[bool],
    attempt_of: Mapping[int, AttemptId],
    allowed: Collection[AddressKey] | None,
) -> list[Outgoing]:
    """Give each of `mine` its state: on the wire, or why not."""
    now = store.clock.now()
    if not store.is_sqlite:
        # From here on nobody can change them; what the rules read is read by later statements, so it is newer.
        connection.execute(select(messages.c.seq).where(mine).order_by(messages.c.seq).with_for_update()).all()
    looked_at = boottime()
    plan = plan_of(connection, batch.run_id)
    rules = _rules(connection, plan, batch, now=now, allowed=allowed)
    rows = _examine(connection, batch, rules, mine=mine)
    if any(row.moved for row in rows):
        follow_addresses(connection, batch.run_id, which=mine)
        rows = _examine(connection, batch, rules, mine=mine)
    _refuse(connection, rules, rows, mine=mine)
    passed = [row for row in rows if row.rule is None]
    values = _read_values(connection, batch, passed, mine=mine)
    passed = [row for row in passed if row.seq in values]
    closes_at = _open_hours(connection, plan, batch, passed, mine=mine, now=now)
    going = [row for row in passed if row.seq in closes_at]
    _put_on_wire(connection, batch, [row.seq for row in going], attempt_of=attempt_of, mine=mine, now=now)
    return [
        Outgoing(
            ref=MessageRef(batch.run_id, batch.step_no, row.seq),
            attempt_id=attempt_of[row.seq],
            address=row.address,
            values=values[row.seq],
            not_after=row.not_after,
            closes_at=closes_at[row.seq],
            looked_at=looked_at,
        )
        for row in going
    ]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    """A reason not to send now: when it applies, to a row of messages joined with its recipient, and what follows."""

    applies: ColumnElement[bool]
    change: Mapping[str, object]


def _rules(
    connection: Connection, plan: Plan, batch: Batch, *, now: datetime, allowed: Collection[AddressKey] | None
) -> list[_Rule]:
    """Return the rules in order of precedence: the first that applies is the one that is reported."""
    step = plan.sequence[batch.step_no - 1]
    who = recipients.c
    email = batch.channel is Channel.EMAIL
    key, why_none = (who.email_key, who.email_reason) if email else (who.phone_key, who.phone_reason)
    permission = who.email_consent if email else who.sms_consent
    suppressed = consent.suppressed(messages, plan.purpose, plan.topic)
    of_person = and_(who.run_id == messages.c.run_id, who.seq == messages.c.seq)
    rules = [
        _Rule(
            applies=who.left_at.is_not(None),
            change={"state": MessageState.CANCELLED, "reason": Reason.LEFT_AUDIENCE},
        ),
        _Rule(
            applies=key.is_(None),
            change={
                "state": MessageState.CANCELLED,
                "reason": select(why_none).where(of_person).correlate(messages).scalar_subquery(),
            },
        ),
        _Rule(
            applies=suppressed.exists(),
            change={"state": MessageState.SUPPRESSED, "reason": suppressed.limit(1).scalar_subquery()},
        ),
        _Rule(
            applies=consent.refused(batch.channel, permission, purpose=plan.purpose, basis=plan.basis),
            change={"state": MessageState.SUPPRESSED, "reason": Reason.NO_CONSENT},
        ),
    ]
    if allowed is not None:
        outside = messages.c.address_key.not_in(allowed)
        rules.append(
            _Rule(applies=outside, change={"state": MessageState.CANCELLED, "reason": Reason.NOT_ON_ALLOW_LIST})
        )
    if step.condition is not None:
        holds = evidence.holds(step.condition, plan, messages)
        unsettled = and_(holds.is_(None), _awaits_receipt(step.condition, plan), messages.c.not_after >= now)
        rules += [
            _Rule(applies=unsettled, change={"state": MessageState.QUEUED, "due_at": now + LOOK_LATER}),
            _Rule(
                applies=holds.is_(None),
                change={"state": MessageState.NOT_NEEDED, "reason": Reason.CONDITION_UNKNOWN},
            ),
            _Rule(applies=~holds, change={"state": MessageState.NOT_NEEDED, "reason": Reason.CONDITION_FALSE}),
        ]
    if batch.channel is Channel.SMS:
        in_doubt = and_(number_in_doubt(messages, now), messages.c.not_after >= now)
        rules.append(_Rule(applies=in_doubt, change={"state": MessageState.QUEUED, "due_at": now + SETTLE_LATER}))
    rules.append(_Rule(applies=breaker.held_back(connection, batch.run_id, now), change={"state": MessageState.QUEUED}))
    late = messages.c.not_after < now
    rules.append(_Rule(applies=late, change={"state": MessageState.EXPIRED, "reason": Reason.TOO_LATE}))
    return rules


def _examine(
    connection: Connection, batch: Batch, rules: Sequence[_Rule], *, mine: ColumnElement[bool]
) -> Sequence[Row[Any]]:
    """Return what is to be known of each message, with the number of the first rule against it, in one query."""
    who = recipients.c
    address, key = (who.email, who.email_key) if batch.channel is Channel.EMAIL else (who.phone, who.phone_key)
    return connection.execute(
        select(
            messages.c.seq,
            message_values.c.slot_values,
            messages.c.not_after,
            address.label("address"),
            (key != messages.c.address_key).label("moved"),
            who.segment,
            who.zone,
            who.country,
            case(*((rule.applies, number) for number, rule in enumerate(rules))).label("rule"),
        )
        .join(recipients, and_(who.run_id == messages.c.run_id, who.seq == messages.c.seq))
        .outerjoin(message_values, values_of(messages))
        .where(mine)
        .order_by(messages.c.seq)
    ).all()


def _refuse(
    connection: Connection, rules: Sequence[_Rule], rows: Sequence[Row[Any]], *, mine: ColumnElement[bool]
) -> None:
    for number, rule in enumerate(rules):
        against = [row.seq for row in rows if row.rule == number]
        if against:
            connection.execute(
                update(messages).where(mine, among(messages.c.seq, against)).values(**rule.change, batch_id=None)
            )


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


def _read_values(
    connection: Connection, batch: Batch, rows: Sequence[Row[Any]], *, mine: ColumnElement[bool]
) -> dict[int, tuple[str, ...]]:
    """Return each message's frozen values; one whose values are damaged is cancelled rather than sent with a guess."""
    values: dict[int, tuple[str, ...]] = {}
    for row in rows:
        with contextlib.suppress(ValueError, TypeError):
            found = tuple(orjson.loads(row.slot_values))
            if len(found) == len(batch.text.placeholders) and all(isinstance(value, str) for value in found):
                values[row.seq] = found
    if damaged := [row.seq for row in rows if row.seq not in values]:
        _LOG.error("frozen content is damaged", extra={"run": batch.run_id, "step": batch.step_no, "people": damaged})
        connection.execute(
            update(messages)
            .where(mine, among(messages.c.seq, damaged))
            .values(state=MessageState.CANCELLED, reason=Reason.CONTENT_DAMAGED, batch_id=None)
        )
    return values


def _open_hours(
    connection: Connection,
    plan: Plan,
    batch: Batch,
    rows: Sequence[Row[Any]],
    *,
    mine: ColumnElement[bool],
    now: datetime,
) -> dict[int, datetime | None]:
    """Return, for those in whose hours it is now, when these end; put the others back until theirs begin."""
    hours: dict[tuple[str | None, str | None, str | None], tuple[datetime, datetime | None]] = {}
    closes_at: dict[int, datetime | None] = {}
    closed: dict[datetime, list[int]] = {}
    for row in rows:
        where = (row.segment, row.zone, row.country)
        if where not in hours:
            touch = plan.touch(batch.step_no, row.segment)
            hours[where] = next_open(touch.window, now, zones_of(row.zone, row.country, plan.zone))
        opens, closes = hours[where]
        if row.moved:
            # The address changed under the look: another look, at the new one.
            closed.setdefault(now + timedelta(minutes=1), []).append(row.seq)
        elif opens > now:
            closed.setdefault(opens, []).append(row.seq)
        else:
            closes_at[row.seq] = closes
    for opens, seqs in closed.items():
        connection.execute(
            update(messages)
            .where(mine, among(messages.c.seq, seqs))
            .values(state=MessageState.QUEUED, due_at=opens, batch_id=None)
        )
    return closes_at


def _put_on_wire(
    connection: Connection,
    batch: Batch,
    seqs: Sequence[int],
    *,
    attempt_of: Mapping[int, AttemptId],
    mine: ColumnElement[bool],
    now: datetime,
) -> None:
    if not seqs:
        return
    carried = Counter(attempt_of[seq] for seq in seqs)
    connection.execute(
        insert(attempts).values(wire_machine=machine_now()),
        [
            {
                "attempt_id": attempt_id,
                "batch_id": batch.batch_id,
                "run_id": batch.run_id,
                "step_no": batch.step_no,
                "channel": batch.channel,
                "messages": count,
                "wire_at": now,
                "outcome": AttemptOutcome.OPEN,
            }
            for attempt_id, count in carried.items()
        ],
    )
    sending = update(messages).where(mine).values(state=MessageState.SENDING, batch_id=batch.batch_id)
    if len(carried) == 1:
        connection.execute(sending.where(among(messages.c.seq, seqs)).values(attempt_id=attempt_of[seqs[0]]))
    else:
        connection.execute(
            sending.where(messages.c.seq == bindparam("of")).values(attempt_id=bindparam("attempt")),
            [{"of": seq, "attempt": attempt_of[seq]} for seq in seqs],
        )
