"""What new facts lead to besides the message itself: suppressions put on or lifted, and replies kept.

Never acts on a fact twice: callers pass only the facts that were new, in the transaction that stored them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import BigInteger, Connection, Integer, insert, select

from commplan.consent import SCOPE_ALL, SCOPE_MARKETING, Contact
from commplan.ids import AddressKey, MessageRef, RunId
from commplan.ledger.facts import Fact
from commplan.ledger.run import plan_of
from commplan.plan import Plan
from commplan.receipts.base import Receipt
from commplan.store import Store
from commplan.store.given import given
from commplan.store.tables import audit, messages, recipients, replies
from commplan.suppression import lift, spoke_from, suppress
from commplan.terms import Channel, Purpose, Reason, ReceiptKind
from commplan.tracking.keyword import mentions_stop
from commplan.tracking.refusal import suppress_refusing
from commplan.tracking.sender import INFERRED, email_key

#: What makes an address unusable for everybody: the kind of receipt, and its code where not every code does.
DEAD_ADDRESS: Mapping[tuple[ReceiptKind, str | None], Reason] = {
    (ReceiptKind.BOUNCED, None): Reason.HARD_BOUNCE,
    (ReceiptKind.COMPLAINED, None): Reason.SPAM_REPORT,
    (ReceiptKind.DROPPED, "bounced_address"): Reason.HARD_BOUNCE,
    (ReceiptKind.DROPPED, "invalid"): Reason.HARD_BOUNCE,
    (ReceiptKind.DROPPED, "spam_reporting_address"): Reason.SPAM_REPORT,
    (ReceiptKind.UNDELIVERED, "21610"): Reason.STOP,
    **dict.fromkeys(
        [(ReceiptKind.UNDELIVERED, code) for code in ("21211", "21214", "21614", "21635", "30005", "30006")],
        Reason.INVALID_NUMBER,
    ),
}
#: What the record calls a text that may ask us to stop; its plan's owner is told of it.
OBJECTION = "keyword inside a text"
#: A provider gives a post up after this much machine time. A posted text tells no time of its own, so a START that
#: arrives within it of a STOP may have been written before it: the opt-out wins.
_RETRIES_END = timedelta(seconds=15)
#: A listed text tells its time, to the second and on another clock: what is closer to it may have been before it.
TOLD_TO = timedelta(seconds=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Addressee:
    channel: Channel
    address_key: AddressKey
    contact: Contact


def opt_out_scope(plan: Plan) -> str:
    """Return what somebody who opts out of a plan's message opts out of: marketing as a whole, or the plan's topic."""
    return SCOPE_MARKETING if plan.purpose is Purpose.MARKETING else plan.topic


def follow(store: Store, connection: Connection, new: Sequence[Fact]) -> None:
    """Do what new facts lead to, in the caller's transaction."""
    about = [fact for fact in new if _touches_suppression(fact) or _is_soft(fact) or _objects(fact)]
    addressees = _addressees(connection, {fact.ref for fact in about if fact.ref is not None})
    if refusing := [addressees[fact.ref].address_key for fact in about if _is_soft(fact) and fact.ref in addressees]:
        suppress_refusing(connection, refusing)
    for fact in new:
        if fact.receipt.text is not None:
            _follow_inbound(store, connection, fact, addressees.get(fact.ref))
        elif fact.ref in addressees:
            _follow_receipt(connection, fact, fact.ref, addressees[fact.ref])


def _reason(fact: Fact) -> Reason | None:
    kind, code = fact.receipt.kind, fact.receipt.code
    return DEAD_ADDRESS.get((kind, code), DEAD_ADDRESS.get((kind, None)))


def _is_preference(fact: Fact) -> bool:
    kind, code = fact.receipt.kind, fact.receipt.code
    return kind in (ReceiptKind.OPTED_OUT, ReceiptKind.OPTED_IN) or (
        kind is ReceiptKind.DROPPED and code == "unsubscribed_address"
    )


def _is_soft(fact: Fact) -> bool:
    return fact.receipt.kind is ReceiptKind.BLOCKED


def _objects(fact: Fact) -> bool:
    receipt = fact.receipt
    return receipt.kind is ReceiptKind.REPLIED and receipt.text is not None and mentions_stop(receipt.text)


def _touches_suppression(fact: Fact) -> bool:
    return fact.receipt.source != "page" and (_reason(fact) is not None or _is_preference(fact))


def _addressees(connection: Connection, refs: Iterable[MessageRef]) -> dict[MessageRef | None, _Addressee]:
    wanted = sorted(refs)
    if not wanted:
        return {}
    rows = given(
        connection,
        {"run_id": BigInteger(), "step_no": Integer(), "seq": Integer()},
        [(ref.run_id, ref.step_no, ref.seq) for ref in wanted],
    )
    found = connection.execute(
        select(
            messages.c.run_id,
            messages.c.step_no,
            messages.c.seq,
            messages.c.channel,
            messages.c.address_key,
            recipients.c.people,
            recipients.c.contact_id,
        )
        .join(recipients, (recipients.c.run_id == messages.c.run_id) & (recipients.c.seq == messages.c.seq))
        .where(
            *(messages.c[name] == rows.c[name] for name in rows.c.keys()),  # noqa: SIM118 (a column collection)
            messages.c.address_key.is_not(None),
        )
    )
    return {
        MessageRef(RunId(row.run_id), row.step_no, row.seq): _Addressee(
            channel=Channel(row.channel),
            address_key=AddressKey(row.address_key),
            contact=Contact(people=row.people, contact_id=row.contact_id),
        )
        for row in found
    }


