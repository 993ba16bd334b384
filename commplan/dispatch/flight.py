"""Sending a batch in requests of one message each: as many in flight as there are connections, in two halves.

While one half is on its way the other is closed and its successors are looked at, in one transaction: so no more than
the connections hold is ever unanswered, and the provider is never waited for with nothing in flight.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from commplan.dispatch.failure import close_failure
from commplan.dispatch.patience import Patience
from commplan.dispatch.tally import Ending, Tally
from commplan.envelope import Acceptance
from commplan.errors import DeliveryError, HaltError, TransientError
from commplan.ids import AddressKey, AttemptId, new_attempt_id
from commplan.ledger import close
from commplan.ledger.claim import Batch
from commplan.ledger.look import Outgoing, look_in
from commplan.store import Store

_Request = TypeVar("_Request")
_Flight = list[tuple[Outgoing, Future[Acceptance]]]

#: Seconds for which a thread keeps the interpreter: what waits for an answer must not hold up the ledger for long.
_SWITCH_SECONDS = 0.0005


def send_singly(
    store: Store,
    batch: Batch,
    *,
    compose: Callable[[Sequence[Outgoing]], Sequence[_Request]],
    send: Callable[[_Request], Acceptance],
    connections: int,
    lease: float,
    allowed: Collection[AddressKey] | None,
    tally: Tally,
) -> Ending:
    """Look at and send every message of a claimed batch.

    `compose` makes the requests of those that passed the look, in order; `send` hands one over, in a thread. Raises
    HaltError when nothing can be sent until a person acts; whatever was in flight is closed first.
    """
    sys.setswitchinterval(_SWITCH_SECONDS)
    work = _Work(store, batch, lease=lease, allowed=allowed, tally=tally)
    half = max(1, connections // 2)
    with ThreadPoolExecutor(max_workers=connections, thread_name_prefix=batch.channel) as pool:
        try:
            while work.waiting or work.flying:
                landed = work.flying.popleft() if len(work.flying) == 2 or not work.waiting else []
                outgoing = work.turn(landed, half)
                if outgoing:
                    sent = [pool.submit(send, request) for request in compose(outgoing)]
                    work.flying.append(list(zip(outgoing, sent, strict=True)))
                if work.refused is not None:
                    error, work.refused = work.refused, None
                    if not work.patience.wait(error):
                        return Ending.IMPATIENT
        finally:
            while work.flying:
                work.turn(work.flying.popleft(), 0)
    return Ending.DONE


class _Work:
    """One batch on its way: what still waits, what is in flight, and what became of the rest."""

    def __init__(
        self,
        store: Store,
        batch: Batch,
        *,
        lease: float,
        allowed: Collection[AddressKey] | None,
        tally: Tally,
    ) -> None:
        self._store = store
        self._batch = batch
        self._lease = lease
        self._allowed = allowed
        self._tally = tally
        self.waiting = deque(batch.seqs)
        self.flying: deque[_Flight] = deque()
        self.patience = Patience()
        self.refused: TransientError | None = None

    def turn(self, landed: _Flight, size: int) -> list[Outgoing]:
        """Close what has landed and look at the next `size` messages, in one transaction; return those that may go."""
        accepted: dict[AttemptId, str | None] = {}
        failed: list[tuple[Outgoing, DeliveryError]] = []
        defect: BaseException | None = None
        for out, future in landed:
            match future.exception():
                case None:
                    accepted[out.attempt_id] = future.result().provider_id
                case DeliveryError() as error:
                    failed.append((out, error))
                case other:
                    defect = other
        seqs = [self.waiting.popleft() for _ in range(min(size, len(self.waiting)))]
        outgoing: list[Outgoing] = []
        with self._store.write() as connection:
            close.accept_in(connection, accepted, now=self._store.clock.now())
            if seqs and defect is None:
                outgoing = look_in(
                    connection,
                    self._store,
                    self._batch,
                    seqs=seqs,
                    attempt_ids=[new_attempt_id() for _ in seqs],
                    lease=self._lease,
                    allowed=self._allowed,
                )
        self._tally.accepted += len(accepted)
        halt = self._close_failures(failed)
        if defect is not None or halt is not None:
            self._never_left(outgoing)
            raise defect or halt  # type: ignore[misc]
        return outgoing

    def _close_failures(self, failed: Sequence[tuple[Outgoing, DeliveryError]]) -> HaltError | None:
        halt: HaltError | None = None
        for out, error in failed:
            try:
                for group in close_failure(self._store, out.attempt_id, [out.ref.seq], error, self._tally):
                    self.waiting.extendleft(reversed(group))
            except HaltError as raised:
                halt = raised
            if isinstance(error, TransientError):
                self.refused = error
        return halt

    def _never_left(self, outgoing: Sequence[Outgoing]) -> None:
        for out in outgoing:
            close.take_back(self._store, out.attempt_id)
