"""What Prefect says of flow runs, in commplan's words; and the one place that starts one of them again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound
from prefect.states import Scheduled

from commplan.ledger.occasion import Occasion, newer_due
from commplan.ledger.revival import FlowState, Sighting

#: Why a flow run that wrote nothing down may never come back, and for how long it is worth starting again.
_ASTRAY = (StateType.CRASHED, StateType.PENDING, StateType.RUNNING)
_REMEMBERED = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class PrefectOrchestrator:
    """The Prefect server behind a client."""

    client: SyncPrefectClient

    def look(self, flow_runs: Sequence[tuple[str, str]]) -> list[Sighting]:
        """Return how these flow runs stand, given as (flow run, deployment), in the same order."""
        return [self._look(flow_run, deployment) for flow_run, deployment in flow_runs]

    def _look(self, flow_run_id: str, deployment_id: str) -> Sighting:
        try:
            return _sighting(self.client.read_flow_run(UUID(flow_run_id)))
        except ObjectNotFound:
            pass
        try:
            self.client.read_deployment(UUID(deployment_id))
        except ObjectNotFound:
            return Sighting(flow_run_id=flow_run_id, state=FlowState.FOREIGN)
        return Sighting(flow_run_id=flow_run_id, state=FlowState.DELETED)

    def strays(self, *, silence: timedelta, most_starts: int) -> list[Sighting]:
        """Return the campaigns' flow runs of the last day that died, or are on their way for longer than `silence`.

        Those that were started `most_starts` times are left out.
        """
        now = datetime.now(UTC)
        found = self.client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=["campaign"])),
            flow_run_filter=FlowRunFilter(
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(_ASTRAY))),
                expected_start_time=FlowRunFilterExpectedStartTime(after_=now - _REMEMBERED, before_=now),
            ),
            sort=FlowRunSort.EXPECTED_START_TIME_DESC,
        )
        return [
            _sighting(run)
            for run in found
            if run.deployment_id is not None
            and run.run_count < most_starts
            and run.state is not None
            and now - run.state.timestamp > silence
        ]

    def start_again(self, seen: Sighting) -> bool:
        """Schedule a flow run for now if it is still as it was seen; tell whether it was."""
        try:
            now = _sighting(self.client.read_flow_run(UUID(seen.flow_run_id)))
        except ObjectNotFound:
            return False
        if now != seen:
            return False
        self.client.set_flow_run_state(UUID(seen.flow_run_id), Scheduled(name="Revived"), force=True)
        return True


def _sighting(run: FlowRun) -> Sighting:
    # A flow run without a state is one that the server is about to schedule.
    state = FlowState.SCHEDULED if run.state is None else FlowState(run.state.type.value)
    since = 0.0 if run.state is None else run.state.timestamp.timestamp()
    return Sighting(flow_run_id=str(run.id), state=state, since=since)


def newer_occasion() -> Occasion | None:
    """Return the newest occasion of this flow run's deployment that is due, if this one was scheduled and is older.

    None for a flow run that a person has started.
    """
    context = FlowRunContext.get()
    mine = None if context is None else context.flow_run
    if mine is None or mine.deployment_id is None or not mine.auto_scheduled or mine.expected_start_time is None:
        return None
    now = datetime.now(UTC)
    with get_client(sync_client=True) as client:
        later = client.read_flow_runs(
            deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[mine.deployment_id])),
            flow_run_filter=FlowRunFilter(
                expected_start_time=FlowRunFilterExpectedStartTime(after_=mine.expected_start_time, before_=now)
            ),
            sort=FlowRunSort.EXPECTED_START_TIME_DESC,
        )
    return newer_due(_occasion(mine), [_occasion(run) for run in later if run.auto_scheduled], now=now)


def _occasion(run: FlowRun) -> Occasion:
    called_off = run.state is not None and run.state.type in (StateType.CANCELLING, StateType.CANCELLED)
    scheduled = run.expected_start_time or datetime.max.replace(tzinfo=UTC)
    return Occasion(flow_run_id=str(run.id), scheduled=scheduled, called_off=called_off)
