"""Standing still and going on: a run that a person pauses or that holds itself, and the stop of everything.

Only the ledger is told: claims and last looks read it, so nothing here asks Prefect or a sender to do anything.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, bindparam, case, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from commplan.errors import RunError
from commplan.ids import RunId
from commplan.ledger.run import UNDER_WAY, record
from commplan.store import Store
from commplan.store.tables import audit, country_halts, runs, stops
from commplan.store.types import machine_now
from commplan.terms import ENDED, RunState

#: States that a person takes a run out of.
_WAITING = (RunState.PAUSED, RunState.HELD)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standstill:
    """Why a run sends nothing for now: `what` stands still since when, who said so if anybody did, and the remedy."""

    what: str
    since: datetime
    by: str | None
    reason: str | None
    remedy: str

    def __str__(self) -> str:
        who = f" by {self.by}" if self.by else ""
        why = f": {self.reason}" if self.reason else ""
        return f"{self.what} since {self.since:%Y-%m-%d %H:%M} UTC{who}{why}; {self.remedy}"


_SENDING = select(runs.c.state, select(stops.c.stop_id).exists().label("stopped")).where(
    runs.c.run_id == bindparam("of_run")
)


def sending_state(connection: Connection, run_id: RunId) -> RunState:
    """Return a run's state as claims and last looks take it: paused while everything is stopped."""
    row = connection.execute(_SENDING, {"of_run": run_id}).one()
    state = RunState(row.state)
    return RunState.PAUSED if row.stopped and state is RunState.EXECUTING else state


def standstill(connection: Connection, run_id: RunId) -> Standstill | None:
    """Return why a run that has begun stands still until a person acts; None if it does not, or is over."""
    run = connection.execute(select(runs).where(runs.c.run_id == run_id)).one()
    if run.state in _WAITING:
        said = connection.execute(
            select(audit)
            .where(audit.c.run_id == run_id, audit.c.what == run.state)
            .order_by(audit.c.audit_id.desc())
            .limit(1)
        ).one_or_none()
        detail = {} if said is None else json.loads(said.detail)
        return Standstill(
            what=f"{run.run_key} is {run.state}",
            since=run.created_at if said is None else said.at,
            by=detail.get("by"),
            reason=run.reason if run.state == RunState.HELD else detail.get("reason"),
            remedy=f"commplan resume {run.run_key}",
        )
    return None if run.state in ENDED else stop_in_force(connection)


def pause(store: Store, run_id: RunId, *, by: str, reason: str | None = None) -> bool:
    """Pause a run that executes; tell whether it was not paused before. Own transaction.

    Claims end at once; what a sender has claimed goes back to the queue at its last look. Time goes on: what is not
    sent by its `not_after` expires. RunError for a run that has not begun, is held, or is over.
    """
    with store.write() as connection:
        if not _move(connection, run_id, (RunState.EXECUTING,), RunState.PAUSED):
            run = connection.execute(select(runs.c.run_key, runs.c.state).where(runs.c.run_id == run_id)).one()
            if run.state == RunState.PAUSED:
                return False
            raise RunError(f"{run.run_key} is {run.state}; only a run that is executing can be paused")
        record(connection, run_id, store.clock.now(), "paused", _said(by, reason))
    return True


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


def resume(store: Store, run_id: RunId, *, by: str | None = None, reason: str | None = None) -> None:
    """Let a paused or held run go on where it is, to every country; refusals and starts of before count no more.

    What carries it on is its process, if it has one that is alive, or the reviver. Own transaction. RunError for a run
    that nothing keeps back.
    """
    with store.write() as connection:
        went = connection.execute(
            update(runs)
            .where(runs.c.run_id == run_id, runs.c.state.in_(_WAITING))
            .values(
                state=case((runs.c.planner.is_(None), RunState.FROZEN), else_=RunState.EXECUTING),
                reason=None,
                starts=0,
                started_machine=machine_now(),
                alive_machine=None,
            )
        ).rowcount
        run = connection.execute(select(runs.c.run_key, runs.c.state).where(runs.c.run_id == run_id)).one()
        lifted: Sequence[str] = ()
        if run.state == RunState.EXECUTING:
            halts = delete(country_halts).where(country_halts.c.run_id == run_id)
            lifted = connection.execute(halts.returning(country_halts.c.country)).scalars().all()
        if not went and not lifted:
            raise RunError(f"{run.run_key} is {run.state}, and nothing keeps it back; there is nothing to resume")
        connection.execute(update(runs).where(runs.c.run_id == run_id).values(resumed_machine=machine_now()))
        countries = {"countries": sorted(lifted)} if lifted else {}
        record(connection, run_id, store.clock.now(), "resumed", {**_said(by, reason), **countries})


def stop_all(store: Store, *, by: str, reason: str | None = None) -> bool:
    """Stop all sending of every run, now and later, until it is lifted; tell whether it was not stopped before."""
    with store.write() as connection:
        new = connection.execute(
            (sqlite.insert if store.is_sqlite else postgresql.insert)(stops)
            .values(stop_id=1, at=store.clock.now(), by=by, reason=reason)
            .on_conflict_do_nothing()
            .returning(stops.c.stop_id)
        ).first()
        if new is None:
            return False
        record(connection, None, store.clock.now(), "stopped", _said(by, reason))
    return True


def lift_stop(store: Store, *, by: str, reason: str | None = None) -> bool:
    """Lift the stop of everything; tell whether there was one. Paused and held runs stay as they are."""
    with store.write() as connection:
        if not connection.execute(delete(stops)).rowcount:
            return False
        record(connection, None, store.clock.now(), "stop lifted", _said(by, reason))
    return True


def stop_in_force(connection: Connection) -> Standstill | None:
    """Return the stop of everything, if there is one."""
    row = connection.execute(select(stops)).one_or_none()
    if row is None:
        return None
    return Standstill(
        what="everything is stopped", since=row.at, by=row.by, reason=row.reason, remedy="commplan stop --lift"
    )


def _move(connection: Connection, run_id: RunId, come_from: tuple[RunState, ...], to: RunState) -> bool:
    moved = connection.execute(
        update(runs).where(runs.c.run_id == run_id, runs.c.state.in_(come_from)).values(state=to, reason=None)
    )
    return bool(moved.rowcount)


def _said(by: str | None, reason: str | None) -> dict[str, object]:
    return {name: text for name, text in (("by", by), ("reason", reason)) if text}
