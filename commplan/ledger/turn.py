"""Turns: what one process does at a time, such as planning a run.

Held by a lease, so that nobody waits for a process that is gone.
"""

from __future__ import annotations

import time as clock
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import uuid4

from sqlalchemy import delete, update
from sqlalchemy.dialects import postgresql, sqlite

from commplan.errors import RunError
from commplan.store import Store
from commplan.store.tables import (
    plan_locks,
)
from commplan.store.types import machine_now


@dataclass(slots=True, kw_only=True)
class Turn:
    """A process's turn at something that one process does at a time; over when its lease is."""

    store: Store
    name: str
    holder: str
    lease: timedelta
    _kept: float = field(default_factory=clock.monotonic)

    def keep(self) -> None:
        """Begin the lease anew, once a tenth of it is over; RunError when another process has the turn by then.

        Own transaction.
        """
        if clock.monotonic() - self._kept < self.lease.total_seconds() / 10:
            return
        self._kept = clock.monotonic()
        with self.store.write() as connection:
            kept = connection.execute(
                update(plan_locks)
                .where(plan_locks.c.plan == self.name, plan_locks.c.holder == self.holder)
                .values(lease_machine=machine_now() + self.lease.total_seconds())
            ).rowcount
        if not kept:
            raise RunError(f"another process has taken over preparing {self.name}; start this again in a minute")


@contextmanager
def exclusive(
    store: Store, name: str, *, lease: timedelta = timedelta(minutes=2), patience: timedelta = timedelta()
) -> Iterator[Turn]:
    """Take the turn at preparing a plan or a run, if it is free or its holder's lease is over.

    RunError when it is not to be had within `patience`. Lease and patience are machine time; the lease is on the
    database's clock, and who works longer keeps the turn by `Turn.keep`.
    """
    turn = Turn(store=store, name=name, holder=uuid4().hex, lease=lease)
    until = clock.monotonic() + patience.total_seconds()
    while not _take(turn):
        if clock.monotonic() >= until:
            raise RunError(f"another process prepares {name}; start this again in a minute")
        clock.sleep(0.2)
    try:
        yield turn
    finally:
        with store.write() as connection:
            connection.execute(delete(plan_locks).where(plan_locks.c.plan == name, plan_locks.c.holder == turn.holder))


def _take(turn: Turn) -> bool:
    store, name, lease = turn.store, turn.name, turn.lease
    upsert = sqlite.insert if store.is_sqlite else postgresql.insert
    until = machine_now() + lease.total_seconds()
    with store.write() as connection:
        # PostgreSQL's driver does not count the rows of an INSERT: what it returns tells.
        taken = connection.execute(
            upsert(plan_locks)
            .values(plan=name, holder=turn.holder, lease_machine=until)
            .on_conflict_do_update(
                index_elements=[plan_locks.c.plan],
                set_={"holder": turn.holder, "lease_machine": until},
                where=plan_locks.c.lease_machine < machine_now(),
            )
            .returning(plan_locks.c.holder)
        ).first()
    return taken is not None
