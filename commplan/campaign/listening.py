"""Listening: what providers, recipients and the organisation's database say, of one run or of all."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from commplan import conversion, feedback, objection, poll, pulse, tracking
from commplan.audience import refresh as refreshing
from commplan.campaign.occurrence import Occurrence
from commplan.channels.base import Gateways, open_gateways
from commplan.errors import InputError
from commplan.ledger import close, schedule, unsettled
from commplan.ledger import run as ledger_run
from commplan.ledger.readdress import follow_all
from commplan.poll import Polled
from commplan.settings import Settings
from commplan.settle import Settled, settle
from commplan.store import Store
from commplan.terms import Channel


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathering:
    """What a gathering brought in, by count."""

    receipts: int
    conversions: int
    left_audience: int
    unknown: int
    settled: Settled


@dataclass(frozen=True)
class Listening(Occurrence):
    """What is brought in before a later step is sent."""

    def gather(self, *, ask_source: bool = True) -> Gathering:
        """Bring in what is known by now: receipts, conversions and, if asked, who is still in the audience.

        Texts whose callbacks did not arrive are asked about, some at a time.
        Also takes back what dead workers left, and asks the providers about unknown outcomes that are due. Raises
        InputError when the organisation's database does not answer: later steps then wait, because silence cannot be
        told from a closed door.
        """
        store, run_id = self.store, self.run.run_id
        poll.poll(store, lambda: self.gateways, [run_id])
        receipts = apply_receipts(store)
        tell_of_feedback(store, self.settings)
        _, unknown = close.sweep(store, run_id)
        settled = self.settle()
        try:
            converted, left = self._ask(store.clock.now(), refresh=ask_source)
        except InputError as error:
            raise self.located(error) from None
        if ask_source:
            follow_all(store, run_id)
        schedule.drop_orphans(store, run_id)
        return Gathering(
            receipts=receipts,
            conversions=sum(converted.values()),
            left_audience=left,
            unknown=unknown,
            settled=settled,
        )

    def settle(self, *, force: bool = False) -> Settled:
        """Ask the providers about requests of unknown outcome: those that are due for it, or with `force` all.

        InputError when there are any and a provider's credentials are missing.
        """
        with self.store.read() as connection:
            if not unsettled.exist(connection, self.run.run_id):
                return Settled()
        return settle(self.store, self.gateways, self.frozen_settings, self.run.run_id, force=force)

    def _ask(self, now: datetime, *, refresh: bool) -> tuple[Mapping[str, int], int]:
        """Ask the organisation's database; return the conversions by name, and how many people have left."""
        store, run_id = self.store, self.run.run_id
        converted = conversion.gather(store, run_id=run_id, plan=self.plan, source_url=self.source_url, now=now)
        if not refresh:
            return converted, 0
        refreshed = refreshing.refresh(
            store,
            run_id=run_id,
            plan=self.plan,
            since=ledger_run.load_run(store, run_id).since,
            source_url=self.source_url,
            default_region=self.settings.default_region,
            now=now,
            max_leaving=self.settings.max_leaving,
        )
        return converted, refreshed.left


def apply_receipts(store: Store) -> int:
    """Apply everything that providers have posted; return the number of receipts that were new.

    Whoever applied them, owners are told here of texts that may ask us to stop.
    """
    total = 0
    while (applied := tracking.apply_inbox(store)).posts:
        total += applied.new
    objection.tell_owners(store, os.environ)
    return total


def tell_of_feedback(store: Store, settings: Settings) -> None:
    """Tell owners that people wrote, of whatever run, if they were not told in the last hour."""
    feedback.tell_owners(store, settings, os.environ)


def prove_feeds(store: Store, settings: Settings) -> None:
    """Ask for the heartbeats that runs under way rest on, if any is due."""
    with _opened(settings, lambda: [way for way in pulse.demands(store) if isinstance(way, Channel)]) as gateways:
        pulse.beat(store, settings, gateways)


def poll_texts(store: Store, settings: Settings) -> Polled:
    """Ask about texts of all runs whose callbacks never arrived, and apply what is told."""
    with _opened(settings, lambda: [Channel.SMS]) as gateways:
        polled = poll.poll(store, gateways, poll.open_runs(store))
    if polled.told:
        apply_receipts(store)
    return polled


@contextmanager
def _opened(settings: Settings, channels: Callable[[], Collection[Channel]]) -> Iterator[Callable[[], Gateways]]:
    """Yield what opens the gateways when they are first needed, and once; they are closed with the block."""
    opened: list[Gateways] = []

    def gateways() -> Gateways:
        if not opened:
            opened.append(open_gateways(settings, channels=channels()))
        return opened[0]

    try:
        yield gateways
    finally:
        for found in opened:
            found.close()
