"""Freezing what a run says: everybody is rendered, and the ledger's rows are written in the order of the snapshot.

Starts from nothing each time, so an interrupted rendering is simply done again.
"""

from __future__ import annotations

import time as clock
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from commplan.audience.planning import Planning
from commplan.errors import Finding, InputError, RunError
from commplan.ledger.enqueue import Draft, Enqueuer
from commplan.ledger.run import Run, ranges
from commplan.rendering.crew import rendered
from commplan.settings import Settings
from commplan.store import Store

#: People that are rendered together.
_CHUNK = 1_000
#: Messages that are written together: as many as hold the store's one writer up for a fifth of a second. Address keys
#: are spread over their whole index, so that few large writes touch far fewer of its pages than many small ones.
_WRITTEN = 4_000
#: Machine seconds after which what there is is written: a sign of life goes with it.
_SILENCE = 10.0


def render_run(store: Store, settings: Settings, run: Run, *, progress: Callable[[int], None] | None = None) -> int:
    """Write every message of a run to the ledger with its frozen content; return the number of people.

    InputError lists each fault of the templates with the number of people it hits. RunError unless the people are
    those of one complete audience that was this run's throughout.
    """
    with store.read() as connection:
        planning, audience_size = Planning.of_complete(connection, run.run_id)
    enqueuer = Enqueuer(store, run.run_id, planning=planning)
    enqueuer.clear()
    people = 0
    faults: Counter[Finding] = Counter()
    drafts: list[Draft] = []
    written = clock.monotonic()
    for chunk in rendered(store, settings, run, ranges(store, run.run_id, size=_CHUNK), people=audience_size):
        faults += chunk.faults
        people += chunk.people
        if faults:
            drafts.clear()
        else:
            drafts += chunk.drafts
        if len(drafts) >= _WRITTEN or clock.monotonic() - written > _SILENCE:
            enqueuer.write(drafts)
            drafts.clear()
            written = clock.monotonic()
        if progress is not None:
            progress(chunk.people)
    if faults:
        enqueuer.clear()
        raise InputError(
            [
                replace(fault, rule=f"{fault.rule} ({hit:,} of {people:,} people)")
                for fault, hit in sorted(faults.items(), key=lambda item: item[0].place)
            ]
        )
    if people != audience_size:
        raise RunError(
            f"the audience of this run was counted as {audience_size:,} people, and {people:,} are there; "
            "start the run again"
        )
    enqueuer.write(drafts)
    enqueuer.finish()
    return people
