"""Bounces that carry no id at all: which message each is about, found anew with every delivery that becomes known.

A provider may report a bounce after the delivery without the ids it was given, and before it reports the delivery.
Never guesses between two: a bounce is about a message only while exactly one of ours is known to have been delivered to
that address in the time before it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import BigInteger, Connection, Integer, String, and_, select, type_coerce, update

from commplan.ids import AddressKey, MessageRef, RunId
from commplan.store.given import given
from commplan.store.tables import messages, receipts
from commplan.terms import Channel, MessageState, ReceiptKind

#: A bounce without ids is about a message that was delivered in this time before it.
LATE_BOUNCE_SPAN = timedelta(hours=72)

_SPAN = LATE_BOUNCE_SPAN // timedelta(microseconds=1)
_REF = {"run_id": BigInteger(), "step_no": Integer(), "seq": Integer()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A receipt that says a message failed."""

    key: str
    kind: ReceiptKind
    ref: MessageRef
    attempt_id: str
    at: datetime


def place(
    connection: Connection,
    *,
    bounced: Collection[AddressKey],
    delivered: Collection[MessageRef],
    failures: Collection[ReceiptKind],
) -> list[Failure]:
    """Place the bounces at `bounced` addresses and at those of `delivered` messages; return what is to be folded.

    In the caller's transaction. Messages that a bounce turned out to be about, or not to be about, are delivered until
    what is returned has been folded: every receipt of theirs that is one of `failures`.
    """
    keys = {*bounced, *_addresses(connection, delivered)}
    if not keys:
        return []
    moved: list[tuple[str, int | None, int | None, int | None, str | None]] = []
    touched: set[MessageRef] = set()
    for key, old, found in _candidates(connection, keys):
        new = found[0] if len(found) == 1 else None
        if old == (new and new[0]):
            continue
        touched |= {ref for ref in (old, new and new[0]) if ref is not None}
        moved.append((key, None, None, None, None) if new is None else (key, *_parts(new[0]), new[1]))
    if not moved:
        return []
    rows = given(connection, {"receipt_key": String(), **_REF, "attempt_id": String()}, moved)
    connection.execute(
        update(receipts)
        .where(receipts.c.receipt_key == rows.c.receipt_key)
        .values({name: rows.c[name] for name in (*_REF, "attempt_id")})
    )
    return _undo(connection, touched, failures)


def _parts(ref: MessageRef) -> tuple[int, int, int]:
    return ref.run_id, ref.step_no, ref.seq


def _addresses(connection: Connection, delivered: Collection[MessageRef]) -> Iterable[AddressKey]:
    """Return the addresses of messages at which there are bounces without ids."""
    if not delivered:
        return ()
    rows = given(connection, _REF, [_parts(ref) for ref in delivered])
    found = connection.execute(
        select(receipts.c.address_key)
        .distinct()
        .join(messages, messages.c.address_key == receipts.c.address_key)
        .where(*(messages.c[name] == rows.c[name] for name in _REF), receipts.c.address_key.is_not(None))
    ).scalars()
    return [AddressKey(key) for key in found]


def _candidates(
    connection: Connection, keys: Iterable[AddressKey]
) -> list[tuple[str, MessageRef | None, list[tuple[MessageRef, str]]]]:
    """Return each bounce with the message it was placed at and, with their requests, those that it may be about."""
    wanted = given(connection, {"address_key": String()}, [(key,) for key in sorted(keys)])
    r, m = receipts.c, messages.c
    at, delivered_at = type_coerce(r.at, BigInteger), type_coerce(m.delivered_at, BigInteger)
    near = and_(
        m.address_key == r.address_key, m.channel == Channel.EMAIL, delivered_at <= at, delivered_at >= at - _SPAN
    )
    found: dict[str, tuple[MessageRef | None, list[tuple[MessageRef, str]]]] = {}
    for row in connection.execute(
        select(
            r.receipt_key,
            *(r[name].label(f"old_{name}") for name in _REF),
            *(m[name] for name in _REF),
            m.attempt_id,
        )
        .select_from(wanted)
        .join(receipts, r.address_key == wanted.c.address_key)
        .outerjoin(messages, near)
    ):
        old = None if row.old_run_id is None else MessageRef(RunId(row.old_run_id), row.old_step_no, row.old_seq)
        _, candidates = found.setdefault(row.receipt_key, (old, []))
        if row.run_id is not None:
            candidates.append((MessageRef(RunId(row.run_id), row.step_no, row.seq), row.attempt_id))
    return [(key, old, candidates) for key, (old, candidates) in sorted(found.items())]


def _undo(connection: Connection, refs: Collection[MessageRef], failures: Collection[ReceiptKind]) -> list[Failure]:
    rows = given(connection, _REF, [_parts(ref) for ref in sorted(refs)])
    connection.execute(
        update(messages)
        .where(
            *(messages.c[name] == rows.c[name] for name in _REF),
            messages.c.state == MessageState.FAILED,
            messages.c.delivered_at.is_not(None),
        )
        .values(state=MessageState.DELIVERED, reason=None, failed_at=None)
    )
    r = receipts.c
    told = connection.execute(
        select(r.receipt_key, r.kind, *(r[name] for name in _REF), r.attempt_id, r.at).where(
            *(r[name] == rows.c[name] for name in _REF), r.kind.in_(failures), r.attempt_id.is_not(None)
        )
    )
    return [
        Failure(
            key=row.receipt_key,
            kind=ReceiptKind(row.kind),
            ref=MessageRef(RunId(row.run_id), row.step_no, row.seq),
            attempt_id=row.attempt_id,
            at=row.at,
        )
        for row in told
    ]
