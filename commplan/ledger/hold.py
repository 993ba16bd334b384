"""Holding a run until a person acts, and letting it go on.

A held run claims nothing; what is on the wire is closed as usual.
"""

from __future__ import annotations

from sqlalchemy import case, update

from commplan.ids import RunId
from commplan.ledger.run import UNDER_WAY, record
from commplan.store import Store
from commplan.store.tables import runs
from commplan.store.types import machine_now
from commplan.terms import RunState


def hold(store: Store, run_id: RunId, reason: str) -> bool:
    """Hold a run until a person acts; tell whether it was under way. Own transaction.

    A run that has not begun to send gives up its planning, and so the places of its people.
    """
    begun = runs.c.state != RunState.FROZEN
    with store.write() as connection:
        held = connection.execute(
            update(runs)
            .where(runs.c.run_id == run_id, runs.c.state.in_(UNDER_WAY))
            .values(
                state=RunState.HELD,
                reason=reason,
                planner=case((begun, runs.c.planner), else_=None),
                audience_size=case((begun, runs.c.audience_size), else_=None),
            )
        ).rowcount
        if held:
            record(connection, run_id, store.clock.now(), RunState.HELD.value, {"reason": reason})
    return bool(held)


def resume(store: Store, run_id: RunId) -> bool:
    """Let a held run go on where it was held, its starts counted anew; tell whether it was held. Own transaction.

    What carries it on is its process, if it has one that is alive, or the reviver.
    """
    with store.write() as connection:
        resumed = connection.execute(
            update(runs)
            .where(runs.c.run_id == run_id, runs.c.state == RunState.HELD)
            .values(
                state=case((runs.c.planner.is_(None), RunState.FROZEN), else_=RunState.EXECUTING),
                reason=None,
                starts=0,
                started_machine=machine_now(),
                alive_machine=None,
            )
        ).rowcount
        if resumed:
            record(connection, run_id, store.clock.now(), "resumed", {})
    return bool(resumed)
