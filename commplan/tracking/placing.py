"""Which message a receipt without our ids is about: a reply by its number, a bounce or an opt-out by its address.

Never loses an opt-out, and never lets another system's events change a message.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy import Connection, String, select

from commplan.consent import SCOPE_ALL, SCOPE_MARKETING
from commplan.ids import AddressKey, MessageRef, RunId
from commplan.ledger.facts import Fact
from commplan.receipts.base import Receipt
from commplan.store import Store
from commplan.store.given import given
from commplan.store.tables import attempts, messages
from commplan.suppression import suppress
from commplan.terms import Channel, MessageState, Reason, ReceiptKind
from commplan.tracking.consequence import DEAD_ADDRESS, TOLD_TO
from commplan.tracking.sender import INFERRED, email_key, number_key

#: A text answers the newest message that went to that number in this time.
REPLY_SPAN = timedelta(days=7)
#: How far a provider's clock may be from ours.
CLOCKS_APART = timedelta(minutes=5)

#: What is placed without our ids; of everything else only what it says of the address is believed. Not an opt-in: it
#: would be a guess that undoes an opt-out.
_PLACED = frozenset({ReceiptKind.BOUNCED, ReceiptKind.OPTED_OUT})

_ON_ITS_WAY = (
    MessageState.SENDING,
    MessageState.UNKNOWN,
    MessageState.ACCEPTED,
    MessageState.DELIVERED,
    MessageState.FAILED,
)


def place_text(store: Store, connection: Connection, receipt: Receipt, *, at: datetime, received_at: datetime) -> Fact:
    """Return a person's text as a fact about the newest SMS that had gone to their number when they wrote.

    The moment a message was written to the wire counts, so that an answer that overtakes the provider's
    acceptance still finds its message.
    """
    key = number_key(store, receipt.address)
    row = (
        None
        if key is None
        else connection.execute(
            select(messages.c.run_id, messages.c.step_no, messages.c.seq)
            .join(attempts, attempts.c.attempt_id == messages.c.attempt_id)
            .where(
                messages.c.address_key == key,
                messages.c.channel == Channel.SMS,
                messages.c.state.in_(_ON_ITS_WAY),
                attempts.c.wire_at <= at + TOLD_TO,
                attempts.c.wire_at >= at - REPLY_SPAN,
            )
            .order_by(attempts.c.wire_at.desc(), messages.c.run_id.desc(), messages.c.step_no.desc(), messages.c.seq)
            .limit(1)
        ).one_or_none()
    )
    ref = None if row is None else MessageRef(RunId(row.run_id), row.step_no, row.seq)
    return Fact(receipt=receipt, ref=ref, at=at, received_at=received_at)


def place_mail(store: Store, connection: Connection, receipt: Receipt, received_at: datetime) -> Fact:
    """Return a person's mail to none of our own addresses as a fact about the message that it answers.

    Which that is, the provider's names of the mails it refers to tell; where they do not, it is the newest that had
    gone to its sender, and marked as inferred.
    """
    key = email_key(store, receipt.address)
    sent = [] if key is None else _sent_to(connection, {key}).get(key, [])
    of = next((one for request in receipt.references for one in sent if one.request_id == request), None)
    ref = _only_message_of(connection, receipt.references) if of is None else of.ref
    if ref is None:
        gone = [one for one in sent if one.wire_at <= received_at + CLOCKS_APART]
        newest = max(gone, key=lambda one: (one.wire_at, one.ref), default=None)
        if newest is not None:
            ref, receipt = newest.ref, replace(receipt, code=INFERRED)
    return Fact(receipt=receipt, ref=ref, at=received_at, received_at=received_at)


def _only_message_of(connection: Connection, requests: Sequence[str]) -> MessageRef | None:
    """Return the message of the first request that carried a single one: whoever answers it got it, or was shown it."""
    for request in requests:
        found = connection.execute(
            select(messages.c.run_id, messages.c.step_no, messages.c.seq)
            .join(attempts, attempts.c.attempt_id == messages.c.attempt_id)
            .where(attempts.c.provider_id == request, attempts.c.channel == Channel.EMAIL)
            .limit(2)
        ).all()
        if len(found) == 1:
            return MessageRef(RunId(found[0].run_id), found[0].step_no, found[0].seq)
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stray:
    """A receipt that names none of our messages; `key` is that of its address, if it tells a readable one."""

    receipt: Receipt
    received_at: datetime
    key: AddressKey | None

    @property
    def at(self) -> datetime:
        """When it happened, as far as is known."""
        return self.receipt.at or self.received_at


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sent:
    ref: MessageRef
    attempt_id: str
    request_id: str | None
    wire_at: datetime


def as_stray(store: Store, receipt: Receipt, received_at: datetime) -> Stray:
    """Return a receipt without a token of ours, with the key of the address it is about."""
    matters = receipt.kind in _PLACED or _dead(receipt) is not None
    key = email_key(store, receipt.address) if matters else None
    return Stray(receipt=receipt, received_at=received_at, key=key)


def place_strays(connection: Connection, strays: Sequence[Stray]) -> list[Fact | None]:
    """Return each as a fact if it is about a message of ours, or may be once more is known; one statement for all.

    The provider's name of the message counts first, if it begins with that of a request to the same address. An
    opt-out without any name is about the newest message that had gone there: an opt-out is never lost. A bounce without
    any name is kept with its address, for `commplan.ledger.stray` to place. One with another system's name is that
    system's; an opt-out then is no reaction to a message of ours.
    """
    sent = _sent_to(connection, {stray.key for stray in strays if stray.key and stray.receipt.kind in _PLACED})
    return [_place(stray, sent.get(stray.key, ()) if stray.key else ()) for stray in strays]


def _place(stray: Stray, sent: Sequence[_Sent]) -> Fact | None:
    receipt = stray.receipt
    if not sent or receipt.kind not in _PLACED:
        return None
    request_id = (receipt.provider_id or "").partition(".")[0]
    of = next((one for one in sent if request_id and one.request_id == request_id), None)
    attempt_id, key = None if of is None else of.attempt_id, None
    if of is None:
        # What is inferred is no proof that a request was accepted.
        receipt = replace(receipt, code=INFERRED)
        if receipt.provider_id is not None:
            # Another system's, unless it is of a request of ours whose name we were never told.
            sent = [one for one in sent if one.request_id is None]
        if receipt.kind is ReceiptKind.OPTED_OUT:
            gone = [one for one in sent if one.wire_at <= stray.at + CLOCKS_APART]
            of = max(gone, key=lambda one: (one.wire_at, one.ref), default=None)
        elif receipt.token is None and receipt.provider_id is None:
            key = stray.key
        if of is None and key is None:
            return None
    return Fact(
        receipt=replace(receipt, attempt_id=attempt_id),
        ref=None if of is None else of.ref,
        at=stray.at,
        received_at=stray.received_at,
        address_key=key,
    )


def _sent_to(connection: Connection, keys: Iterable[AddressKey]) -> dict[AddressKey, list[_Sent]]:
    wanted = [(key,) for key in sorted(keys)]
    if not wanted:
        return {}
    rows = given(connection, {"address_key": String()}, wanted)
    found: dict[AddressKey, list[_Sent]] = {}
    for row in connection.execute(
        select(
            messages.c.address_key,
            messages.c.run_id,
            messages.c.step_no,
            messages.c.seq,
            attempts.c.attempt_id,
            attempts.c.provider_id,
            attempts.c.wire_at,
        )
        .join(rows, rows.c.address_key == messages.c.address_key)
        .join(attempts, attempts.c.attempt_id == messages.c.attempt_id)
        .where(messages.c.channel == Channel.EMAIL, messages.c.state.in_(_ON_ITS_WAY))
    ):
        found.setdefault(AddressKey(row.address_key), []).append(
            _Sent(
                ref=MessageRef(RunId(row.run_id), row.step_no, row.seq),
                attempt_id=row.attempt_id,
                request_id=row.provider_id,
                wire_at=row.wire_at,
            )
        )
    return found


def _dead(receipt: Receipt) -> Reason | None:
    reason = DEAD_ADDRESS.get((receipt.kind, receipt.code), DEAD_ADDRESS.get((receipt.kind, None)))
    return reason if reason in (Reason.HARD_BOUNCE, Reason.SPAM_REPORT) else None


def believe(connection: Connection, stray: Stray) -> None:
    """Suppress the address of a receipt that names no message of ours: for it is dead, reports spam, or wants no more.

    Whoever opts out of what another system on the account sends gets no marketing of ours either; what else we send
    has its own opt-out.
    """
    reason, scope = _dead(stray.receipt), SCOPE_ALL
    if stray.receipt.kind is ReceiptKind.OPTED_OUT:
        reason, scope = Reason.UNSUBSCRIBED, SCOPE_MARKETING
    if stray.key is not None and reason is not None:
        suppress(
            connection,
            channel=Channel.EMAIL,
            address_key=stray.key,
            contact=None,
            scope=scope,
            reason=reason,
            source="an event that names no message of ours",
            at=stray.at,
        )
