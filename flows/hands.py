"""Hands: flow runs of the deployment `dispatch`, by which other machines help a campaign to send a step.

Nothing depends on them. One that dies, is late or never starts loses nothing and repeats nothing: the ledger knows what
is left, and the campaign sends it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from prefect import get_client, get_run_logger
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterName,
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import StateType
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled

from commplan.campaign import Campaign

#: The deployment that other machines serve, and its flow.
_DEPLOYMENT = _FLOW = "dispatch"
_NOT_BEGUN = (StateType.SCHEDULED,)
_NOT_ENDED = (StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING)


@contextmanager
def lent(running: Campaign, step_no: int) -> Iterator[None]:
    """Have other machines help with a step while the block lasts; who has not begun by its end is called off."""
    hands = running.hands(step_no)
    if hands:
        _call(running, step_no, hands)
    try:
        yield
    finally:
        if hands:
            _call_off(running, _NOT_BEGUN, "what was due is sent")


def let_go(running: Campaign) -> None:
    """End the hands of a run that has nothing left to send: what Prefect still shows at work has died unnoticed."""
    if running.settings.machines > 1:
        _call_off(running, _NOT_ENDED, "the run has nothing left to send")


def _call(running: Campaign, step_no: int, hands: int) -> None:
    key, step = running.run.run_key, running.plan.sequence[step_no - 1]
    marked = " · SANDBOX" if running.store.is_sandbox else ""
    try:
        for number in range(1, hands + 1):
            run_deployment(
                f"{_FLOW}/{_DEPLOYMENT}",
                parameters={"run_key": key, "step": step_no},
                flow_run_name=f"{key} · {step.step} · {step.channel} · hand {number} of {hands}{marked}",
                tags=[key],
                timeout=0,
            )
    except ObjectNotFound:
        get_run_logger().warning(
            "%s is sent from this machine only: this Prefect server has no deployment %s; "
            "make it by python -m flows.deployment",
            step.step,
            _DEPLOYMENT,
        )
    except httpx.HTTPError:
        get_run_logger().warning("%s is sent without more hands: the Prefect server does not answer", step.step)


def _call_off(running: Campaign, states: tuple[StateType, ...], why: str) -> None:
    try:
        with get_client(sync_client=True) as client:
            found = client.read_flow_runs(
                flow_filter=FlowFilter(name=FlowFilterName(any_=[_FLOW])),
                deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=[_DEPLOYMENT])),
                flow_run_filter=FlowRunFilter(
                    tags=FlowRunFilterTags(all_=[running.run.run_key]),
                    state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(states))),
                ),
            )
            for hand in found:
                client.set_flow_run_state(hand.id, Cancelled(name="NotNeeded", message=why))
    except (httpx.HTTPError, ObjectNotFound):
        get_run_logger().warning("hands that have not begun are left: they will find nothing to do")
