"""Waiting for a moment of plan time, or for a person, without holding a process for long.

A short wait sleeps. A long one gives the run back to the scheduler, which starts the same flow run again then.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import httpx
from prefect import get_client
from prefect.client.schemas import OrchestrationResult
from prefect.client.schemas.objects import StateType
from prefect.context import FlowRunContext
from prefect.exceptions import Pause
from prefect.states import Scheduled

from commplan.clock import Clock

#: Machine seconds that a process may be held by a wait.
LONGEST_SLEEP = 60.0
#: Machine seconds between two looks at whether somebody has let a run go on, while a process is held and afterwards.
LOOK, LATER_LOOK = 2.0, 300.0
#: Machine seconds until a server that did not answer is asked again.
_SERVER_PATIENCE = 5.0

_LOG = logging.getLogger("commplan.waits")


def wait_until(clock: Clock, moment: datetime, *, tell: Callable[[str], None]) -> None:
    """Return when plan time has reached `moment`; in the flow's body only.

    When the wait is long and a worker can bring the run back, it is handed back: everything before this call is then
    done again from the top and must find its work done. A run in the foreground sleeps, however long.
    """
    left = clock.seconds_until(moment)
    if left <= 0:
        return
    tell(f"waiting until {moment:%Y-%m-%d %H:%M} UTC")
    if left > LONGEST_SLEEP:
        hand_back(datetime.fromtimestamp(clock.machine(moment), UTC), name="Waiting")
    while (left := clock.seconds_until(moment)) > 0:
        time.sleep(min(left, LONGEST_SLEEP))


def wait_while(standing: Callable[[], object | None], *, tell: Callable[[str], None]) -> None:
    """Return when nothing stands in the way any more: when `standing` returns None; in the flow's body only.

    What it returns is told, once. Raises Prefect's Pause as `wait_until` does; the run is back every five minutes then.
    """
    told, began = "", time.monotonic()
    while (why := standing()) is not None:
        if str(why) != told:
            told = str(why)
            tell(told)
        if time.monotonic() - began > LONGEST_SLEEP:
            hand_back(datetime.now(UTC) + timedelta(seconds=LATER_LOOK), name="Waiting")
        time.sleep(LOOK)


def hand_back(due: datetime, *, name: str) -> None:
    """Give the run back to the scheduler until `due`, machine time; in the flow's body only.

    Where a worker can bring the run back it raises Prefect's Pause, for the engine, as soon as the server answers;
    it returns when that took until `due`. A run that a person has cancelled stays cancelled, and ends. A run in the
    foreground has no worker, and goes on at once.
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None or context.flow_run.deployment_id is None:
        return
    while datetime.now(UTC) < due:
        try:
            with get_client(sync_client=True) as client:
                # Force would undo a person's cancellation.
                found = client.read_flow_run(context.flow_run.id).state
                if found is not None and found.type in (StateType.CANCELLING, StateType.CANCELLED):
                    raise Pause(state=found)
                answer: OrchestrationResult[object] = client.set_flow_run_state(
                    context.flow_run.id, Scheduled(scheduled_time=due, name=name), force=True
                )
        except httpx.HTTPError:
            _LOG.warning("the Prefect server does not answer; the run is handed back when it does")
            time.sleep(_SERVER_PATIENCE)
            continue
        raise Pause(state=answer.state)
