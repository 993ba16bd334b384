"""Opening: the door to a campaign. A run is started, or one that exists is joined."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from commplan import bundle
from commplan.campaign.judging import Judging
from commplan.campaign.listening import Listening
from commplan.campaign.occurrence import occurrence_at, require_occurrence
from commplan.campaign.planning import Planning
from commplan.campaign.sending import Sending
from commplan.errors import InputError
from commplan.ledger import run as ledger_run
from commplan.ledger.standstill import resume
from commplan.settings import Settings
from commplan.store import Store
from commplan.terms import RunState


@dataclass(frozen=True)
class Campaign(Planning, Listening, Sending, Judging):
    """One run, and what this process needs to carry it on: its steps in the order in which they are taken."""


def start(
    store: Store,
    settings: Settings,
    *,
    path: Path,
    occurrence: str | None,
    scheduled: datetime,
    flow_run_id: str | None = None,
    deployment_id: str | None = None,
) -> Campaign:
    """Start an occurrence of the plan at `path`, or join it if it was started before.

    An occurrence without a name is called after the time it was `scheduled` for, in the plan's zone.
    A run that a flow run has started goes on from its frozen files, whatever the files at `path` say by now. A held
    run is taken up again, except by the flow run that it has already: that one comes back by itself, too. InputError,
    and nothing is written, when the source cannot answer what the plan asks.
    """
    require_occurrence(occurrence)
    run = ledger_run.find_by_flow_run(store, flow_run_id) if flow_run_id is not None else None
    comes_back = run is not None
    if run is None:
        plan, files = bundle.read_files(path, settings)
        bundle.require_ready(plan, settings)
        named = occurrence or occurrence_at(plan, scheduled)
        if not ledger_run.is_started(store, plan=plan.plan, occurrence=named):
            bundle.require_feed(path, plan, files, settings)
            bundle.require_source(path, plan, files, settings)
        run = ledger_run.start_run(
            store,
            plan=plan,
            occurrence=named,
            files=files,
            flow_run_id=flow_run_id,
            deployment_id=deployment_id,
        )
    if run.state is RunState.HELD and not comes_back:
        resume(store, run.run_id, reason="the same run was started again")
        run = ledger_run.load_run(store, run.run_id)
    campaign = Campaign(store, settings, run)
    campaign.require_fence()
    return campaign


def join(store: Store, settings: Settings, *, key: str, step_no: int) -> Campaign:
    """Return a run that was started elsewhere, for a process that helps to send one of its steps.

    RunError when there is no such run, or it is on another plan time; InputError when it has no such step.
    """
    run = ledger_run.find_run(store, key)
    ledger_run.require_clock(store, run)
    campaign = Campaign(store, settings, run)
    steps = len(campaign.plan.sequence)
    if not 1 <= step_no <= steps:
        raise InputError.one("step", f"{key} has no step {step_no}", f"write a number from 1 to {steps}")
    return campaign
