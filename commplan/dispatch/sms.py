"""Sending a batch of texts: a request each."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from commplan.channels.base import SmsGateway
from commplan.content import fill
from commplan.dispatch.flight import send_singly
from commplan.dispatch.tally import Ending, Tally
from commplan.envelope import TextMessage
from commplan.ids import AddressKey, Token, TokenPurpose
from commplan.ledger.claim import Batch
from commplan.ledger.look import Outgoing, write_by
from commplan.store import Store


def send_texts(
    store: Store,
    gateway: SmsGateway,
    batch: Batch,
    *,
    connections: int,
    lease: float,
    allowed: Collection[AddressKey] | None,
    tally: Tally,
) -> Ending:
    """Look at and send every text of a claimed batch, as `send_singly`."""

    def compose(outgoing: Sequence[Outgoing]) -> list[TextMessage]:
        tokens = store.keyring.tokens(TokenPurpose.MESSAGE, [out.ref for out in outgoing])
        return [text_message(store, batch, out, token) for out, token in zip(outgoing, tokens, strict=True)]

    return send_singly(
        store,
        batch,
        compose=compose,
        send=gateway.send,
        connections=connections,
        lease=lease,
        allowed=allowed,
        tally=tally,
    )


def text_message(store: Store, batch: Batch, out: Outgoing, token: Token) -> TextMessage:
    """Return the text of one message, known to its provider by `token`, valid until its hours or its time are over."""
    now = store.clock.now()
    latest = min(out.not_after, out.closes_at) if out.closes_at is not None else out.not_after
    return TextMessage(
        attempt_id=out.attempt_id,
        token=token,
        address=out.address,
        body=fill(batch.text.text, batch.text.placeholders, out.values),
        valid_for=max(1, min(36_000, int((latest - now).total_seconds()))),
        write_by=write_by(out.looked_at),
    )
