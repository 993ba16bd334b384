"""A campaign in the foreground: the same flow, without a worker, in a terminal.

What Prefect writes for operators of a server is left out; an interruption ends at once, because the ledger knows what
was under way.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from types import FrameType

from commplan.errors import RunError
from commplan.supervisor import end_descendants
from flows.campaign import campaign

#: How Prefect begins the lines that repeat what the command says anyway.
_LEFT_OUT = (
    "Encountered exception",
    "Task run failed with exception",
    "Flow run failed with exception",
    "Finished in state",
    "Starting temporary server",
    "Stopping temporary server",
    "See https://docs.prefect.io",
    "Beginning flow run",
    "View at",
)


class _ForPeople(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        """Leave out what is for operators, and every trace: what goes wrong is said once, at the end."""
        record.exc_info = record.exc_text = None
        return not record.getMessage().lstrip().startswith(_LEFT_OUT)


def run_campaign(plan: str, occurrence: str, *, key: str) -> None:
    """Run the flow to its end. Ctrl-C and SIGTERM say how to continue and exit with 130, within a second."""

    def interrupted(number: int, frame: FrameType | None) -> None:
        sys.stderr.write(f"\ninterrupted; the same command continues {key}\n")
        sys.stderr.flush()
        end_descendants()
        # The temporary server is gone by now, and Prefect would try for minutes to tell it.
        os._exit(130)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupted)
    for name in ("prefect", "prefect.flow_runs", "prefect.task_runs", "prefect.server", "commplan"):
        for holder in (logging.getLogger(name), *logging.getLogger(name).handlers):
            holder.addFilter(_ForPeople())
    try:
        campaign(plan, occurrence)
    except RuntimeError as error:
        if "Prefect API server" not in str(error):
            raise
        raise RunError(
            "Prefect's temporary server did not come up, and nothing was sent; try again when the machine is less busy"
        ) from None
