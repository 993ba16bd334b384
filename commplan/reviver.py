"""The reviver: brings back the runs whose process is gone, and lets go of those that a person has stopped.

The one way back for a run. Sends nothing itself, and never starts a run that was cancelled.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from commplan import notice
from commplan.errors import InputError
from commplan.ledger import run as ledger_run
from commplan.ledger.ending import cancel_run
from commplan.ledger.revival import (
    MOST_STARTS,
    SILENCE,
    Sighting,
    Silent,
    Verdict,
    count_start,
    decide,
    silent_runs,
    take_up,
    unknown_to_ledger,
)
from commplan.ledger.standstill import hold
from commplan.store import Store

_LOG = logging.getLogger("commplan.reviver")


class Orchestrator(Protocol):
    """What starts flow runs."""

    def look(self, flow_runs: Sequence[tuple[str, str]]) -> Sequence[Sighting]:
        """Return how these flow runs stand, given as (flow run, deployment), in the same order."""

    def strays(self, *, silence: timedelta, most_starts: int) -> Sequence[Sighting]:
        """Return the flow runs of campaigns that died, or have been on their way for longer than `silence`.

        Those that were started `most_starts` times are left out.
        """

    def start_again(self, seen: Sighting) -> bool:
        """Schedule a flow run for now if it is still as it was seen; tell whether it was."""


@dataclass(slots=True, kw_only=True)
class Revival:
    """What became of the silent runs, by count."""

    revived: int = 0
    cancelled: int = 0
    held: int = 0


def revive(
    store: Store, orchestrator: Orchestrator, environ: Mapping[str, str], *, silence: timedelta = SILENCE
) -> Revival:
    """Look after every run that has been silent for so long; return what was done.

    Reads the state of a flow run before it touches it. Safe to run twice at once. No transaction is open while the
    orchestrator is asked or an owner is told.
    """
    done = Revival()
    for run in silent_runs(store, silence=silence):
        seen = orchestrator.look(run.flow_runs)
        decision = decide(run, seen, silence=silence)
        if decision.verdict is Verdict.REVIVE:
            done.revived += _start_again(store, orchestrator, run, seen[0], silence=silence)
        elif decision.verdict is Verdict.CANCEL:
            cancel_run(store, run.run_id)
            _LOG.warning("a run is cancelled: its flow run was", extra={"run": run.run_key})
            done.cancelled += 1
        elif decision.verdict is Verdict.HOLD and hold(store, run.run_id, decision.reason):
            _LOG.error("a silent run is held", extra={"run": run.run_key})
            done.held += 1
            _tell_owner(store, run, decision.reason, environ)
    for stray in unknown_to_ledger(store, orchestrator.strays(silence=silence, most_starts=MOST_STARTS)):
        # It died before it could write down which run it carries; nothing of it is in the ledger.
        done.revived += orchestrator.start_again(stray)
    return done


def _start_again(store: Store, orchestrator: Orchestrator, run: Silent, seen: Sighting, *, silence: timedelta) -> bool:
    if not take_up(store, run.run_id, silence=silence) or not orchestrator.start_again(seen):
        return False
    count_start(store, run)
    _LOG.warning("a silent run is started again", extra={"run": run.run_key, "starts": run.starts + 1})
    return True


def _tell_owner(store: Store, run: Silent, reason: str, environ: Mapping[str, str]) -> None:
    try:
        with store.read() as connection:
            plan = ledger_run.plan_of(connection, run.run_id)
    except InputError:
        # A plan of an earlier version, which this one does not read; the other runs still have their turn.
        _LOG.warning("a run's owner cannot be told: its plan is not readable", extra={"run": run.run_key})
        return
    notice.tell_owner(plan, environ, title=f"{run.run_key} is held", body=reason)
