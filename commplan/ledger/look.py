"""The last look: one transaction right before the wire that finds out whether each message may still go out.

Never opens a connection to anyone. What passes has its attempt committed; what does not has its state and its reason.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import orjson
from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Text,
    bindparam,
    insert,
    literal,
    select,
    update,
)

from commplan.clock import boottime
from commplan.ids import AddressKey, AttemptId, MessageRef, RunId
from commplan.ledger import breaker
from commplan.ledger.claim import WHOLE, Batch, Shard, pick, take_up
from commplan.ledger.rate import Limit, Wait
from commplan.ledger.readdress import follow_addresses
from commplan.ledger.rules import CLAIMED, PICKED, Rules, rows_of, rules_of, times_of
from commplan.ledger.run import plan_of
from commplan.ledger.schedule import zones_of
from commplan.ledger.standstill import sending_state
from commplan.plan import Plan
from commplan.store import Store
from commplan.store.tables import attempts, batches, messages
from commplan.store.types import UtcDateTime, entry, machine_now
from commplan.terms import AttemptOutcome, Channel, MessageState, Reason, RunState
from commplan.window import next_open

_TEXTS = {str}
_LOG = logging.getLogger("commplan.ledger")

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
    state = sending_state(connection, batch.run_id)
    if state is not RunState.EXECUTING:
        to = MessageState.CANCELLED if state is RunState.CANCELLED else MessageState.QUEUED
        reason = Reason.RUN_CANCELLED if state is RunState.CANCELLED else None
        back = update(messages).where(CLAIMED).values(state=to, reason=reason, batch_id=None)
        connection.execute(back, rows_of(batch, seqs))
        return []
    attempt_of = (
        dict(zip(seqs, attempt_ids, strict=True)) if len(attempt_ids) > 1 else dict.fromkeys(seqs, *attempt_ids)
    )
    return _pass(connection, store, batch, mine=CLAIMED, attempt_of=attempt_of, allowed=allowed)


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
    together: bool = True,
) -> tuple[Batch, list[Outgoing] | None] | Wait | None:
    """Claim due messages that share a text; emails get the last look in the same transaction, as one request.

    None when nothing is due or the run is stopped, a wait when the sender's rate leaves nothing now. As with `look`,
    what is returned as outgoing may be written at once. Texts, and emails that do not go `together`, need a request
    each: they are only claimed, and come back as None.
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
        if batch.channel is Channel.SMS or not together:
            take_up(connection, batch)
            return batch, None
        attempt_of = dict.fromkeys(batch.seqs, attempt_id)
        return batch, _pass(connection, store, batch, mine=PICKED, attempt_of=attempt_of, allowed=allowed)


def _pass(
    connection: Connection,
    store: Store,
    batch: Batch,
    *,
    mine: ColumnElement[bool],
    attempt_of: Mapping[int, AttemptId],
    allowed: Collection[AddressKey] | None,
) -> list[Outgoing]:
    """Give each message that has an attempt to come its state: on the wire, or why not."""
    now = store.clock.now()
    these = rows_of(batch, attempt_of)
    if not store.is_sqlite:
        # From here on nobody can change them; what the rules read is read by later statements, so it is newer.
        locked = select(messages.c.seq).where(mine).order_by(messages.c.seq).with_for_update()
        connection.execute(locked, these).all()
    looked_at = boottime()
    plan = plan_of(connection, batch.run_id)
    countries = breaker.halted_countries(connection, batch.run_id)
    rules = rules_of(plan, batch, mine=mine, allowed=allowed, countries=countries)
    examined = these | times_of(now)
    rows = connection.execute(rules.examine, examined).all()
    if any(row.moved for row in rows):
        follow_addresses(connection, batch.run_id, which=mine.params(these))
        rows = connection.execute(rules.examine, examined).all()
    _refuse(connection, batch, rules, rows, now=now)
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


#: The attempt of a message, where each has one of its own.
_NAMED = entry(bindparam("named", type_=Text()), messages.c.seq)


_ATTEMPTS = insert(attempts).from_select(
    ["attempt_id", "batch_id", "run_id", "step_no", "channel", "messages", "wire_at", "outcome", "wire_machine"],
    select(
        _NAMED,
        messages.c.batch_id,
        messages.c.run_id,
        messages.c.step_no,
        messages.c.channel,
        literal(1),
        bindparam("now", type_=UtcDateTime()),
        literal(AttemptOutcome.OPEN.value),
        machine_now(),
    ).where(CLAIMED),
)
_RENEWED = (
    update(batches)
    .where(
        batches.c.batch_id == bindparam("of_batch"),
        batches.c.closed_machine.is_(None),
        batches.c.lease_machine > machine_now(),
    )
    .values(lease_machine=machine_now() + bindparam("seconds"))
)


def _renew(connection: Connection, batch: Batch, lease: float) -> bool:
    return bool(connection.execute(_RENEWED, {"of_batch": batch.batch_id, "seconds": lease}).rowcount)


def _refuse(connection: Connection, batch: Batch, rules: Rules, rows: Sequence[Row[Any]], *, now: datetime) -> None:
    against: dict[int, list[int]] = {}
    for row in rows:
        if row.rule is not None:
            against.setdefault(row.rule, []).append(row.seq)
    for number, seqs in sorted(against.items()):
        connection.execute(rules.refusals[number], rows_of(batch, seqs) | times_of(now))


def _read_values(
    connection: Connection, batch: Batch, rows: Sequence[Row[Any]], *, mine: ColumnElement[bool]
) -> dict[int, tuple[str, ...]]:
    """Return each message's frozen values; one whose values are damaged is cancelled rather than sent with a guess."""
    values: dict[int, tuple[str, ...]] = {}
    wanted = len(batch.text.placeholders)
    for row in rows:
        with contextlib.suppress(ValueError, TypeError):
            found = tuple(orjson.loads(row.slot_values))
            if len(found) == wanted and set(map(type, found)) <= _TEXTS:
                values[row.seq] = found
    if damaged := [row.seq for row in rows if row.seq not in values]:
        _LOG.error("frozen content is damaged", extra={"run": batch.run_id, "step": batch.step_no, "people": damaged})
        change = {"state": MessageState.CANCELLED, "reason": Reason.CONTENT_DAMAGED, "batch_id": None}
        connection.execute(update(messages).where(mine).values(**change), rows_of(batch, damaged))
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
        back = update(messages).where(mine).values(state=MessageState.QUEUED, due_at=opens, batch_id=None)
        connection.execute(back, rows_of(batch, seqs))
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
    these = rows_of(batch, seqs) | {"now": now}
    sending = update(messages).where(mine).values(state=MessageState.SENDING, batch_id=bindparam("of_batch"))
    if len(set(attempt_of.values())) == 1:
        attempt = {
            "batch_id": batch.batch_id,
            "run_id": batch.run_id,
            "step_no": batch.step_no,
            "channel": batch.channel,
        }
        one = attempt_of[seqs[0]]
        connection.execute(
            insert(attempts).values(wire_machine=machine_now()),
            attempt | {"attempt_id": one, "messages": len(seqs), "wire_at": now, "outcome": AttemptOutcome.OPEN},
        )
        connection.execute(sending.values(attempt_id=bindparam("attempt")), these | {"attempt": one})
    else:
        # Claimed ones, then: texts. One statement for all, because between two a sender's threads would take turns.
        these["named"] = orjson.dumps({str(seq): attempt_of[seq] for seq in seqs}).decode()
        connection.execute(_ATTEMPTS, these)
        connection.execute(sending.values(attempt_id=_NAMED), these)
