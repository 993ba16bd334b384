"""Letting unsent messages follow their recipients' addresses: the text is frozen, the address is not.

Never touches a message that has been sent, or that another worker has; every change names the states it may come from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, bindparam, case, select, update

from commplan.ids import RunId
from commplan.ledger.run import ranges
from commplan.ledger.state import NEVER_SENT
from commplan.store import Store
from commplan.store.tables import messages, recipients
from commplan.terms import Channel, MessageState, Reason

_WAITING = (MessageState.NOT_DUE, MessageState.QUEUED)
_OF_PERSON = and_(recipients.c.run_id == messages.c.run_id, recipients.c.seq == messages.c.seq)
_CURRENT = case((messages.c.channel == Channel.EMAIL, recipients.c.email_key), else_=recipients.c.phone_key)


def follow_all(store: Store, run_id: RunId) -> int:
    """Let every unsent message that no worker has follow its recipient's address; return how many changed.

    Looks for changes without holding a lock; only what did change is written, in short transactions.
    """
    changed = 0
    for first, last in ranges(store, run_id):
        here = and_(messages.c.seq.between(first, last), messages.c.state.in_(_WAITING))
        with store.read() as connection:
            if not _moving(connection, run_id, here).first():
                continue
        with store.write() as connection:
            changed += follow_addresses(connection, run_id, which=here)
    return changed


def follow_addresses(connection: Connection, run_id: RunId, *, which: ColumnElement[bool]) -> int:
    """Give messages the address key their recipient has now; return how many changed. In the caller's transaction.

    `which`: waiting messages, or those the caller has claimed. An address that another message of the step keeps, or
    that several come to share, is written to once: the others are cancelled as `same_address`. Somebody who has left
    the audience, or a message that never went out, keeps no address from anybody.
    """
    rows = _moving(connection, run_id, which).all()
    for step_no in {row.step_no for row in rows}:
        movers = [row for row in rows if row.step_no == step_no]
        _move(connection, run_id, step_no, movers)
    return len(rows)


def _moving(connection: Connection, run_id: RunId, which: ColumnElement[bool]) -> Any:
    return connection.execute(
        select(messages.c.step_no, messages.c.seq, messages.c.state, _CURRENT.label("key"))
        .join(recipients, _OF_PERSON)
        .where(messages.c.run_id == run_id, which, _CURRENT.is_not(None), messages.c.address_key != _CURRENT)
        .order_by(messages.c.step_no, messages.c.seq)
    )


def _move(connection: Connection, run_id: RunId, step_no: int, movers: Sequence[Row[Any]]) -> None:
    here = and_(messages.c.run_id == run_id, messages.c.step_no == step_no)
    wanted: dict[str, int] = {}
    for row in movers:
        wanted.setdefault(row.key, row.seq)
    taken = _taken(connection, here, wanted, {row.seq for row in movers})
    winners = [row for row in movers if wanted[row.key] == row.seq and row.key not in taken]
    losers = [row for row in movers if row not in winners]
    of_mover = and_(here, messages.c.seq == bindparam("of"), messages.c.state == bindparam("was"))
    if losers:
        connection.execute(
            update(messages)
            .where(of_mover)
            .values(state=MessageState.CANCELLED, reason=Reason.SAME_ADDRESS, address_key=None, batch_id=None),
            [{"of": row.seq, "was": row.state} for row in losers],
        )
    # Two who swap addresses must both let go before either takes the other's.
    for keys in ({row.seq: f"moving {row.seq}" for row in winners}, {row.seq: row.key for row in winners}):
        if keys:
            connection.execute(
                update(messages).where(of_mover).values(address_key=bindparam("key")),
                [{"of": row.seq, "was": row.state, "key": keys[row.seq]} for row in winners],
            )


def _taken(
    connection: Connection, here: ColumnElement[bool], wanted: Mapping[str, int], movers: Iterable[int]
) -> set[str]:
    """Return the wanted keys that somebody keeps, after taking them from those who have no use for them."""
    moving, keys = set(movers), list(wanted)
    kept: set[str] = set()
    for at in range(0, len(keys), 500):
        holders = connection.execute(
            select(messages.c.seq, messages.c.state, messages.c.address_key, recipients.c.left_at)
            .join(recipients, _OF_PERSON)
            .where(here, messages.c.address_key.in_(keys[at : at + 500]))
        ).all()
        for row in holders:
            if row.seq in moving:
                continue
            waiting = row.state in _WAITING and row.left_at is not None
            if waiting or row.state in NEVER_SENT:
                _free(connection, and_(here, messages.c.seq == row.seq))
            else:
                kept.add(row.address_key)
    return kept


def _free(connection: Connection, here: ColumnElement[bool]) -> None:
    waiting = messages.c.state.in_(_WAITING)
    connection.execute(
        update(messages)
        .where(here, waiting)
        .values(state=MessageState.CANCELLED, reason=Reason.LEFT_AUDIENCE, address_key=None)
    )
    connection.execute(update(messages).where(here, messages.c.state.in_(NEVER_SENT)).values(address_key=None))
