"""Sending a batch of emails: one request for all who share a text, smaller ones for what is left of a refused one.

Or a request each, with nothing left in it to substitute, where batching is not to be trusted.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import replace

from commplan.channels.base import EmailGateway
from commplan.content import fill
from commplan.dispatch.failure import close_failure
from commplan.dispatch.flight import send_singly
from commplan.dispatch.patience import Patience
from commplan.dispatch.tally import Ending, Tally
from commplan.envelope import EmailBatch, EmailRecipient
from commplan.errors import DeliveryError, TransientError
from commplan.ids import AddressKey, TokenPurpose, new_attempt_id
from commplan.ledger import close
from commplan.ledger.claim import Batch
from commplan.ledger.look import Outgoing, look, write_by
from commplan.store import Store

#: Requests in flight at once, where each carries one email.
CONNECTIONS = 16


def send_emails(
    store: Store,
    gateway: EmailGateway,
    batch: Batch,
    outgoing: Sequence[Outgoing],
    *,
    public_url: str,
    lease: float,
    allowed: Collection[AddressKey] | None,
    tally: Tally,
) -> Ending:
    """Send what passed the last look, and again what a refusal of others left.

    Raises HaltError when nothing can be sent until a person acts.
    """
    patience = Patience()
    groups: list[list[int]] = []
    while True:
        if outgoing:
            attempt_id, sent = outgoing[0].attempt_id, [out.ref.seq for out in outgoing]
            try:
                acceptance = gateway.send(_request(store, batch, outgoing, public_url=public_url))
            except DeliveryError as error:
                groups.extend(close_failure(store, attempt_id, sent, error, tally))
                if isinstance(error, TransientError) and not patience.wait(error):
                    return Ending.IMPATIENT
            else:
                close.accept(
                    store,
                    {attempt_id: acceptance.provider_id},
                    now=store.clock.now(),
                    finishing=None if groups else batch,
                )
                tally.accepted += len(sent)
                if not groups:
                    return Ending.CLOSED
        if not groups:
            return Ending.DONE
        outgoing = _look_again(store, gateway, batch, groups.pop(), lease=lease, allowed=allowed)


def send_emails_singly(
    store: Store,
    gateway: EmailGateway,
    batch: Batch,
    *,
    public_url: str,
    lease: float,
    allowed: Collection[AddressKey] | None,
    tally: Tally,
) -> Ending:
    """Look at and send every email of a claimed batch in a request of its own, as `send_singly`."""

    def compose(outgoing: Sequence[Outgoing]) -> list[EmailBatch]:
        return [_filled(_request(store, batch, [out], public_url=public_url)) for out in outgoing]

    return send_singly(
        store,
        batch,
        compose=compose,
        send=gateway.send,
        connections=CONNECTIONS,
        lease=lease,
        allowed=allowed,
        tally=tally,
    )


def _filled(request: EmailBatch) -> EmailBatch:
    """Return a request to one person with the values where the placeholders were."""
    (person,) = request.recipients
    subject, text, html = (
        fill(part, request.placeholders, person.values) for part in (request.subject, request.text, request.html)
    )
    alone = replace(person, values=())
    return replace(request, subject=subject, text=text, html=html, placeholders=(), recipients=[alone])


def _look_again(
    store: Store,
    gateway: EmailGateway,
    batch: Batch,
    seqs: Sequence[int],
    *,
    lease: float,
    allowed: Collection[AddressKey] | None,
) -> list[Outgoing]:
    # Whoever cannot be reached is not worth a look; sending says so again, and waits.
    with suppress(TransientError):
        gateway.connect()
    return look(store, batch, seqs=seqs, attempt_ids=[new_attempt_id()], lease=lease, allowed=allowed)


def _request(store: Store, batch: Batch, outgoing: Sequence[Outgoing], *, public_url: str) -> EmailBatch:
    refs = [out.ref for out in outgoing]
    tokens = store.keyring.tokens(TokenPurpose.MESSAGE, refs)
    stops = store.keyring.tokens(TokenPurpose.UNSUBSCRIBE, refs)
    replies = store.keyring.tokens(TokenPurpose.REPLY, refs)
    return EmailBatch(
        attempt_id=outgoing[0].attempt_id,
        subject=batch.text.subject,
        text=batch.text.text,
        html=batch.text.html,
        placeholders=batch.text.placeholders,
        write_by=write_by(outgoing[0].looked_at),
        recipients=[
            EmailRecipient(
                token=token,
                address=out.address,
                values=out.values,
                unsubscribe_url=f"{public_url}/u/{stop}",
                unsubscribe_token=stop,
                reply_token=reply,
            )
            for out, token, stop, reply in zip(outgoing, tokens, stops, replies, strict=True)
        ],
    )
