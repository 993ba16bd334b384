"""Where the counted links of our texts lead: to what stood in the message as it was frozen, and nowhere else."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import select

from commplan.ids import LinkRef
from commplan.ledger.reaction import SOONEST_CLICK
from commplan.store import Store
from commplan.store.tables import attempts, message_values, messages, runs, skeletons, values_of

#: So long after the end of its run a link leads on; then it may be forgotten.
LASTS = timedelta(days=365)


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Where a link leads, what its template calls it, and when its text was sent; `is_over`: it leads on no more."""

    name: str
    target: str = field(repr=False)
    wire_at: datetime | None
    is_over: bool

    def is_too_soon(self, now: datetime) -> bool:
        """Tell whether the text left sooner before `now` than anybody could have read it."""
        return self.wire_at is not None and now < self.wire_at + SOONEST_CLICK


def destination(store: Store, ref: LinkRef) -> Destination | None:
    """Return where a link leads, None if there is no such link in its message."""
    of = ref.message
    with store.read() as connection:
        row = connection.execute(
            select(skeletons.c.links, message_values.c.targets, runs.c.finished_at, attempts.c.wire_at)
            .select_from(messages)
            .join(message_values, values_of(messages))
            .join(
                skeletons,
                (skeletons.c.run_id == messages.c.run_id) & (skeletons.c.skeleton_no == messages.c.skeleton_no),
            )
            .join(runs, runs.c.run_id == messages.c.run_id)
            .outerjoin(attempts, attempts.c.attempt_id == messages.c.attempt_id)
            .where(
                messages.c.run_id == of.run_id,
                messages.c.step_no == of.step_no,
                messages.c.seq == of.seq,
                message_values.c.targets.is_not(None),
            )
        ).one_or_none()
    if row is None:
        return None
    names, targets = json.loads(row.links or "[]"), json.loads(row.targets)
    if ref.number >= min(len(names), len(targets)):
        return None
    is_over = row.finished_at is not None and store.clock.now() > row.finished_at + LASTS
    return Destination(name=names[ref.number], target=targets[ref.number], wire_at=row.wire_at, is_over=is_over)
