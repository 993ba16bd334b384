"""The fold of receipts into the ledger: what is known about a message follows from the set of its receipts.

Never from their order, their repetition or how they were split into posts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Integer,
    String,
    Subquery,
    Text,
    case,
    select,
    true,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.types import TypeEngine

from commplan.ids import AddressKey, AttemptId, MessageRef, RunId
from commplan.ledger import reaction, stray
from commplan.ledger.close import keep, recover
from commplan.receipts.base import Receipt
from commplan.store.given import given
from commplan.store.tables import attempts, messages, receipts
from commplan.store.types import UtcDateTime, machine_now, to_micros
from commplan.terms import AttemptOutcome, MessageState, OnUnknown, Reason, ReceiptKind

#: Why a message failed after it was accepted; of several reasons the first listed here stays.
_FAILURES: Mapping[ReceiptKind, Reason] = {
    ReceiptKind.BOUNCED: Reason.BOUNCED,
    ReceiptKind.DROPPED: Reason.DROPPED,
    ReceiptKind.UNDELIVERED: Reason.UNDELIVERED,
    ReceiptKind.BLOCKED: Reason.BLOCKED,
}
_WEIGHT: Mapping[Reason, int] = {reason: len(_FAILURES) - at for at, reason in enumerate(_FAILURES.values())}
#: How delivery goes counts for the attempt that the message stands for, and for no other.
_DELIVERY: Mapping[ReceiptKind, str] = {
    ReceiptKind.SENT: "sent_at",
    ReceiptKind.DELIVERED: "delivered_at",
    **dict.fromkeys(_FAILURES, "failed_at"),
}
_DELIVERY_MOMENTS = ("sent_at", "delivered_at", "failed_at")
_REACTIONS = reaction.REACTIONS | {ReceiptKind.DELIVERED}
_ON_WIRE = (MessageState.SENDING, MessageState.UNKNOWN)
_TAKEN = (MessageState.ACCEPTED, MessageState.DELIVERED, MessageState.FAILED)
_REF = {"run_id": BigInteger(), "step_no": Integer(), "seq": Integer()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """A receipt in its place: the message it is about (None: none of ours) and the plan time it holds from.

    `at` is the provider's time, or the time it reached us where the provider tells none. A bounce of which nothing but
    the address is known has an `address_key` in place of a message: see `commplan.ledger.stray`.
    """

    receipt: Receipt
    ref: MessageRef | None
    at: datetime
    received_at: datetime
    address_key: AddressKey | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Folded:
    """What a fold changed: the facts that were new, and the messages that are proven accepted only now."""

    new: tuple[Fact, ...]
    accepted: tuple[MessageRef, ...]


def apply(connection: Connection, facts: Iterable[Fact], *, now: datetime) -> Folded:
    """Store the facts that are new and fold them into their messages; a fact that is known changes nothing.

    In the caller's transaction, in a few statements however many the facts. A receipt that carries the attempt of a
    message still on the wire, or unknown, proves that the provider took the whole request: its messages become
    accepted as of the moment the request was written, enrolments are kept and followers released. So does one of a
    request that was judged lost, while its messages have not gone out again. Moments are the earliest told. A failure
    outweighs a delivery, a delivery an acceptance. A receipt of an attempt that the message does not stand for is
    kept, and says nothing about delivery; what somebody does with a message counts whichever attempt brought it.
    """
    by_key = _earliest_told(facts)
    before = reaction.known(connection, {fact.ref for fact in by_key.values() if fact.ref and _reacts(fact)})
    found = _insert_new(connection, by_key)
    if not found:
        return Folded(new=(), accepted=())
    accepted = _accept_proven(connection, found, now=now)
    _fold_delivery(connection, found)
    _place_strays(connection, found)
    told: dict[MessageRef, list[reaction.Told]] = {}
    for fact in found:
        if fact.ref is not None and _reacts(fact):
            told.setdefault(fact.ref, []).append(_told(fact))
    reaction.fold(connection, before, told)
    return Folded(new=tuple(found), accepted=tuple(accepted))


def _told(fact: Fact) -> reaction.Told:
    receipt = fact.receipt
    return reaction.Told(
        key=receipt.key,
        kind=receipt.kind,
        at=to_micros(fact.at),
        attempt_id=_attempt_id(fact),
        url_key=receipt.url_key,
        machine_why=receipt.machine_why,
        is_ours=receipt.source == "page",
    )


def _attempt_id(fact: Fact) -> str | None:
    """Return the request's id as the store holds it: whatever a post says in its place, no longer than one of ours."""
    return (fact.receipt.attempt_id or "")[:32] or None


def _reacts(fact: Fact) -> bool:
    """Whether what people and machines did follows from it: a delivery tells how soon after it somebody clicked."""
    return fact.receipt.kind in _REACTIONS


