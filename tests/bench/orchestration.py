"""What the orchestrator adds: a campaign as its Prefect flow, and the time of it that is none of commplan's own."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

from tests.bench.stage import stage


@dataclass(frozen=True, kw_only=True)
class Orchestrated:
    """Seconds of the flow, those of them in which none of commplan's functions was at work, and its task runs."""

    seconds: float
    outside: float
    task_runs: int

    @property
    def share(self) -> float:
        """Prefect's share of the flow's time, in percent."""
        return 100 * self.outside / self.seconds


class _Watch:
    """Notes when at least one of commplan's functions is at work, in whatever thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._at_work = 0
        self._since = 0.0
        self.busy = 0.0

    def __enter__(self) -> None:
        with self._lock:
            if not self._at_work:
                self._since = time.perf_counter()
            self._at_work += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._at_work -= 1
            if not self._at_work:
                self.busy += time.perf_counter() - self._since

    def watched(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def run(*args: Any, **more: Any) -> Any:
            with self:
                return function(*args, **more)

        return run


@contextmanager
def _watching() -> Iterator[_Watch]:
    from commplan import archive, campaign

    watch, whole = _Watch(), []
    for owner, names in (
        *((phase, [name for name in vars(phase) if not name.startswith("__")]) for phase in campaign.Campaign.mro()),
        (campaign, ["start"]),
        (archive, ["write_report"]),
    ):
        for name in names:
            found = vars(owner)[name]
            if isinstance(found, property) and found.fget is not None:
                setattr(owner, name, property(watch.watched(found.fget)))
            elif callable(found) and not isinstance(found, type):
                setattr(owner, name, watch.watched(found))
            else:
                continue
            whole.append((owner, name, found))
    try:
        yield watch
    finally:
        for owner, name, found in whole:
            setattr(owner, name, found)


def orchestrate(address: str, *, people: int) -> Orchestrated:
    """Run one campaign to its evaluation as a flow on a Prefect server of its own."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName
    from prefect.settings import (
        PREFECT_LOGGING_LEVEL,
        PREFECT_SERVER_ANALYTICS_ENABLED,
        PREFECT_SERVER_LOGGING_LEVEL,
        temporary_settings,
    )
    from prefect.testing.utilities import prefect_test_harness

    from commplan.settings import as_environment
    from flows.campaign import campaign

    quiet = {PREFECT_LOGGING_LEVEL: "CRITICAL", PREFECT_SERVER_LOGGING_LEVEL: "CRITICAL"} | {
        PREFECT_SERVER_ANALYTICS_ENABLED: False
    }
    with tempfile.TemporaryDirectory() as folder:
        set_up = stage(Path(folder), address=address, channel="email", people=people, evaluated_after="PT1S")
        os.environ["CRM_DATABASE_URL"] = f"sqlite:///{folder}/crm.sqlite"
        kept = dict(os.environ)
        os.environ.update(as_environment(set_up.settings))
        try:
            with temporary_settings(quiet), prefect_test_harness(server_startup_timeout=180), _watching() as watch:
                began = time.perf_counter()
                campaign(str(set_up.folder / "bench" / "plan.yaml"), "1")
                seconds = time.perf_counter() - began
                with get_client(sync_client=True) as client:
                    named = FlowRunFilter(name=FlowRunFilterName(like_="bench"))
                    task_runs = len(client.read_task_runs(flow_run_filter=named))
        finally:
            os.environ.clear()
            os.environ.update(kept)
    return Orchestrated(seconds=seconds, outside=seconds - watch.busy, task_runs=task_runs)
