"""Waiting for a moment of plan time, without holding a process for long.

A short wait sleeps. A long one gives the run back to the scheduler, which starts the same flow run again then.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

from prefect import get_client
from prefect.client.schemas import OrchestrationResult
from prefect.context import FlowRunContext
from prefect.exceptions import Pause
from prefect.states import Scheduled

from commplan.clock import Clock

#: Machine seconds that a process may be held by a wait.
LONGEST_SLEEP = 60.0


def wait_until(clock: Clock, moment: datetime, *, tell: Callable[[str], None]) -> None:
    """Return when plan time has reached `moment`; in the flow's body only.

    Raises Prefect's Pause, for the engine, when the wait is long and a worker can bring the run back: everything
    before this call is then done again from the top and must find its work done. A run in the foreground has no
    worker and sleeps, however long.
    """
    left = clock.seconds_until(moment)
    if left <= 0:
        return
    tell(f"waiting until {moment:%Y-%m-%d %H:%M} UTC")
    context = FlowRunContext.get()
    deployed = context is not None and context.flow_run is not None and context.flow_run.deployment_id is not None
    if left > LONGEST_SLEEP and deployed and context is not None and context.flow_run is not None:
        due = datetime.fromtimestamp(clock.machine(moment), UTC)
        with get_client(sync_client=True) as client:
            answer: OrchestrationResult[object] = client.set_flow_run_state(
                context.flow_run.id, Scheduled(scheduled_time=due, name="Waiting"), force=True
            )
        raise Pause(state=answer.state)
    while (left := clock.seconds_until(moment)) > 0:
        time.sleep(min(left, LONGEST_SLEEP))
