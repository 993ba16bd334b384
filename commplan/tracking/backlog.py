"""What of the posts that were kept waits to be applied, and for how long.

Never writes.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import case, func, select

from commplan.store import Store
from commplan.store.tables import inbox


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """Posts that wait, of them those `aside` because they could not be applied so far, and the age of the oldest that
    is not, in machine seconds.
    """

    waiting: int
    aside: int
    seconds: float


def backlog(store: Store) -> Backlog:
    """Return what waits at this moment."""
    is_aside = inbox.c.failures > 0
    with store.read() as connection:
        row = connection.execute(
            select(
                func.count().label("waiting"),
                func.count(case((is_aside, 1))).label("aside"),
                func.min(case((~is_aside, inbox.c.received_at)), type_=inbox.c.received_at.type).label("oldest"),
            ).where(inbox.c.applied_at.is_(None))
        ).one()
    now = store.clock.now()
    age = 0.0 if row.oldest is None else max(0.0, (now - row.oldest).total_seconds() / store.clock.factor)
    return Backlog(waiting=row.waiting, aside=row.aside, seconds=age)
