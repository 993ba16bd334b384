"""Runs that fell silent: which they are, what is to be done with each, and how often they were brought back.

Decides by what the orchestrator says of a run and by what the ledger knows; never asks the orchestrator itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from sqlalchemy import ColumnElement, and_, func, select, update

from commplan.ids import RunId
from commplan.ledger.run import UNDER_WAY, record
from commplan.store import Store
from commplan.store.tables import batches, flow_runs, runs
from commplan.store.types import machine_now

#: A process at work on a run says so every ten seconds; silent for this long, it is taken for gone.
SILENCE = timedelta(seconds=90)
#: So often a run is started without closing a single batch, before it is held as a crash loop.
MOST_STARTS = 5


class FlowState(StrEnum):
    """What the orchestrator says of a flow run: its own words, and two for a flow run that it does not know."""

    SCHEDULED = "SCHEDULED"
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    CRASHED = "CRASHED"
    PAUSED = "PAUSED"
    CANCELLING = "CANCELLING"
    DELETED = "DELETED"  #: its deployment is there, the flow run is not
    FOREIGN = "FOREIGN"  #: neither is there: this is not the server that started it


#: It will be carried on without us: the orchestrator has it in hand, or waits for a person.
_IN_HAND = frozenset({FlowState.SCHEDULED, FlowState.PAUSED})
_ON_ITS_WAY = frozenset({FlowState.PENDING, FlowState.RUNNING})
_STOPPED = frozenset({FlowState.CANCELLING, FlowState.CANCELLED, FlowState.DELETED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """A flow run as the orchestrator has it: its state, and since when (machine seconds since the epoch)."""

    flow_run_id: str
    state: FlowState
    since: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Silent:
    """A run that has work left and whose process has not been heard of.

    `flow_runs`: the flow runs that carry it, each with its deployment, the newest first. `starts`: how often it was
    started since a sender last closed a batch of it. `started`: when last, in machine seconds. `now`: the database's
    time of the look.
    """

    run_id: RunId
    run_key: str
    starts: int
    started: float
    now: float
    flow_runs: tuple[tuple[str, str], ...]


class Verdict(StrEnum):
    """What is to be done with a silent run."""

    LEAVE = "leave"
    REVIVE = "revive"
    CANCEL = "cancel"  #: for ever: a person has stopped it
    HOLD = "hold"  #: until a person acts


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A verdict, and why the run is held if it is. What is revived is the newest flow run."""

    verdict: Verdict
    reason: str = ""


def decide(run: Silent, seen: Sequence[Sighting], *, silence: timedelta = SILENCE) -> Decision:
    """Decide about a silent run by its flow runs, the newest first.

    Left alone while any of them is scheduled or suspended, or has been on its way for less than `silence`: a run that
    wakes up after days is silent until its process has started. Otherwise the newest tells.
    """
    if not seen or any(_is_in_hand(one, now=run.now, silence=silence) for one in seen):
        return Decision(verdict=Verdict.LEAVE)
    newest = seen[0]
    if newest.state is FlowState.FOREIGN:
        return Decision(verdict=Verdict.LEAVE)
    if newest.state in _STOPPED:
        return Decision(verdict=Verdict.CANCEL)
    if newest.state is FlowState.FAILED and newest.since >= run.started:
        return Decision(
            verdict=Verdict.HOLD,
            reason="its flow run failed; read why in Prefect, mend that and start the same run again",
        )
    if run.starts >= MOST_STARTS:
        return Decision(
            verdict=Verdict.HOLD,
            reason=f"crash loop: started {run.starts} times without sending a batch; "
            "read the flow run's log in Prefect, mend that and start the same run again",
        )
    return Decision(verdict=Verdict.REVIVE)


def _is_in_hand(one: Sighting, *, now: float, silence: timedelta) -> bool:
    return one.state in _IN_HAND or (one.state in _ON_ITS_WAY and now - one.since < silence.total_seconds())


def silent_runs(store: Store, *, silence: timedelta = SILENCE) -> list[Silent]:
    """Return the runs that have work left, are carried by a deployment, and are silent for so long; the oldest first.

    A batch that was given up when its lease ended is not one that a sender closed.
    """
    progress = (
        select(batches.c.batch_id)
        .where(
            batches.c.run_id == runs.c.run_id,
            batches.c.closed_machine > runs.c.started_machine,
            batches.c.closed_machine <= batches.c.lease_machine,
        )
        .correlate(runs)
        .exists()
    )
    with store.read() as connection:
        found = connection.execute(
            select(
                runs.c.run_id,
                runs.c.run_key,
                runs.c.starts,
                func.coalesce(runs.c.started_machine, 0.0).label("started"),
                progress.label("progress"),
                machine_now().label("now"),
                flow_runs.c.flow_run_id,
                flow_runs.c.deployment_id,
            )
            .join(flow_runs, and_(flow_runs.c.run_id == runs.c.run_id, flow_runs.c.deployment_id.is_not(None)))
            .where(runs.c.state.in_(UNDER_WAY), _is_silent(silence))
            .order_by(runs.c.run_id, flow_runs.c.joined_machine.desc())
        ).all()
    silent: dict[RunId, Silent] = {}
    for row in found:
        known = silent.get(row.run_id)
        silent[row.run_id] = Silent(
            run_id=row.run_id,
            run_key=row.run_key,
            starts=0 if row.progress else row.starts,
            started=row.started,
            now=row.now,
            flow_runs=(*(known.flow_runs if known else ()), (row.flow_run_id, row.deployment_id)),
        )
    return list(silent.values())


def unknown_to_ledger(store: Store, seen: Sequence[Sighting]) -> list[Sighting]:
    """Return those flow runs that carry no run of the ledger."""
    with store.read() as connection:
        known = set(
            connection.execute(
                select(flow_runs.c.flow_run_id).where(flow_runs.c.flow_run_id.in_([one.flow_run_id for one in seen]))
            ).scalars()
        )
    return [one for one in seen if one.flow_run_id not in known]


def take_up(store: Store, run_id: RunId, *, silence: timedelta = SILENCE) -> bool:
    """Take a silent run up before it is started again, so that nobody else does; tell whether it is ours.

    It has as long again to be heard of. Own transaction.
    """
    with store.write() as connection:
        return bool(
            connection.execute(
                update(runs)
                .where(runs.c.run_id == run_id, runs.c.state.in_(UNDER_WAY), _is_silent(silence))
                .values(alive_machine=machine_now())
            ).rowcount
        )


def count_start(store: Store, run: Silent) -> None:
    """Note that a silent run was started again. Own transaction."""
    with store.write() as connection:
        connection.execute(
            update(runs).where(runs.c.run_id == run.run_id).values(starts=run.starts + 1, started_machine=machine_now())
        )
        record(connection, run.run_id, store.clock.now(), "revived", {"starts": run.starts + 1})


def _is_silent(silence: timedelta) -> ColumnElement[bool]:
    return func.coalesce(runs.c.alive_machine, 0.0) < machine_now() - silence.total_seconds()
