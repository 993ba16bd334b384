"""Letting unsent messages follow their recipients' addresses: the text is frozen, the address is not.

Never touches a message that has been sent, or that another worker has.
"""

from __future__ import annotations

from sqlalchemy import ColumnElement, Connection, and_, case, select, update

from commplan.ids import RunId
from commplan.store.tables import messages, recipients
from commplan.terms import Channel, MessageState, Reason

_WAITING = (MessageState.NOT_DUE, MessageState.QUEUED)


def follow_addresses(connection: Connection, run_id: RunId, *, which: ColumnElement[bool] | None = None) -> int:
    """Give unsent messages the address key their recipient has now; return how many changed.

    `which`: these messages, which the caller holds; None: all that no worker has. Where another message of the step
    already goes to that address, this one is cancelled as `same_address`. In the caller's transaction.
    """
    current = (
        select(case((messages.c.channel == Channel.EMAIL, recipients.c.email_key), else_=recipients.c.phone_key))
        .where(recipients.c.run_id == messages.c.run_id, recipients.c.seq == messages.c.seq)
        .correlate(messages)
        .scalar_subquery()
    )
    moved = and_(
        messages.c.run_id == run_id,
        messages.c.state.in_(_WAITING) if which is None else which,
        current.is_not(None),
        current != messages.c.address_key,
    )
    changed = 0
    rows = connection.execute(select(messages.c.step_no, messages.c.seq, current.label("key")).where(moved)).all()
    for row in rows:
        here = and_(messages.c.run_id == run_id, messages.c.step_no == row.step_no, messages.c.seq == row.seq)
        taken = connection.execute(
            select(messages.c.seq).where(
                messages.c.run_id == run_id, messages.c.step_no == row.step_no, messages.c.address_key == row.key
            )
        ).first()
        change: dict[str, object] = (
            {"state": MessageState.CANCELLED, "reason": Reason.SAME_ADDRESS, "batch_id": None}
            if taken
            else {"address_key": row.key}
        )
        changed += connection.execute(update(messages).where(here).values(**change)).rowcount
    return changed
