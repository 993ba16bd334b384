"""Runs: one occurrence of a plan each, with its own frozen files, audience and state.

Whoever starts the same occurrence again joins the run that exists; nothing here ever makes a second one.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, time

from sqlalchemy import Connection, Row, and_, bindparam, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from commplan import planfile
from commplan.clock import Clock
from commplan.errors import RunError
from commplan.ids import RunId
from commplan.plan import Plan
from commplan.store import Store
from commplan.store.tables import (
    audit,
    bundles,
    flow_runs,
    recipients,
    runs,
)
from commplan.store.types import machine_now
from commplan.terms import RunState

#: The name under which a bundle keeps the plan file.
PLAN_FILE = "plan.yaml"
#: A run in one of these has work left and nobody who holds it up.
UNDER_WAY = (RunState.FROZEN, RunState.READY, RunState.EXECUTING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run as the ledger has it."""

    run_id: RunId
    run_key: str
    plan: str
    occurrence: str
    digest: str
    state: RunState
    reason: str | None
    people: str
    since: datetime | None
    snapshot_at: datetime | None
    created_at: datetime
    first_accepted_at: datetime | None
    finished_at: datetime | None
    placeholder: str
    starts: int
    allow_list_only: bool
    clock: str


def run_key(plan: str, occurrence: str) -> str:
    """Return the name of a run for people: ``plan@occurrence``."""
    return f"{plan}@{occurrence}"


def start_run(
    store: Store,
    *,
    plan: Plan,
    occurrence: str,
    files: Mapping[str, str],
    flow_run_id: str | None = None,
    deployment_id: str | None = None,
) -> Run:
    """Start an occurrence of a plan, or join the run that exists.

    The first start freezes `files` (the plan and every template it uses) under their digest; whoever joins later
    gets what was frozen then, whatever the files say now. A flow run of a deployment is noted as one that can be
    brought back. One transaction.
    """
    digest = planfile.digest(files)
    now = store.clock.now()
    with store.write() as connection:
        upsert = sqlite.insert if store.is_sqlite else postgresql.insert
        connection.execute(
            upsert(bundles)
            .values(digest=digest, files=json.dumps(dict(files), sort_keys=True, ensure_ascii=False))
            .on_conflict_do_nothing()
        )
        made = connection.execute(
            upsert(runs)
            .values(
                run_key=run_key(plan.plan, occurrence),
                plan=plan.plan,
                occurrence=occurrence,
                digest=digest,
                state=RunState.FROZEN,
                people=plan.audience.people,
                created_at=now,
                clock=_clock_text(store.clock),
                placeholder=f"cp-{secrets.token_hex(5)}-",
            )
            .on_conflict_do_nothing()
            .returning(runs.c.run_id)
        ).first()
        row = connection.execute(
            select(runs).where(runs.c.plan == plan.plan, runs.c.occurrence == occurrence).with_for_update()
        ).one()
        require_clock(store, _as_run(row))
        connection.execute(
            update(runs)
            .where(runs.c.run_id == row.run_id)
            .values(starts=1, started_machine=machine_now(), alive_machine=machine_now())
        )
        if flow_run_id is not None:
            connection.execute(
                upsert(flow_runs)
                .values(
                    flow_run_id=flow_run_id,
                    run_id=row.run_id,
                    deployment_id=deployment_id,
                    joined_machine=machine_now(),
                )
                .on_conflict_do_nothing()
            )
        record(connection, row.run_id, now, "started" if made else "joined", {})
    return _as_run(row)


def require_clock(store: Store, run: Run) -> None:
    """Refuse a run that was started on another plan time than the store's. RunError."""
    if run.clock != _clock_text(store.clock):
        raise RunError(
            f"{run.run_key} was started on another plan time; continue it with the clock settings it was started "
            "with, or use another run key"
        )


def _clock_text(clock: Clock) -> str:
    return json.dumps({"origin": clock.origin.isoformat(), "anchor": clock.anchor, "factor": clock.factor})


def _as_run(row: Row[tuple[object, ...]]) -> Run:
    known = {name: getattr(row, name) for name in Run.__dataclass_fields__}
    return Run(**{**known, "state": RunState(known["state"])})


def is_started(store: Store, *, plan: str, occurrence: str) -> bool:
    """Tell whether an occurrence of a plan was started before."""
    with store.read() as connection:
        known = select(runs.c.run_id).where(runs.c.plan == plan, runs.c.occurrence == occurrence)
        return connection.execute(known).first() is not None


def find_run(store: Store, key: str) -> Run:
    """Return the run of a key; RunError lists the newest keys when there is none."""
    with store.read() as connection:
        row = connection.execute(select(runs).where(runs.c.run_key == key)).one_or_none()
        if row is not None:
            return _as_run(row)
        newest = connection.execute(select(runs.c.run_key).order_by(runs.c.run_id.desc()).limit(5)).scalars().all()
    raise RunError(
        f"there is no run {key!r}; " + (f"the newest are {', '.join(newest)}" if newest else "none was started")
    )


