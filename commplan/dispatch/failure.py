"""Writing down what a failed request means, and saying which of its messages to try again.

Never decides what an error means: that is the channels' table.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, and_, select

from commplan.channels.failures import suppresses
from commplan.consent import SCOPE_ALL, Contact
from commplan.dispatch.tally import Tally
from commplan.errors import DeliveryError, HaltError, RejectedError, TransientError
from commplan.ids import AttemptId
from commplan.ledger import breaker, close
from commplan.store import Store
from commplan.store.tables import messages, recipients
from commplan.suppression import suppress
from commplan.terms import Channel


def close_failure(
    store: Store, attempt_id: AttemptId, seqs: Sequence[int], error: DeliveryError, tally: Tally
) -> list[list[int]]:
    """Close a failed request that carried `seqs`; return the groups of them to try again, each as its own request.

    Transactions of its own. Raises HaltError, after its messages went back to their batch, when nothing can be sent
    until a person acts: because this failure says so, or because so many were refused alike.
    """
    again = _write_down(store, attempt_id, seqs, error, tally)
    halt = breaker.after(store, attempt_id, error, seqs)
    if halt is not None:
        raise halt
    return again


def _write_down(
    store: Store, attempt_id: AttemptId, seqs: Sequence[int], error: DeliveryError, tally: Tally
) -> list[list[int]]:
    status, code = error.status, error.code
    if isinstance(error, TransientError | HaltError):
        close.take_back(store, attempt_id, status=status, code=code)
        return [list(seqs)] if isinstance(error, TransientError) else []
    if not isinstance(error, RejectedError):
        tally.unknown += len(seqs)
        close.lose_sight(store, attempt_id, status=status, code=code)
        return []
    if error.index is not None and len(seqs) > 1:
        named = seqs[error.index]
        tally.rejected += 1
        close.reject(store, attempt_id, status=status, code=code, seqs=[named])
        return [[seq for seq in seqs if seq != named]]
    if len(seqs) > 1:
        # Nobody was named: halve the request until the one that is refused stands alone.
        close.reject(store, attempt_id, status=status, code=code, seqs=())
        middle = len(seqs) // 2
        return [list(seqs[middle:]), list(seqs[:middle])]
    tally.rejected += 1
    # One transaction: nobody tells a second time that a number has stopped us.
    with store.write() as connection:
        now = store.clock.now()
        close.reject_in(connection, attempt_id, now=now, status=status, code=code)
        _suppress(connection, attempt_id, code, now)
    return []


def _suppress(connection: Connection, attempt_id: AttemptId, code: str | None, now: datetime) -> None:
    reason = suppresses(code)
    if reason is None:
        return
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
            at=now,
        )
