"""The pulse: heartbeats through the way on which providers tell us what people do, for as long as a run rests on it.

SendGrid is asked to post an event to our receiver; only the receiver can say that it came. Twilio is asked for the
list of what was written to us, and what it has not told yet is put into the inbox as if it had.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import urlencode, urlsplit

import httpx
from sqlalchemy import Connection, func, select

from commplan.beside import beside
from commplan.channels.base import Gateways
from commplan.envelope import EventHook
from commplan.errors import CommplanError, DeliveryError, InputError
from commplan.ids import RunId
from commplan.ledger import feed
from commplan.ledger.feed import Way
from commplan.ledger.need import need_of
from commplan.ledger.run import plan_of
from commplan.settings import Settings
from commplan.store import Store
from commplan.store.tables import feed_beats, messages, runs
from commplan.terms import Channel, MessageState, RunState
from commplan.tracking import BEAT, append_listed

_LOG = logging.getLogger("commplan.pulse")

#: Where the receiver takes SendGrid's events, below its public address.
EVENTS_PATH = "/hooks/sendgrid/events"
#: The events that say how a message fared and what a person did with it, as SendGrid's settings call them.
EVENTS = ("processed", "delivered", "deferred", "bounce", "dropped", "open", "click", "spam_report", "unsubscribe")
#: Machine seconds between two looks at whether a heartbeat is due, at the least and at most.
_SHORTEST, _LONGEST = 0.2, 10.0
#: Machine seconds that a visit of our own receiver may take.
_VISIT = 5.0
_ALIVE = (RunState.EXECUTING, RunState.PAUSED, RunState.HELD)
_AHEAD = (MessageState.NOT_DUE, MessageState.QUEUED, MessageState.CLAIMED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What the runs under way ask of a feed: a heartbeat `every` so often, and what came in `since` then."""

    every: timedelta
    since: datetime


def demands(store: Store) -> dict[Way, Demand]:
    """Return which feeds have to be proven for the steps that runs have ahead of them."""
    found: dict[Way, Demand] = {}
    with store.read() as connection:
        for run in connection.execute(select(runs).where(runs.c.state.in_(_ALIVE))).all():
            try:
                plan = plan_of(connection, RunId(run.run_id))
            except InputError:
                # A plan of an earlier version, which this one does not read; the others still have their feed.
                _LOG.warning("no heartbeat for a run: its plan is not readable", extra={"run": run.run_key})
                continue
            for step_no in range(1, len(plan.sequence) + 1):
                need = need_of(plan, step_no)
                if need is None or not need.steps or not _is_ahead(connection, run.run_id, step_no):
                    continue
                every = feed.rhythm(need.wait, store.clock).every
                since = run.first_accepted_at or run.created_at
                for channel in (*need.steps, *((feed.RECEIVER,) if need.visits else ())):
                    known = found.get(channel, Demand(every=every, since=since))
                    found[channel] = Demand(every=min(every, known.every), since=min(since, known.since))
    return found


def _is_ahead(connection: Connection, run_id: int, step_no: int) -> bool:
    left = select(messages.c.seq).where(
        messages.c.run_id == run_id, messages.c.step_no == step_no, messages.c.state.in_(_AHEAD)
    )
    return connection.execute(left.limit(1)).first() is not None


def beat(store: Store, settings: Settings, gateways: Callable[[], Gateways]) -> float:
    """Ask for every heartbeat that is due; return machine seconds until there may be another.

    Any number of processes may call this: each heartbeat is asked for by one of them. `gateways` is called when there
    is anything to ask. What a provider does not answer is noted with the heartbeat, and raised never.
    """
    wanted = demands(store)
    for channel, demand in wanted.items():
        earlier = _last_heard(store, channel)
        nonce = feed.ask(store, channel, every=demand.every)
        if nonce is None:
            continue
        try:
            if channel == feed.RECEIVER:
                _visit(settings, nonce)
                # Nobody tells again what a visitor meets with: one that came to nothing is a gap.
                feed.asked(store, nonce)
            elif channel is Channel.EMAIL:
                _ask_sendgrid(store, settings, gateways(), nonce)
            else:
                _ask_twilio(store, gateways(), nonce, since=max(filter(None, (earlier, demand.since))))
        except DeliveryError as error:
            feed.asked(store, nonce, failure=error.reason)
        except CommplanError as error:
            feed.asked(store, nonce, failure=str(error))
    pause = min((demand.every for demand in wanted.values()), default=timedelta(days=365_000))
    return min(_LONGEST, max(_SHORTEST, pause.total_seconds() / store.clock.factor / 4))


def _last_heard(store: Store, channel: Way) -> datetime | None:
    with store.read() as connection:
        heard = select(func.max(feed_beats.c.sent_at)).where(
            feed_beats.c.channel == channel, feed_beats.c.heard_at.is_not(None)
        )
        last: datetime | None = connection.execute(heard).scalar_one()
    return last


def _visit(settings: Settings, nonce: str) -> None:
    """Come to our own receiver as anybody does who follows a link; it says by itself that somebody came."""
    with suppress(httpx.HTTPError, httpx.InvalidURL):
        httpx.get(f"{settings.public_url}/l/{nonce}", timeout=_VISIT, trust_env=False)


def _ask_sendgrid(store: Store, settings: Settings, gateways: Gateways, nonce: str) -> None:
    url = settings.public_url.rstrip("/") + EVENTS_PATH
    hook = hook_at(gateways.email.event_hooks(), url)
    if hook is None:
        feed.describe(store, nonce, missing=EVENTS)
        feed.asked(store, nonce, failure=f"no event webhook of the account posts to {url}")
        return
    feed.describe(store, nonce, missing=missing_events(hook))
    gateways.email.test_hook(hook.hook_id, f"{url}?{urlencode({BEAT: nonce})}")
    feed.asked(store, nonce)


def hook_at(hooks: Sequence[EventHook], url: str) -> EventHook | None:
    """Return the webhook that posts to an address and is switched on, if there is one."""
    wanted = _place(url)
    return next((hook for hook in hooks if hook.is_on and _place(hook.url) == wanted), None)


def _place(url: str) -> tuple[str, str | None, int | None, str]:
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return ("", None, None, url)
    return parts.scheme, parts.hostname, port, parts.path.rstrip("/")


def missing_events(hook: EventHook) -> list[str]:
    """Return the events that a webhook does not post and should."""
    return [event for event in EVENTS if event not in hook.events]


def _ask_twilio(store: Store, gateways: Gateways, nonce: str, *, since: datetime) -> None:
    append_listed(store, gateways.sms.received(since))
    # Whatever was missing waits in the inbox by now, which the proof looks at as well.
    with store.write() as connection:
        feed.hear(connection, nonce, store.clock.now())


@contextmanager
def beating(store: Store, settings: Settings, gateways: Callable[[], Gateways]) -> Iterator[None]:
    """Ask for heartbeats as they are due while the block lasts; the first before it begins."""

    def again() -> float:
        try:
            return beat(store, settings, gateways)
        except CommplanError as error:
            _LOG.warning("no heartbeat could be asked for", extra={"why": type(error).__name__})
            return _LONGEST

    with beside(again, after=again(), name="pulse"):
        yield
