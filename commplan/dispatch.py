"""Sending what is due: claim, last look, send, close — batch after batch until nothing is left.

Never repeats a request that may have reached the provider, and never holds a transaction over the network.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from datetime import timedelta

from sqlalchemy import and_, select

from commplan.channels.base import Gateways
from commplan.channels.failures import next_wait, suppresses
from commplan.consent import SCOPE_ALL, Contact
from commplan.content import fill
from commplan.envelope import Acceptance, EmailBatch, EmailRecipient, TextMessage
from commplan.errors import DeliveryError, HaltError, RejectedError, TransientError
from commplan.fence import allowed_addresses
from commplan.ids import AddressKey, AttemptId, RunId, TokenPurpose, new_attempt_id
from commplan.ledger import breaker, close
from commplan.ledger.claim import WHOLE, Batch, Shard, claim
from commplan.ledger.look import Outgoing, look
from commplan.ledger.rate import Wait, limits
from commplan.ledger.run import plan_of
from commplan.settings import Settings
from commplan.store import Store
from commplan.store.tables import messages, recipients
from commplan.suppression import suppress
from commplan.terms import Channel

_LOG = logging.getLogger("commplan.dispatch")
#: Machine seconds that a sender waits for its rate before it looks whether there is still something to send.
LONGEST_WAIT = 5.0


@dataclass(slots=True, kw_only=True)
class Tally:
    """What became of the messages of one dispatch, by count."""

    batches: int = 0
    accepted: int = 0
    rejected: int = 0
    unknown: int = 0
    #: Refused unprocessed until patience ran out; queued for a later try.
    postponed: int = 0

    def __iadd__(self, other: Tally) -> Tally:
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """One worker's way to the providers.

    `lease` is machine seconds: longer than a request may take together with the waits between safe tries.
    """

    store: Store
    gateways: Gateways
    settings: Settings
    worker: str = field(default_factory=lambda: f"{socket.gethostname()}:{os.getpid()}")
    lease: float = 90.0

    def send_step(
        self,
        run_id: RunId,
        step_no: int,
        *,
        shard: Shard = WHOLE,
        progress: Callable[[int], None] | None = None,
    ) -> Tally:
        """Send everything of a step that is due, or this shard of it; return what became of it.

        Safe to call twice, at once, and again after a crash: what is claimed, sent or decided is not touched.
        Raises HaltError when nothing can be sent until a person acts; the messages are back in the queue then.
        """
        tally = Tally()
        with self.store.read() as connection:
            plan = plan_of(connection, run_id)
        allowed = allowed_addresses(self.store, plan, self.settings)
        rates = limits(self.settings)
        while True:
            batch = claim(
                self.store,
                run_id=run_id,
                step_no=step_no,
                worker=self.worker,
                limit=self.settings.email.batch,
                lease=self.lease,
                shard=shard,
                rates=rates,
            )
            if batch is None:
                return tally
            if isinstance(batch, Wait):
                time.sleep(min(batch.seconds, LONGEST_WAIT))
                continue
            tally.batches += 1
            before = tally.accepted
            again_at = None
            try:
                send = self._send_emails if batch.channel is Channel.EMAIL else self._send_texts
                if send(batch, tally, allowed):
                    again_at = self.store.clock.now() + timedelta(seconds=30 * self.store.clock.factor)
            finally:
                tally.postponed += close.finish(self.store, batch, again_at=again_at)
            if progress is not None:
                progress(tally.accepted - before)
            _LOG.info(
                "batch closed",
                extra={"batch": batch.batch_id, "claimed": len(batch.seqs), "accepted": tally.accepted - before},
            )

    def _send_emails(self, batch: Batch, tally: Tally, allowed: Collection[AddressKey] | None) -> bool:
        groups = [list(batch.seqs)]
        tries, began = 0, time.monotonic()
        while groups:
            seqs = groups.pop()
            attempt_id = new_attempt_id()
            outgoing = look(self.store, batch, seqs=seqs, attempt_ids=[attempt_id], lease=self.lease, allowed=allowed)
            if not outgoing:
                continue
            try:
                acceptance = self.gateways.email.send(self._email_batch(batch, attempt_id, outgoing))
            except DeliveryError as error:
                sent = [out.ref.seq for out in outgoing]
                retry = self._close_failure(attempt_id, sent, error, tally)
                if isinstance(error, TransientError):
                    tries += 1
                    if (wait := next_wait(error, tries, spent=time.monotonic() - began)) is None:
                        return True
                    time.sleep(wait)
                groups.extend(retry)
                continue
            self._accept({attempt_id: acceptance})
            tally.accepted += len(outgoing)
        return False

    def _close_failure(
        self, attempt_id: AttemptId, seqs: Sequence[int], error: DeliveryError, tally: Tally
    ) -> list[list[int]]:
        """Write down what a failed request means; return the groups of messages to try again, each on its own."""
        again = self._write_down(attempt_id, seqs, error, tally)
        halt = breaker.after(self.store, attempt_id, error, seqs)
        if halt is not None:
            raise halt
        return again

    def _write_down(
        self, attempt_id: AttemptId, seqs: Sequence[int], error: DeliveryError, tally: Tally
    ) -> list[list[int]]:
        status, code = error.status, error.code
        if isinstance(error, TransientError | HaltError):
            close.take_back(self.store, attempt_id, status=status, code=code)
            return [list(seqs)] if isinstance(error, TransientError) else []
        if not isinstance(error, RejectedError):
            tally.unknown += len(seqs)
            close.lose_sight(self.store, attempt_id, status=status, code=code)
            return []
        if error.index is not None and len(seqs) > 1:
            named = seqs[error.index]
            tally.rejected += 1
            close.reject(self.store, attempt_id, status=status, code=code, seqs=[named])
            return [[seq for seq in seqs if seq != named]]
        if len(seqs) > 1:
            # Nobody was named: halve the request until the one that is refused stands alone.
            close.reject(self.store, attempt_id, status=status, code=code, seqs=())
            middle = len(seqs) // 2
            return [list(seqs[middle:]), list(seqs[:middle])]
        tally.rejected += 1
        close.reject(self.store, attempt_id, status=status, code=code)
        self._suppress(attempt_id, code)
        return []

    def _suppress(self, attempt_id: AttemptId, code: str | None) -> None:
        reason = suppresses(code)
        if reason is None:
            return
        with self.store.write() as connection:
            row = connection.execute(
                select(messages.c.channel, messages.c.address_key, recipients.c.people, recipients.c.contact_id)
                .join(recipients, and_(recipients.c.run_id == messages.c.run_id, recipients.c.seq == messages.c.seq))
                .where(messages.c.attempt_id == attempt_id)
            ).one_or_none()
            if row is not None:
                suppress(
                    connection,
                    channel=Channel(row.channel),
                    address_key=row.address_key,
                    contact=Contact(people=row.people, contact_id=row.contact_id),
                    scope=SCOPE_ALL,
                    reason=reason,
                    source=f"refused with code {code}",
                    at=self.store.clock.now(),
                )

    def _accept(self, accepted: dict[AttemptId, Acceptance]) -> None:
        close.accept(
            self.store,
            {attempt_id: acceptance.provider_id for attempt_id, acceptance in accepted.items()},
            now=self.store.clock.now(),
        )

    def _email_batch(self, batch: Batch, attempt_id: AttemptId, outgoing: Sequence[Outgoing]) -> EmailBatch:
        refs = [out.ref for out in outgoing]
        keyring, public = self.store.keyring, self.settings.public_url
        recipients = [
            EmailRecipient(
                token=token,
                address=out.address,
                values=dict(zip(batch.text.placeholders, out.values, strict=True)),
                unsubscribe_url=f"{public}/u/{stop}",
            )
            for out, token, stop in zip(
                outgoing,
                keyring.tokens(TokenPurpose.MESSAGE, refs),
                keyring.tokens(TokenPurpose.UNSUBSCRIBE, refs),
                strict=True,
            )
        ]
        return EmailBatch(
            attempt_id=attempt_id,
            subject=batch.text.subject,
            text=batch.text.text,
            html=batch.text.html,
            recipients=recipients,
        )

    def _send_texts(self, batch: Batch, tally: Tally, allowed: Collection[AddressKey] | None) -> bool:
        width = self.settings.sms.connections
        waiting = list(batch.seqs)
        tries, began = 0, time.monotonic()
        with ThreadPoolExecutor(max_workers=width, thread_name_prefix="sms") as pool:
            while waiting:
                seqs, waiting = waiting[:width], waiting[width:]
                outgoing = look(
                    self.store,
                    batch,
                    seqs=seqs,
                    attempt_ids=[new_attempt_id() for _ in seqs],
                    lease=self.lease,
                    allowed=allowed,
                )
                sent = [(out, pool.submit(self.gateways.sms.send, self._text_message(batch, out))) for out in outgoing]
                refused, error = self._close_texts(sent, tally)
                if error is not None:
                    tries += 1
                    if (wait := next_wait(error, tries, spent=time.monotonic() - began)) is None:
                        return True
                    time.sleep(wait)
                    waiting[:0] = refused
        return False

    def _close_texts(
        self, sent: Sequence[tuple[Outgoing, Future[Acceptance]]], tally: Tally
    ) -> tuple[list[int], TransientError | None]:
        accepted: dict[AttemptId, Acceptance] = {}
        failed: list[tuple[Outgoing, DeliveryError]] = []
        defect: BaseException | None = None
        for out, future in sent:
            error = future.exception()
            if error is None:
                accepted[out.attempt_id] = future.result()
            elif isinstance(error, DeliveryError):
                failed.append((out, error))
            else:
                defect = error
        self._accept(accepted)
        tally.accepted += len(accepted)
        again: list[int] = []
        transient: TransientError | None = None
        halt: HaltError | None = None
        for out, error in failed:
            try:
                for group in self._close_failure(out.attempt_id, [out.ref.seq], error, tally):
                    again.extend(group)
            except HaltError as raised:
                halt = raised
            if isinstance(error, TransientError):
                transient = error
        if defect is not None or halt is not None:
            raise defect or halt  # type: ignore[misc]
        return again, transient

    def _text_message(self, batch: Batch, out: Outgoing) -> TextMessage:
        now = self.store.clock.now()
        latest = min(out.not_after, out.closes_at) if out.closes_at is not None else out.not_after
        return TextMessage(
            attempt_id=out.attempt_id,
            token=self.store.keyring.token(TokenPurpose.MESSAGE, out.ref),
            address=out.address,
            body=fill(batch.text.text, batch.text.placeholders, out.values),
            valid_for=max(1, min(36_000, int((latest - now).total_seconds()))),
        )
