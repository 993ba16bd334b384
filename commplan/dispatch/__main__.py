"""A sender as a process of its own: ``python -m commplan.dispatch RUN STEP``.

Its answers are lines of JSON on standard output, counts and sentences only. It ends after the batch in hand when its
standard input ends: its parent is gone then, and whoever continues the run starts senders of its own.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from dataclasses import asdict

from commplan import collector, letterhead, logs
from commplan.channels.base import open_gateways
from commplan.dispatch.sender import Sender
from commplan.errors import CommplanError, HaltError
from commplan.ledger import run as ledger_run
from commplan.settings import load_settings
from commplan.store import open_store


def main(key: str, step_no: int) -> int:
    """Send what is due of a step of a run; return the exit status."""
    logs.set_up(logging.WARNING)  # who started it tells of the batches
    orphaned = threading.Event()
    threading.Thread(target=_watch_parent, args=(orphaned,), daemon=True).start()
    settings = load_settings()
    store = open_store(settings, create=False)
    run = ledger_run.find_run(store, key)
    with store.read() as connection:
        plan = ledger_run.plan_of(connection, run.run_id)
        frozen = letterhead.restored(settings, ledger_run.frozen_files(connection, run.run_id))
    gateways = open_gateways(frozen, channels=plan.channels_of(step_no))
    collector.leave_alone()
    sender = Sender(store=store, gateways=gateways, settings=frozen)
    try:
        tally = sender.send_step(
            run.run_id, step_no, progress=lambda accepted: _say(progress=accepted), stopping=orphaned.is_set
        )
    except HaltError as error:
        _say(halt=error.reason)
        return 0
    finally:
        gateways.close()
        store.dispose()
    _say(tally=asdict(tally))
    return 0


def _watch_parent(orphaned: threading.Event) -> None:
    while os.read(0, 1024):
        pass
    orphaned.set()


def _say(**fact: object) -> None:
    try:
        sys.stdout.write(json.dumps(fact) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:  # the parent is gone; what is in hand is finished all the same
        sys.stdout = open(os.devnull, "w", encoding="ascii")  # noqa: SIM115 (for the rest of the process)


if __name__ == "__main__":
    try:
        raise SystemExit(main(sys.argv[1], int(sys.argv[2])))
    except CommplanError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(error.exit_code) from None