def _follow_receipt(connection: Connection, fact: Fact, ref: MessageRef | None, addressee: _Addressee) -> None:
    if ref is None or not _touches_suppression(fact):
        return
    reason, source = _reason(fact), f"receipt {fact.receipt.key}"
    scope = SCOPE_ALL if reason is not None else opt_out_scope(plan_of(connection, ref.run_id))
    if fact.receipt.kind is ReceiptKind.OPTED_IN:
        lift(
            connection,
            channel=addressee.channel,
            address_key=addressee.address_key,
            contacts=[addressee.contact],
            scope=scope,
            reason=Reason.UNSUBSCRIBED,
            source=source,
            at=fact.at,
        )
    else:
        suppress(
            connection,
            channel=addressee.channel,
            address_key=addressee.address_key,
            contact=addressee.contact,
            scope=scope,
            reason=reason or Reason.UNSUBSCRIBED,
            source=source,
            at=fact.at,
        )


def _follow_inbound(store: Store, connection: Connection, fact: Fact, addressee: _Addressee | None) -> None:
    receipt, ref = fact.receipt, fact.ref
    if receipt.kind in (ReceiptKind.REPLIED, ReceiptKind.AUTO_REPLIED):
        connection.execute(
            insert(replies).values(
                receipt_key=receipt.key,
                run_id=None if ref is None else ref.run_id,
                step_no=None if ref is None else ref.step_no,
                seq=None if ref is None else ref.seq,
                channel=_channel(receipt),
                text=receipt.text,
                at=fact.at,
                auto_why=receipt.auto_why,
                inferred=receipt.code == INFERRED,
            )
        )
        if _objects(fact):
            _keep_marketing_back(store, connection, fact, addressee)
    elif _channel(receipt) is Channel.EMAIL and receipt.kind is ReceiptKind.OPTED_OUT:
        _follow_mailed_opt_out(store, connection, fact, addressee)
    elif receipt.address and receipt.kind in (ReceiptKind.OPTED_OUT, ReceiptKind.OPTED_IN):
        key = store.keyring.address_key(Channel.SMS, receipt.address)
        contact, source = None if addressee is None else addressee.contact, f"receipt {receipt.key}"
        if receipt.kind is ReceiptKind.OPTED_OUT:
            suppress(
                connection,
                channel=Channel.SMS,
                address_key=key,
                contact=contact,
                scope=SCOPE_ALL,
                reason=Reason.STOP,
                source=source,
                at=fact.at,
            )
        else:
            # A number speaks for everybody who has it: for the person of its newest message, and whoever stopped here.
            stopped = spoke_from(connection, channel=Channel.SMS, address_key=key, reason=Reason.STOP)
            perhaps = TOLD_TO if receipt.at is not None else _RETRIES_END * store.clock.factor
            lift(
                connection,
                channel=Channel.SMS,
                address_key=key,
                contacts=stopped if contact is None else stopped | {contact},
                scope=SCOPE_ALL,
                reason=Reason.STOP,
                source=source,
                at=fact.at - perhaps,
            )


def _follow_mailed_opt_out(store: Store, connection: Connection, fact: Fact, addressee: _Addressee | None) -> None:
    """Opt out whoever mailed that they want no more: as the message's link does, or of everything if it is unknown."""
    receipt, ref = fact.receipt, fact.ref
    key = _sender_key(store, receipt) if addressee is None else addressee.address_key
    if key is None:
        return
    suppress(
        connection,
        channel=Channel.EMAIL,
        address_key=key,
        contact=None if addressee is None else addressee.contact,
        scope=SCOPE_ALL if addressee is None or ref is None else opt_out_scope(plan_of(connection, ref.run_id)),
        reason=Reason.UNSUBSCRIBED,
        source=f"receipt {receipt.key}",
        at=fact.at,
    )


def _channel(receipt: Receipt) -> Channel:
    """Return how an answer came: SendGrid posts mail, Twilio texts."""
    return Channel.EMAIL if receipt.source == "sendgrid" else Channel.SMS


def _sender_key(store: Store, receipt: Receipt) -> AddressKey | None:
    """Return the key of the address that an answer came from."""
    if _channel(receipt) is Channel.EMAIL:
        return email_key(store, receipt.address)
    return None if receipt.address is None else store.keyring.address_key(Channel.SMS, receipt.address)


def _keep_marketing_back(store: Store, connection: Connection, fact: Fact, addressee: _Addressee | None) -> None:
    """Send no more marketing to somebody whose text may ask us to stop, until a person has decided what it says."""
    receipt, ref = fact.receipt, fact.ref
    channel, key = _channel(receipt), _sender_key(store, receipt)
    if addressee is not None and channel is Channel.EMAIL:
        # People answer from other addresses than the one we wrote to.
        key = addressee.address_key
    if key is None:
        return
    suppress(
        connection,
        channel=channel,
        address_key=key,
        contact=None if addressee is None else addressee.contact,
        scope=SCOPE_MARKETING,
        reason=Reason.UNSUBSCRIBED,
        source=f"receipt {receipt.key}",
        at=fact.at,
        said="a keyword inside a longer text, until a person decides",
    )
    if ref is not None:
        detail = json.dumps({"step_no": ref.step_no, "seq": ref.seq})
        connection.execute(insert(audit).values(run_id=ref.run_id, at=fact.at, what=OBJECTION, detail=detail))
