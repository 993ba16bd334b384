"""A flow that waits longer than a process should be held, and notes when it was awake."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

from prefect import flow, get_run_logger

from commplan.clock import Clock
from flows.waits import wait_until


@flow
def waiting(until: float, diary: str) -> None:
    """Wait until a machine time, writing to the diary before and after."""
    with Path(diary).open("a", encoding="ascii") as file:
        file.write(f"awake {time.time()}\n")
    wait_until(Clock.real(), datetime.fromtimestamp(until, UTC), tell=get_run_logger().info)
    with Path(diary).open("a", encoding="ascii") as file:
        file.write(f"done {time.time()}\n")
