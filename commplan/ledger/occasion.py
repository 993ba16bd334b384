"""The times a plan is scheduled for: of several that are late, only the newest is carried out.

Never ends a run that has begun to send.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from commplan.ids import RunId
from commplan.ledger.ending import cancel_waiting, release_enrolments
from commplan.ledger.run import set_state
from commplan.store import Store
from commplan.terms import Reason, RunState


@dataclass(frozen=True, slots=True, kw_only=True)
class Occasion:
    """One time that the timetable of a deployment named; machine time."""

    flow_run_id: str
    scheduled: datetime
    called_off: bool = False  #: a person has cancelled it


def newer_due(mine: Occasion, others: Iterable[Occasion], *, now: datetime) -> Occasion | None:
    """Return the newest occasion that is due by now and later than mine, if any; None: mine is the one to carry out."""
    due = [other for other in others if not other.called_off and mine.scheduled < other.scheduled <= now]
    return max(due, key=lambda other: other.scheduled, default=None)


def supersede(store: Store, run_id: RunId, *, by: str) -> bool:
    """End a run that has sent nothing because a newer occurrence of its plan is due; tell whether it was so.

    `by` names the newer occurrence. The people of the run are released for later runs of the plan.
    """
    reason = f"{by} was due before this began"
    if not set_state(store, run_id, RunState.SUPERSEDED, only_from=(RunState.FROZEN,), reason=reason):
        return False
    cancel_waiting(store, run_id, Reason.RUN_ENDED)
    with store.write() as connection:
        release_enrolments(connection, run_id)
    return True
