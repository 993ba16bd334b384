"""One campaign against the sink, each part timed, in a process of its own; no figure without balanced books."""

from __future__ import annotations

import os
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from commplan import campaign
from commplan.ledger import proof
from tests.bench.stage import stage, taken


@dataclass(frozen=True, kw_only=True)
class Campaign:
    """Seconds that each part of one campaign took, and the largest process, in MB."""

    people: int
    audience: float
    render: float
    dispatch: float
    peak: float

    @property
    def sent_per_second(self) -> float:
        """From a frozen audience to closed in the ledger."""
        return self.people / (self.render + self.dispatch)

    @property
    def whole(self) -> float:
        """From the first row read to the last batch closed."""
        return self.audience + self.render + self.dispatch


def seconds(work: Callable[[], object]) -> float:
    """Return how long something takes, by the wall."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def carry(address: str, *, channel: str, people: int, store_url: str | None = None) -> Campaign:
    """Run one campaign in a process of its own, whose memory is then its own too; as `carry_here`."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
        return alone.submit(carry_here, address, channel, people, store_url).result()


def carry_here(address: str, channel: str, people: int, store_url: str | None = None) -> Campaign:
    """Run one campaign of one step against the sink, and see that its books balance and nobody was written to twice."""
    with tempfile.TemporaryDirectory() as folder:
        set_up = stage(Path(folder), address=address, channel=channel, people=people, store_url=store_url)
        os.environ["CRM_DATABASE_URL"] = f"sqlite:///{folder}/crm.sqlite"
        before = taken(address, channel)
        running = set_up.campaign()
        audience = seconds(running.resolve_audience)
        render = seconds(running.render)
        dispatch = seconds(lambda: _send_all(running))
        after = taken(address, channel)
        with running.store.read() as connection:
            books = proof.balance(connection, running.run.run_id, running.run.run_key)
        running.close()
        running.store.dispose()
    sent = after["messages"] - before["messages"]
    if books.difference or sent != people:
        raise SystemExit(
            f"{channel}: {people} people, {sent} sent, difference {books.difference}: no figure is worth it"
        )
    return Campaign(people=people, audience=audience, render=render, dispatch=dispatch, peak=_peak())


def _send_all(running: campaign.Campaign) -> None:
    senders = running.senders(1)
    with ThreadPoolExecutor(senders) as pool:
        for each in [pool.submit(running.dispatch, 1, alone=number == 0) for number in range(senders)]:
            each.result()


def _peak() -> float:
    largest = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return largest / 1024
