"""The sign of life of a process that carries a run: every ten seconds, in the run's row.

Beats beside the work and never stops it: a beat that cannot be written is only missed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from commplan.beside import beside
from commplan.campaign import Campaign
from commplan.errors import StoreError
from commplan.ledger import run as ledger_run
from commplan.ledger import upkeep

_LOG = logging.getLogger("commplan.heartbeat")

#: Machine seconds between two signs of life.
EVERY = 10.0


@contextmanager
def beating(running: Campaign, *, watches_upkeep: bool = False, every: float = EVERY) -> Iterator[None]:
    """Give signs of life for a run while the block lasts, one `every` so many machine seconds.

    With `watches_upkeep` the plan's owner is told when upkeep has been silent for too long: nothing would bring the
    run back then.
    """
    _beat(running, watches_upkeep=False)

    def beat() -> float:
        _beat(running, watches_upkeep=watches_upkeep)
        return every

    with beside(beat, after=every, name="heartbeat"):
        yield


def _beat(running: Campaign, *, watches_upkeep: bool) -> None:
    try:
        ledger_run.beat(running.store, running.run.run_id)
        silent = watches_upkeep and upkeep.fell_silent(running.store)
    except StoreError:
        _LOG.warning("a sign of life could not be written", extra={"run": running.run.run_key})
        return
    if silent:
        _LOG.error("upkeep is silent", extra={"run": running.run.run_key})
        minutes = upkeep.PATIENCE.total_seconds() / 60
        running.tell_owner(
            "commplan upkeep is silent",
            f"upkeep has not been at work for {minutes:.0f} minutes, so a run that dies is not brought back; "
            "see that its worker runs (commplan up, or prefect worker start --pool upkeep)",
        )
