"""Which message a receipt without our ids is about: a reply by its number, a late bounce by its address.

Never guesses between two: what fits no message, or several, stays without one.
"""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime, timedelta

from sqlalchemy import Connection, select

from commplan.audience.address import read_email
from commplan.consent import SCOPE_ALL
from commplan.ids import AddressKey, MessageRef, RunId
from commplan.ledger.facts import Fact
from commplan.receipts.base import Receipt
from commplan.store import Store
from commplan.store.tables import attempts, messages
from commplan.suppression import suppress
from commplan.terms import Channel, MessageState, Reason, ReceiptKind
from commplan.tracking.consequence import DEAD_ADDRESS

#: A text answers the newest message that went to that number in this time.
REPLY_SPAN = timedelta(days=7)
#: A bounce that carries no ids is about a message that was delivered in this time.
LATE_BOUNCE_SPAN = timedelta(hours=72)

_NUMBER = re.compile(r"^\+[1-9]\d{5,14}$")
_ON_ITS_WAY = (
    MessageState.SENDING,
    MessageState.UNKNOWN,
    MessageState.ACCEPTED,
    MessageState.DELIVERED,
    MessageState.FAILED,
)


def number_key(store: Store, number: str | None) -> AddressKey | None:
    """Return the key of a sender's number, None for a short code or a name."""
    return store.keyring.address_key(Channel.SMS, number) if number and _NUMBER.match(number) else None


def email_key(store: Store, address: str | None) -> AddressKey | None:
    """Return the key of an email address in whatever form a provider or a person wrote it, None if it is not one."""
    normal = read_email(address) if address else None
    return store.keyring.address_key(Channel.EMAIL, normal.casefold()) if normal else None


def place_inbound(store: Store, connection: Connection, receipt: Receipt, received_at: datetime) -> Fact:
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
                attempts.c.wire_at <= received_at,
                attempts.c.wire_at >= received_at - REPLY_SPAN,
            )
            .order_by(attempts.c.wire_at.desc(), messages.c.run_id.desc(), messages.c.step_no.desc(), messages.c.seq)
            .limit(1)
        ).one_or_none()
    )
    ref = None if row is None else MessageRef(RunId(row.run_id), row.step_no, row.seq)
    return Fact(receipt=receipt, ref=ref, at=received_at, received_at=received_at)


def place_late_bounce(store: Store, connection: Connection, receipt: Receipt, received_at: datetime) -> Fact | None:
    """Return a bounce without ids as a fact about the one message lately delivered to its address, else None.

    The provider reports a bounce after delivery without the ids it was given; the code says that the place is
    inferred.
    """
    if receipt.kind is not ReceiptKind.BOUNCED or receipt.token is not None:
        return None
    key = email_key(store, receipt.address)
    if key is None:
        return None
    at = receipt.at or received_at
    rows = connection.execute(
        select(messages.c.run_id, messages.c.step_no, messages.c.seq, messages.c.attempt_id)
        .where(
            messages.c.address_key == key,
            messages.c.channel == Channel.EMAIL,
            messages.c.delivered_at <= at,
            messages.c.delivered_at >= at - LATE_BOUNCE_SPAN,
        )
        .limit(2)
    ).all()
    if len(rows) != 1:
        return None
    inferred = replace(receipt, attempt_id=rows[0].attempt_id, code="inferred")
    ref = MessageRef(RunId(rows[0].run_id), rows[0].step_no, rows[0].seq)
    return Fact(receipt=inferred, ref=ref, at=at, received_at=received_at)


def suppress_foreign(store: Store, connection: Connection, receipt: Receipt, received_at: datetime) -> None:
    """Believe what another system on the same account learnt of an address: that it is dead, or reports spam."""
    reason = DEAD_ADDRESS.get((receipt.kind, receipt.code), DEAD_ADDRESS.get((receipt.kind, None)))
    key = email_key(store, receipt.address)
    if key is not None and reason in (Reason.HARD_BOUNCE, Reason.SPAM_REPORT):
        suppress(
            connection,
            channel=Channel.EMAIL,
            address_key=key,
            contact=None,
            scope=SCOPE_ALL,
            reason=reason,
            source="another system's event",
            at=receipt.at or received_at,
        )
