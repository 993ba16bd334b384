"""What the process of a run keeps watch over while it waits and sends: that silence stays proven.

Beside the run's own thread, and never in its way: what fails here holds a step, through the ledger, and no more.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta

from commplan import pulse
from commplan.beside import beside
from commplan.campaign import Campaign
from commplan.errors import CommplanError
from commplan.ledger.gate import FRESH
from commplan.ledger.need import need_of

_LOG = logging.getLogger("commplan.watch")

#: Between two gatherings while a step is sent: so often that what people did is never older than `FRESH`, and machine
#: seconds at the least, because each asks the organisation's database.
_EVERY, _SHORTEST = FRESH / 4, 10.0


def watching(running: Campaign) -> AbstractContextManager[None]:
    """Have the feed proven while the block lasts, for every run; the first heartbeat is asked for before it begins."""
    return pulse.beating(running.store, running.settings, lambda: running.gateways)


@contextmanager
def gathering(running: Campaign, step_no: int, *, every: float | None = None) -> Iterator[None]:
    """Gather again and again while the block sends a step that rests on people not having converted.

    Somebody who converts in its first hour is not written to in its third, from whatever machine. `every` is machine
    seconds; None: a quarter of what makes a gathering too old.
    """
    need = need_of(running.plan, step_no)
    if need is None or not need.conversions:
        yield
        return
    pause = every or max(_SHORTEST, _EVERY / timedelta(seconds=running.store.clock.factor))

    def gather() -> float:
        try:
            running.gather(ask_source=False)
        except CommplanError as error:
            _LOG.warning(
                "conversions could not be gathered", extra={"run": running.run.run_key, "why": type(error).__name__}
            )
        return pause

    with beside(gather, after=pause, name="gathering"):
        yield
