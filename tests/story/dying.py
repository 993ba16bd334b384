"""A flow that starts its run and then always dies."""

from __future__ import annotations

import os
import signal
from datetime import UTC, datetime
from pathlib import Path

from prefect import flow
from prefect.runtime import deployment, flow_run

from commplan import campaign
from commplan.settings import load_settings
from commplan.store import open_store


@flow
def dying(plan: str) -> None:
    """Start or join the occurrence ``first`` of a plan, and be killed."""
    settings = load_settings()
    campaign.start(
        open_store(settings),
        settings,
        path=Path(plan),
        occurrence="first",
        scheduled=datetime.now(UTC),
        flow_run_id=str(flow_run.id),
        deployment_id=deployment.id,
    )
    os.kill(os.getpid(), signal.SIGKILL)