def _earliest_told(facts: Iterable[Fact]) -> dict[str, Fact]:
    by_key: dict[str, Fact] = {}
    for fact in facts:
        known = by_key.setdefault(fact.receipt.key, fact)
        if fact.at < known.at:
            by_key[fact.receipt.key] = fact
    return by_key


def _insert_new(connection: Connection, by_key: Mapping[str, Fact]) -> list[Fact]:
    if not by_key:
        return []
    rows = given(
        connection,
        {
            "receipt_key": String(),
            "provider": String(),
            "kind": String(),
            **_REF,
            "attempt_id": String(),
            "provider_id": Text(),
            "code": Text(),
            "at": UtcDateTime(),
            "received_at": UtcDateTime(),
            "agent_class": String(),
            "url_key": String(),
            "machine_why": String(),
            "address_key": String(),
        },
        (
            (
                fact.receipt.key,
                fact.receipt.source,
                fact.receipt.kind,
                *((None, None, None) if fact.ref is None else (fact.ref.run_id, fact.ref.step_no, fact.ref.seq)),
                _attempt_id(fact),
                fact.receipt.provider_id,
                fact.receipt.code,
                to_micros(fact.at),
                to_micros(fact.received_at),
                fact.receipt.agent_class,
                fact.receipt.url_key,
                fact.receipt.machine_why,
                fact.address_key,
            )
            for fact in sorted(by_key.values(), key=lambda fact: fact.receipt.key)
        ),
    )
    insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    new = connection.execute(
        insert(receipts)
        # SQLite would read an ON CONFLICT right after a table as the condition of a join.
        .from_select([column.name for column in rows.c], select(rows).where(true()))
        .on_conflict_do_nothing()
        .returning(receipts.c.receipt_key)
    ).scalars()
    fresh = set(new)
    return [fact for key, fact in by_key.items() if key in fresh]


def _accept_proven(connection: Connection, facts: Sequence[Fact], *, now: datetime) -> list[MessageRef]:
    requests: dict[str, str | None] = {}
    for fact in facts:
        attempt_id = fact.receipt.attempt_id
        if attempt_id is not None and fact.ref is not None:
            requests[attempt_id] = _better(requests.get(attempt_id), _request_id(fact.receipt))
    if not requests:
        return []
    rows = given(connection, {"attempt_id": String(), "request_id": Text()}, sorted(requests.items()))
    proven = (
        connection.execute(
            update(attempts)
            .where(
                attempts.c.attempt_id == rows.c.attempt_id,
                attempts.c.outcome.in_((AttemptOutcome.OPEN, AttemptOutcome.UNKNOWN)),
                attempts.c.decision.is_distinct_from(OnUnknown.RESEND),
            )
            .values(
                outcome=AttemptOutcome.ACCEPTED,
                provider_id=_first(attempts.c.provider_id, rows.c.request_id),
                closed_machine=machine_now(),
            )
            .returning(attempts.c.attempt_id)
        )
        .scalars()
        .all()
    )
    _rename(connection, rows)
    refs = recover(connection, {AttemptId(attempt_id): named for attempt_id, named in requests.items()})
    if not proven:
        keep(connection, refs, now=now)
        return sorted(refs)
    of_attempt = attempts.c.attempt_id == messages.c.attempt_id
    accepted = connection.execute(
        update(messages)
        .where(messages.c.attempt_id.in_(proven), messages.c.state.in_(_ON_WIRE))
        .values(
            state=MessageState.ACCEPTED,
            accepted_at=_first(messages.c.accepted_at, select(attempts.c.wire_at).where(of_attempt).scalar_subquery()),
            provider_id=_first(
                messages.c.provider_id, select(attempts.c.provider_id).where(of_attempt).scalar_subquery()
            ),
        )
        .returning(messages.c.run_id, messages.c.step_no, messages.c.seq)
    )
    refs = sorted([*refs, *(MessageRef(RunId(row.run_id), row.step_no, row.seq) for row in accepted)])
    keep(connection, refs, now=now)
    return refs


def _rename(connection: Connection, rows: Subquery) -> None:
    """Let requests that are known by the provider's name of something it dropped have a better one."""
    renamed = connection.execute(
        update(attempts)
        .where(
            attempts.c.attempt_id == rows.c.attempt_id,
            attempts.c.outcome == AttemptOutcome.ACCEPTED,
            attempts.c.provider_id.contains("."),
            _is_better(rows.c.request_id, attempts.c.provider_id),
        )
        .values(provider_id=rows.c.request_id)
        .returning(attempts.c.attempt_id)
    ).scalars()
    if names := list(renamed):
        of_attempt = attempts.c.attempt_id == messages.c.attempt_id
        connection.execute(
            update(messages)
            .where(messages.c.attempt_id.in_(names), messages.c.provider_id.contains("."))
            .values(provider_id=select(attempts.c.provider_id).where(of_attempt).scalar_subquery())
        )