def find_by_flow_run(store: Store, flow_run_id: str) -> Run | None:
    """Return the run that a flow run has started or joined, if any."""
    with store.read() as connection:
        row = connection.execute(
            select(runs)
            .join(flow_runs, flow_runs.c.run_id == runs.c.run_id)
            .where(flow_runs.c.flow_run_id == flow_run_id)
        ).one_or_none()
    return None if row is None else _as_run(row)


def load_run(store: Store, run_id: RunId) -> Run:
    """Return the run of an id that came from the ledger."""
    with store.read() as connection:
        return _as_run(connection.execute(select(runs).where(runs.c.run_id == run_id)).one())


def list_runs(store: Store, *, limit: int = 20) -> list[Run]:
    """Return the newest runs, newest first."""
    with store.read() as connection:
        return [_as_run(row) for row in connection.execute(select(runs).order_by(runs.c.run_id.desc()).limit(limit))]


def frozen_files(connection: Connection, run_id: RunId) -> dict[str, str]:
    """Return the files that a run was started with."""
    text = connection.execute(
        select(bundles.c.files).join(runs, runs.c.digest == bundles.c.digest).where(runs.c.run_id == run_id)
    ).scalar_one()
    return dict(json.loads(text))


_PLAN_OF_RUN: dict[tuple[str, RunId], Plan] = {}
_DIGEST = select(runs.c.digest).where(runs.c.run_id == bindparam("of_run"))


def plan_of(connection: Connection, run_id: RunId) -> Plan:
    """Return the plan that a run was started with, from its frozen files."""
    digest = connection.execute(_DIGEST, {"of_run": run_id}).scalar_one()
    known = _PLAN_OF_RUN.get((digest, run_id))
    if known is None:
        known = planfile.parse_plan(frozen_files(connection, run_id)[PLAN_FILE], PLAN_FILE)
        _PLAN_OF_RUN[digest, run_id] = known
    return known


def begin(store: Store, run_id: RunId, *, allow_list_only: bool) -> None:
    """Let a planned run begin to send; note whether it was planned for the allow list only. Own transaction.

    RunError when the planning was given up in the meantime: it has to be done again.
    """
    planned = and_(runs.c.planner.is_not(None), runs.c.audience_size.is_not(None))
    with store.write() as connection:
        begun = connection.execute(
            update(runs)
            .where(runs.c.run_id == run_id, runs.c.state == RunState.FROZEN, planned)
            .values(state=RunState.EXECUTING, allow_list_only=allow_list_only)
        ).rowcount
        if not begun:
            raise RunError("the planning of this run was given up; start the same run again")
        record(connection, run_id, store.clock.now(), RunState.EXECUTING.value, {})


def set_state(
    store: Store, run_id: RunId, to: RunState, *, only_from: tuple[RunState, ...], reason: str | None = None
) -> bool:
    """Move a run to another state if it is in one of `only_from`; tell whether it was. Own transaction."""
    now = store.clock.now()
    changes: dict[str, object] = {"state": to, "reason": reason}
    if to in (RunState.FINISHED, RunState.SUPERSEDED):
        changes["finished_at"] = now
    with store.write() as connection:
        moved = connection.execute(
            update(runs).where(runs.c.run_id == run_id, runs.c.state.in_(only_from)).values(**changes)
        ).rowcount
        if moved:
            record(connection, run_id, now, to.value, {"reason": reason} if reason else {})
    return bool(moved)


def ranges(store: Store, run_id: RunId, *, size: int = 10_000) -> list[tuple[int, int]]:
    """Return the run's recipients as ranges of positions, so that no transaction has to span them all."""
    with store.read() as connection:
        last = connection.execute(
            select(func.max(recipients.c.seq)).where(recipients.c.run_id == run_id)
        ).scalar_one_or_none()
    return [(first, first + size - 1) for first in range(1, (last or 0) + 1, size)]


def since_of(connection: Connection, plan: Plan, run_id: RunId) -> datetime | None:
    """Return what ``:since`` means for a run: the last executed snapshot of the plan, less the overlap.

    A cancelled run gave people back, so its snapshot does not count: they are found again.
    The first run of a plan starts at ``audience.start``, midnight in the plan's zone; None when that is not set.
    """
    last = connection.execute(
        select(func.max(runs.c.snapshot_at)).where(
            runs.c.plan == plan.plan,
            runs.c.run_id != run_id,
            runs.c.first_accepted_at.is_not(None),
            runs.c.state != RunState.CANCELLED,
        )
    ).scalar_one()
    if last is not None:
        newest: datetime = last
        return newest - plan.audience.overlap
    if plan.audience.start is None:
        return None
    return datetime.combine(plan.audience.start, time(), plan.zone)


def record(connection: Connection, run_id: RunId | None, at: datetime, what: str, detail: Mapping[str, object]) -> None:
    """Write one line of the audit: ids and counts only. In the caller's transaction."""
    connection.execute(insert(audit).values(run_id=run_id, at=at, what=what, detail=json.dumps(detail, sort_keys=True)))


def beat(store: Store, run_id: RunId) -> RunState:
    """Note that a process is working on the run, and return the run's state. Own transaction."""
    with store.write() as connection:
        connection.execute(update(runs).where(runs.c.run_id == run_id).values(alive_machine=machine_now()))
        return RunState(connection.execute(select(runs.c.state).where(runs.c.run_id == run_id)).scalar_one())
