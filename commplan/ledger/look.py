"""The last look: one transaction right before the wire that finds out whether each message may still go out.

Never opens a connection to anyone. What passes has its attempt committed; what does not has its state and its reason.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import orjson
from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Text,
    Update,
    bindparam,
    insert,
    literal,
    select,
    update,
)

from commplan.clock import boottime
from commplan.ids import AddressKey, AttemptId, MessageRef, RunId
from commplan.ledger import breaker, gate
from commplan.ledger.claim import WHOLE, Batch, Shard, pick, take_up
from commplan.ledger.rate import Limit, Wait
from commplan.ledger.readdress import follow_addresses
from commplan.ledger.rules import CLAIMED, PICKED, rows_of, rules_of, times_of
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
#: A message's row, its values, and when its hours end.
_Going = tuple[Row[Any], tuple[str, ...], datetime | None]
_LOG = logging.getLogger("commplan.ledger")

#: Machine seconds after which what the last look saw is too old to be written on.
OLDEST_LOOK = 5.0
#: Machine seconds that may pass from its commit to the request; a process that was stopped in between finds out.
LONGEST_PAUSE = 1.0


def write_by(looked_at: float) -> float:
    """Return until when a request may be written, by `clock.boottime`; to be asked once the look is committed."""
    return min(looked_at + OLDEST_LOOK, boottime() + LONGEST_PAUSE)


class Outgoing(NamedTuple):
    """One message that passed the last look; its attempt is committed."""

    ref: MessageRef
    attempt_id: AttemptId
    address: str
    values: tuple[str, ...]
    not_after: datetime
    closes_at: datetime | None
    #: `clock.boottime` of the look.
    looked_at: float

    def __repr__(self) -> str:
        return f"Outgoing({self.ref}, {self.attempt_id})"


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
    return _pass(connection, store, batch, mine=CLAIMED, attempt_of=attempt_of, allowed=allowed).outgoing()


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
        passed = _pass(connection, store, batch, mine=PICKED, attempt_of=attempt_of, allowed=allowed)
    return batch, passed.outgoing()


def _pass(
    connection: Connection,
    store: Store,
    batch: Batch,
    *,
    mine: ColumnElement[bool],
    attempt_of: Mapping[int, AttemptId],
    allowed: Collection[AddressKey] | None,
) -> _Passed:
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
    times = times_of(now)
    if (proof := gate.prove(connection, plan, batch.run_id, batch.step_no, store.clock)) is not None:
        times |= gate.parameters(plan, batch.step_no, proof)
    examined = these | times
    rows = connection.execute(rules.examine, examined).all()
    if any(row.moved for row in rows):
        follow_addresses(connection, batch.run_id, which=mine.params(these))
        rows = connection.execute(rules.examine, examined).all()
    found = _sort(rows, plan, batch, now=now)
    for number, seqs in sorted(found.refused.items()):
        connection.execute(rules.refusals[number], rows_of(batch, seqs) | times)
    if found.damaged:
        _LOG.error(
            "frozen content is damaged", extra={"run": batch.run_id, "step": batch.step_no, "people": found.damaged}
        )
        change = {"state": MessageState.CANCELLED, "reason": Reason.CONTENT_DAMAGED, "batch_id": None}
        connection.execute(update(messages).where(mine).values(**change), rows_of(batch, found.damaged))
    for opens, seqs in found.closed.items():
        back = update(messages).where(mine).values(state=MessageState.QUEUED, due_at=opens, batch_id=None)
        connection.execute(back, rows_of(batch, seqs))
    seqs = [row.seq for row, *_ in found.going]
    _put_on_wire(connection, batch, seqs, attempt_of=attempt_of, mine=mine, now=now)
    return _Passed(batch=batch, going=found.going, attempt_of=attempt_of, looked_at=looked_at)


class _Passed(NamedTuple):
    """Who passed a look: made into what goes out once the transaction is over, in which nobody else can write."""

    batch: Batch
    going: Sequence[_Going]
    attempt_of: Mapping[int, AttemptId]
    looked_at: float

    def outgoing(self) -> list[Outgoing]:
        run_id, step_no = self.batch.run_id, self.batch.step_no
        return [
            Outgoing(
                MessageRef(run_id, step_no, row.seq),
                self.attempt_of[row.seq],
                row.address,
                values,
                row.not_after,
                closes_at,
                self.looked_at,
            )
            for row, values, closes_at in self.going
        ]


@dataclass(slots=True)
class _Sorted:
    """The messages of a look by what is to become of them."""

    #: By the number of the rule against them.
    refused: dict[int, list[int]] = field(default_factory=dict)
    #: Cancelled, rather than sent with a guess.
    damaged: list[int] = field(default_factory=list)
    #: Out of their hours, by when these begin.
    closed: dict[datetime, list[int]] = field(default_factory=dict)
    going: list[_Going] = field(default_factory=list)


def _sort(rows: Sequence[Row[Any]], plan: Plan, batch: Batch, *, now: datetime) -> _Sorted:
    found = _Sorted()
    wanted = len(batch.text.placeholders)
    hours: dict[tuple[str | None, str | None, str | None], tuple[datetime, datetime | None]] = {}
    for row in rows:
        seq, slot_values, _, _, moved, segment, zone, country, rule = row
        if rule is not None:
            found.refused.setdefault(rule, []).append(seq)
            continue
        values = _values(slot_values, wanted)
        if values is None:
            found.damaged.append(seq)
            continue
        where = (segment, zone, country)
        if where not in hours:
            window = plan.touch(batch.step_no, segment).window
            hours[where] = next_open(window, now, zones_of(zone, country, plan.zone))
        opens, closes = hours[where]
        if moved:
            # The address changed under the look: another look, at the new one.
            found.closed.setdefault(now + timedelta(minutes=1), []).append(seq)
        elif opens > now:
            found.closed.setdefault(opens, []).append(seq)
        else:
            found.going.append((row, values, closes))
    return found


def _values(kept: str | None, wanted: int) -> tuple[str, ...] | None:
    """Return a message's frozen values, None if they are damaged."""
    try:
        values = tuple(orjson.loads(kept or ""))
    except (ValueError, TypeError):
        return None
    return values if len(values) == wanted and set(map(type, values)) <= _TEXTS else None


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
_ATTEMPT = insert(attempts).values(wire_machine=machine_now())


def _sending(mine: ColumnElement[bool]) -> tuple[Update, Update]:
    """Return how messages get on the wire: in one request, and in one each."""
    sending = update(messages).where(mine).values(state=MessageState.SENDING, batch_id=bindparam("of_batch"))
    return sending.values(attempt_id=bindparam("attempt")), sending.values(attempt_id=_NAMED)


#: By whether they are only picked.
_SENDING = {True: _sending(PICKED), False: _sending(CLAIMED)}
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
    together, singly = _SENDING[mine is PICKED]
    if len(set(attempt_of.values())) == 1:
        attempt = {
            "attempt_id": attempt_of[seqs[0]],
            "batch_id": batch.batch_id,
            "run_id": batch.run_id,
            "step_no": batch.step_no,
            "channel": batch.channel,
            "messages": len(seqs),
            "wire_at": now,
            "outcome": AttemptOutcome.OPEN,
        }
        connection.execute(_ATTEMPT, attempt)
        connection.execute(together, these | {"attempt": attempt_of[seqs[0]]})
    else:
        # Claimed ones, then: texts. One statement for all, because between two a sender's threads would take turns.
        these["named"] = orjson.dumps({str(seq): attempt_of[seq] for seq in seqs}).decode()
        connection.execute(_ATTEMPTS, these)
        connection.execute(singly, these)