def _fold_delivery(connection: Connection, facts: Sequence[Fact]) -> None:
    told: dict[tuple[MessageRef, str], dict[str, datetime]] = {}
    reasons: dict[tuple[MessageRef, str], Reason] = {}
    request_ids: dict[tuple[MessageRef, str], str | None] = {}
    for fact in facts:
        moment = _DELIVERY.get(fact.receipt.kind)
        if moment is None or fact.ref is None or fact.receipt.attempt_id is None:
            continue
        of = (fact.ref, fact.receipt.attempt_id)
        _note(told.setdefault(of, {}), moment, fact.at)
        request_ids[of] = _better(request_ids.get(of), _request_id(fact.receipt))
        reason = _FAILURES.get(fact.receipt.kind)
        if reason is not None:
            reasons[of] = max(reason, reasons.get(of, reason), key=_WEIGHT.__getitem__)
    if not told:
        return
    columns: dict[str, TypeEngine[Any]] = {
        "attempt_id": String(),
        "provider_id": Text(),
        "reason": String(),
        "weight": Integer(),
    }
    rows = given(
        connection,
        {**_REF, **columns, **{name: UtcDateTime() for name in _DELIVERY_MOMENTS}},
        (
            (
                *(ref.run_id, ref.step_no, ref.seq, attempt_id),
                request_ids[ref, attempt_id],
                reasons.get((ref, attempt_id)),
                _WEIGHT.get(reasons.get((ref, attempt_id), Reason.REJECTED), 0),
                *_micros(moments, _DELIVERY_MOMENTS),
            )
            for (ref, attempt_id), moments in sorted(told.items())
        ),
    )
    failed = rows.c.failed_at.is_not(None)
    known_weight = case(_WEIGHT, value=messages.c.reason, else_=0)
    connection.execute(
        update(messages)
        .where(
            *(messages.c[name] == rows.c[name] for name in (*_REF, "attempt_id")),
            messages.c.accepted_at.is_not(None),
            messages.c.state.in_(_TAKEN),
        )
        .values(
            {
                "state": case(
                    (failed, MessageState.FAILED),
                    (messages.c.state == MessageState.FAILED, messages.c.state),
                    (rows.c.delivered_at.is_not(None), MessageState.DELIVERED),
                    else_=messages.c.state,
                ),
                "reason": case((failed & (rows.c.weight > known_weight), rows.c.reason), else_=messages.c.reason),
                "provider_id": case(
                    (_is_better(rows.c.provider_id, messages.c.provider_id), rows.c.provider_id),
                    else_=messages.c.provider_id,
                ),
                **{name: _earliest(messages.c[name], rows.c[name]) for name in _DELIVERY_MOMENTS},
            }
        )
    )


def _place_strays(connection: Connection, facts: Sequence[Fact]) -> None:
    failures = stray.place(
        connection,
        bounced={fact.address_key for fact in facts if fact.address_key is not None},
        delivered={fact.ref for fact in facts if fact.ref is not None and fact.receipt.kind is ReceiptKind.DELIVERED},
        failures=_FAILURES,
    )
    _fold_delivery(
        connection,
        [
            Fact(
                receipt=Receipt(key=one.key, source="sendgrid", kind=one.kind, attempt_id=one.attempt_id),
                ref=one.ref,
                at=one.at,
                received_at=one.at,
            )
            for one in failures
        ],
    )


def _note(moments: dict[str, datetime], name: str, at: datetime) -> None:
    moments[name] = min(at, moments.get(name, at))


def _micros(moments: Mapping[str, datetime], names: Iterable[str]) -> list[int | None]:
    return [to_micros(moments[name]) if name in moments else None for name in names]


def _better(one: str | None, other: str | None) -> str | None:
    """Return the name of a request rather than that of something it dropped, and of two of a kind the lesser."""
    return min(filter(None, (one, other)), key=lambda name: ("." in name, name), default=None)


def _is_better(told: ColumnElement[str], known: Column[str]) -> ColumnElement[bool]:
    return known.is_(None) | (known.contains(".") & (~told.contains(".") | (told < known)))


def _request_id(receipt: Receipt) -> str | None:
    """Return the provider's name of the request: SendGrid's message id begins with it, Twilio's is it.

    What SendGrid drops it names after a server, which many requests share. Such a name stands whole, for want of a
    better one; no name of a request has a point in it.
    """
    if receipt.provider_id is None or receipt.source != "sendgrid" or receipt.kind is ReceiptKind.DROPPED:
        return receipt.provider_id
    return receipt.provider_id.partition(".")[0]


def _first(known: Column[str] | Column[datetime], told: ColumnElement[object]) -> ColumnElement[object]:
    return case((known.is_(None), told), else_=known)


def _earliest(known: Column[datetime], told: ColumnElement[datetime]) -> ColumnElement[datetime]:
    return case((told.is_(None) | (known <= told), known), else_=told)
