"""Whether upkeep is at work: it says so itself, and whoever works on a run notices when it does not.

Machine time throughout, on the database's clock.
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import func, insert, or_, select, update

from commplan.store import Store
from commplan.store.tables import upkeep
from commplan.store.types import machine_now

#: Upkeep is due every minute; after so much silence somebody is told.
PATIENCE = timedelta(minutes=15)


def at_work(store: Store) -> None:
    """Note that upkeep is at work. Own transaction."""
    with store.write() as connection:
        if not connection.execute(update(upkeep).values(alive_machine=machine_now(), told_machine=None)).rowcount:
            connection.execute(insert(upkeep).values(upkeep_id=1, alive_machine=machine_now()))


def fell_silent(store: Store, *, patience: timedelta = PATIENCE) -> bool:
    """Tell whether upkeep has been silent for too long and nobody has been told: true once, for the first to ask.

    Where upkeep has never been at work its silence counts from the first time that anyone asks. A read, and a write of
    its own when there is something to note.
    """
    seconds = patience.total_seconds()
    too_long = (
        upkeep.c.alive_machine < machine_now() - seconds,
        or_(upkeep.c.told_machine.is_(None), upkeep.c.told_machine < upkeep.c.alive_machine),
    )
    with store.read() as connection:
        known = connection.execute(select(func.count()).select_from(upkeep)).scalar_one()
        silent = connection.execute(select(upkeep.c.upkeep_id).where(*too_long)).first()
    if not known:
        at_work(store)
        return False
    if silent is None:
        return False
    with store.write() as connection:
        return bool(connection.execute(update(upkeep).where(*too_long).values(told_machine=machine_now())).rowcount)
