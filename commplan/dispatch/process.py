"""Several senders at once, each a process of its own, watched by the one that started them.

What they share is the ledger: any of them may die, and the others send what it left.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from commplan.dispatch.tally import Tally
from commplan.errors import HaltError, RunError

_LOG = logging.getLogger("commplan.dispatch")

#: A sender is started so often at the most: whatever kills one that many times will kill the next.
MOST_DEATHS = 5


def send_in_process(
    key: str,
    step_no: int,
    *,
    environment: Mapping[str, str],
    progress: Callable[[int], None] | None = None,
) -> Tally:
    """Send what is due of a step in a new process and return what became of it; the process ends with this one.

    `environment` has the settings. A process that dies is followed by another, `MOST_DEATHS` at the most: what it had
    claimed goes back when its lease is over. HaltError as `Sender.send_step`; RunError after the last death.
    """
    tally = Tally()
    for _ in range(MOST_DEATHS):
        status = _send_once(key, step_no, environment, tally, progress)
        if status == 0:
            return tally
        _LOG.warning("sender died", extra={"run": key, "step": step_no, "status": status})
    raise RunError(
        f"the senders of {key} die, the last one with status {status}; its own words are in the log of this process; "
        "start the same run again when that is mended"
    )


def _send_once(
    key: str, step_no: int, environment: Mapping[str, str], tally: Tally, progress: Callable[[int], None] | None
) -> int:
    python_path = [str(Path(__file__).parents[2]), environment.get("PYTHONPATH", "")]
    with subprocess.Popen(  # noqa: S603 (our own module, with a run's key)
        [sys.executable, "-m", "commplan.dispatch", key, str(step_no)],
        env={**environment, "PYTHONPATH": os.pathsep.join(filter(None, python_path))},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            match json.loads(line):
                case {"halt": str(reason)}:
                    process.wait()
                    raise HaltError(reason)
                case {"progress": int(accepted)} if progress is not None:
                    progress(accepted)
                case {"tally": counts}:
                    tally += Tally(**counts)
        return process.wait()
