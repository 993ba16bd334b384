"""A process that makes sending processes, for tests that stop and kill them.

Each line on standard input is ``KEY STEP LEASE``: a child is forked that sends what is due of the step, and its process
id is answered at once; an empty line is answered when every child has ended. Forking spares each one the imports.
"""

from __future__ import annotations

import os
import signal
import sys

from commplan.campaign import Campaign
from commplan.dispatch import Sender
from commplan.ledger.run import find_run
from commplan.settings import load_settings
from commplan.store import open_store


def send(key: str, step_no: int, lease: float) -> None:
    """Send what is due of a step, as a process of its own does."""
    settings = load_settings()
    store = open_store(settings)
    running = Campaign(store, settings, find_run(store, key))
    sender = Sender(store=store, gateways=running.gateways, settings=running.frozen_settings, lease=lease)
    sender.send_step(running.run.run_id, step_no)


def main() -> None:
    """Obey until standard input ends."""
    children: list[int] = []
    for line in sys.stdin:
        if not line.strip():
            failed = [status for pid in children if os.WIFEXITED(status := os.waitpid(pid, 0)[1]) and status != 0]
            children.clear()
            print(len(failed), flush=True)  # noqa: T201
            continue
        key, step_no, lease = line.split()
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            try:
                send(key, int(step_no), float(lease))
            except BaseException as error:
                sys.stderr.write(f"{type(error).__name__}: {error}\n")
                os._exit(1)
            os._exit(0)
        children.append(pid)
        print(pid, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
