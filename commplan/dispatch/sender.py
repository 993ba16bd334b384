"""One worker: claims batch after batch of a step, and hands each to its channel, until nothing is due.

Knows neither how a request is made nor what an answer means.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from commplan.batching import why_unbatched
from commplan.channels.base import Gateways
from commplan.dispatch.email import send_emails, send_emails_singly
from commplan.dispatch.patience import Patience
from commplan.dispatch.sms import send_texts
from commplan.dispatch.tally import Ending, Tally
from commplan.errors import TransientError
from commplan.fence import allowed_addresses
from commplan.ids import AddressKey, RunId, new_attempt_id
from commplan.ledger import close, schedule
from commplan.ledger.claim import WHOLE, Batch, Shard
from commplan.ledger.look import Outgoing, take
from commplan.ledger.rate import Wait, limits
from commplan.ledger.run import plan_of
from commplan.settings import Settings
from commplan.store import Store
from commplan.terms import Channel

_LOG = logging.getLogger("commplan.dispatch")

#: Machine seconds that a sender waits for its rate before it looks whether there is still something to send.
LONGEST_WAIT = 5.0
#: Machine seconds until a provider that took nothing for a while is tried again.
TRY_AGAIN = 30


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
        stopping: Callable[[], bool] = lambda: False,
    ) -> Tally:
        """Send everything of a step that is due, or this shard of it; return what became of it.

        Safe to call twice, at once, and again after a crash: what is claimed, sent or decided is not touched.
        Raises HaltError when nothing can be sent until a person acts; the messages are back in the queue then.
        `stopping` is asked between batches.
        """
        tally = Tally()
        with self.store.read() as connection:
            plan = plan_of(connection, run_id)
        channels = plan.channels_of(step_no)
        allowed = allowed_addresses(self.store, plan, self.settings)
        rates = limits(self.settings)
        together = why_unbatched(self.store, self.settings) is None
        while not stopping():
            # Connected first, so that the request can follow the last look at once.
            if not self._connect(channels):
                tally.postponed += schedule.postpone(self.store, run_id, step_no, shard=shard, until=self._try_again())
                return tally
            taken = take(
                self.store,
                run_id=run_id,
                step_no=step_no,
                worker=self.worker,
                limit=self.settings.email.batch,
                lease=self.lease,
                attempt_id=new_attempt_id(),
                allowed=allowed,
                shard=shard,
                rates=rates,
                together=together,
            )
            if taken is None:
                return tally
            if isinstance(taken, Wait):
                time.sleep(min(taken.seconds, LONGEST_WAIT))
                continue
            self._send(*taken, allowed, tally, progress)
        return tally

    def _send(
        self,
        batch: Batch,
        outgoing: list[Outgoing] | None,
        allowed: Collection[AddressKey] | None,
        tally: Tally,
        progress: Callable[[int], None] | None,
    ) -> None:
        before = tally.accepted
        tally.batches += 1
        ending = Ending.DONE
        try:
            if batch.channel is Channel.SMS:
                ending = send_texts(
                    self.store,
                    self.gateways.sms,
                    batch,
                    connections=self.settings.sms.connections,
                    lease=self.lease,
                    allowed=allowed,
                    tally=tally,
                )
            elif outgoing is None:
                ending = send_emails_singly(
                    self.store,
                    self.gateways.email,
                    batch,
                    public_url=self.settings.public_url,
                    lease=self.lease,
                    allowed=allowed,
                    tally=tally,
                )
            else:
                ending = send_emails(
                    self.store,
                    self.gateways.email,
                    batch,
                    outgoing,
                    public_url=self.settings.public_url,
                    lease=self.lease,
                    allowed=allowed,
                    tally=tally,
                )
        finally:
            if ending is not Ending.CLOSED:
                again_at = self._try_again() if ending is Ending.IMPATIENT else None
                tally.postponed += close.finish(self.store, batch, again_at=again_at)
        if progress is not None:
            progress(tally.accepted - before)
        _LOG.info(
            "batch closed",
            extra={"batch": batch.batch_id, "claimed": len(batch.seqs), "accepted": tally.accepted - before},
        )

    def _connect(self, channels: Collection[Channel]) -> bool:
        patience = Patience()
        while True:
            try:
                for channel in channels:
                    (self.gateways.email if channel is Channel.EMAIL else self.gateways.sms).connect()
            except TransientError as error:
                if not patience.wait(error):
                    return False
            else:
                return True

    def _try_again(self) -> datetime:
        return self.store.clock.now() + timedelta(seconds=TRY_AGAIN * self.store.clock.factor)
