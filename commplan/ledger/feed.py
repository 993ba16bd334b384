"""The feed: the way on which a provider tells us what people do, and when it was open.

It is proven by heartbeats alone. Other traffic proves nothing: one post may be lost while others arrive. Never asks a
provider itself.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final, Literal

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    FromClause,
    Select,
    and_,
    bindparam,
    case,
    false,
    func,
    insert,
    or_,
    select,
    type_coerce,
    update,
)

from commplan.clock import Clock
from commplan.silence import PROVEN_AGAIN
from commplan.store import Store
from commplan.store.tables import feed_beats
from commplan.store.types import UtcDateTime, instant
from commplan.terms import Channel

#: A provider repeats a post that we did not take for so long; what is older is lost.
RETRIED_FOR = timedelta(hours=24)

#: A heartbeat each hundredth of the wait that it proves, at least this often and at most that.
_SHARE, _OFTENEST, _SELDOMEST = 100, timedelta(minutes=1), timedelta(minutes=10)
#: Machine seconds between two heartbeats at the least, however fast plan time runs: a day of the demo takes four.
_FLOOR = 0.5
#: Machine seconds without a heartbeat that are no gap: where no campaign is awake, upkeep asks every minute.
_UPKEEP = 150.0
#: Machine seconds in which a heartbeat comes back, or is missing; and after which one that came is no proof any more.
_PATIENCE, _TOO_LATE = 10.0, 60.0
#: Noted with a heartbeat until it is certain that the provider was asked for it: its asker may die on the way.
_BEING_ASKED = "who was to ask for it ended before the provider answered"
#: The way to our own receiver, on which links and pages tell what people do; nobody repeats what it misses.
RECEIVER: Final = "receiver"
Way = Channel | Literal["receiver"]

#: Later than any clock of ours may be ahead.
_AHEAD = timedelta(days=365)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rhythm:
    """The times of a feed's heartbeats, in plan time.

    `every`: between two. `lag`: from a moment to the heartbeat that proves the feed up to it. An outage that fits
    between two heartbeats goes unnoticed; providers repeat at growing pauses, so what it kept back comes within twice
    its length. `apart`: between two, when nobody asked for any meanwhile, without being a gap. `patience`: until one
    that has not been heard is missing. `too_late`: after which one that is heard proves nothing.
    """

    every: timedelta
    lag: timedelta
    apart: timedelta
    patience: timedelta
    too_late: timedelta


def rhythm(wait: timedelta, clock: Clock) -> Rhythm:
    """Return how often the feed is proven for a follow-up after `wait`."""

    def machine(seconds: float) -> timedelta:
        return timedelta(seconds=seconds * clock.factor)

    every = max(min(max(wait / _SHARE, _OFTENEST), _SELDOMEST), machine(_FLOOR))
    return Rhythm(
        every=every,
        lag=2 * every,
        apart=max(3 * every, machine(_UPKEEP)),
        patience=machine(_PATIENCE),
        too_late=max(every, machine(_TOO_LATE)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A time in which the feed was not proven, between two heartbeats that were heard; `start` None: since ever.

    `lost` are kinds of events that were switched off in it: what happened then is never told.
    """

    start: datetime | None
    end: datetime
    lost: tuple[str, ...] = ()

    def heals(self) -> datetime | None:
        """Return when everything that it kept back has come; None if that is never certain."""
        return None if self.lost else self.end + PROVEN_AGAIN


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """What is known of a feed: its last heartbeat, its gaps, and whether one is missing now.

    `missing_since` is when the first was asked for that has not been heard, if none was heard after it; `lost` as in a
    gap; `failure` is why the last attempt could not be made.
    """

    last: datetime | None
    gaps: tuple[Gap, ...]
    missing_since: datetime | None
    lost: tuple[str, ...]
    failure: str | None


def read(
    connection: Connection, channel: Way, *, since: datetime, events: Collection[str], rhythm: Rhythm, now: datetime
) -> Feed:
    """Return what the heartbeats since a moment say of a feed; `events` are those that have to be switched on."""
    search, micros = _search(frozenset(events)), timedelta(microseconds=1)
    asked: dict[str, object] = {
        "channel": channel,
        "since": since - rhythm.apart,
        "pending": now - rhythm.patience,
        "too_late": rhythm.too_late // micros,
        "apart": rhythm.apart // micros,
        "ahead": now + _AHEAD,
    }
    turns = connection.execute(search.turns, asked).all()
    newest = connection.execute(search.newest, asked).one()

    gaps: list[Gap] = []
    start: datetime | None = None
    missing_since: datetime | None = None
    off: set[str] = set()
    for turn in turns:
        if not turn.good:
            if missing_since is None:
                missing_since, start = turn.sent_at, turn.before if turn.before_good else None
            off |= {event for event in events if turn.is_lost and event in json.loads(turn.missing)}
            continue
        if missing_since is None:
            if turn.before is None and turn.sent_at - since <= rhythm.apart:
                # Nothing went out before: a first heartbeat that late is as good as two so far apart.
                continue
            start = turn.before
        gaps.append(Gap(start=start, end=turn.sent_at, lost=tuple(sorted(off))))
        missing_since, start = None, None
        off.clear()
    return Feed(
        last=newest.last,
        gaps=tuple(gaps),
        missing_since=missing_since,
        lost=tuple(sorted(off)),
        failure=newest.failure,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Search:
    """How to read a feed, built once for the events that matter; the look reads it for every batch.

    Parameters: `channel`, `since`, `pending` (what was asked for later may still be heard), `too_late` and `apart` in
    microseconds, `ahead` (later than any heartbeat). `turns` are heartbeats at which the feed becomes proven, or stops
    to be; `newest` is one row: the `last` that was heard before any that may still be, and the latest `failure`.
    """

    turns: Select[Any]
    newest: Select[Any]


@lru_cache(maxsize=64)
def _search(events: frozenset[str]) -> _Search:
    beats = feed_beats.c
    sent, heard = type_coerce(beats.sent_at, BigInteger), type_coerce(beats.heard_at, BigInteger)
    # Hardly ever is anything missing: to look for it in every row would be most of what this costs.
    named = or_(false(), *(beats.missing.like(f'%"{event}"%') for event in sorted(events)))
    is_lost = case((and_(beats.missing.is_not(None), named), 1), else_=0)
    in_time = heard - sent <= bindparam("too_late", type_=BigInteger())
    good = case((and_(heard.is_not(None), in_time, is_lost == 0), 1), else_=0)
    pending, mine = _pending(feed_beats), _mine(feed_beats)
    # What could not be asked says nothing, unless it was found out that nothing would be told.
    known = and_(mine, ~pending, or_(beats.failure.is_(None), is_lost == 1))
    beat = (
        select(
            beats.sent_at,
            good.label("good"),
            is_lost.label("is_lost"),
            beats.missing,
            func.lag(beats.sent_at, type_=UtcDateTime()).over(order_by=beats.sent_at).label("before"),
            func.lag(good).over(order_by=beats.sent_at).label("before_good"),
        )
        .where(known)
        .subquery()
    )
    pause = type_coerce(beat.c.sent_at, BigInteger) - type_coerce(beat.c.before, BigInteger)
    far = pause > bindparam("apart", type_=BigInteger())
    turn = or_(beat.c.good == 0, beat.c.before.is_(None), beat.c.before_good == 0, far)
    others = feed_beats.alias("others")
    waits = select(func.min(others.c.sent_at)).where(_mine(others), _pending(others)).scalar_subquery()
    before = func.coalesce(waits, instant("ahead"))
    last = select(beats.sent_at).where(known, good == 1, beats.sent_at < before).order_by(beats.sent_at.desc()).limit(1)
    failure = select(beats.failure).where(mine, ~pending).order_by(beats.sent_at.desc()).limit(1)
    return _Search(
        turns=select(beat).where(turn).order_by(beat.c.sent_at),
        newest=select(last.scalar_subquery().label("last"), failure.scalar_subquery().label("failure")),
    )


def _mine(of: FromClause) -> ColumnElement[bool]:
    return and_(of.c.channel == bindparam("channel"), of.c.sent_at >= instant("since"))


def _pending(of: FromClause) -> ColumnElement[bool]:
    """Return the SQL for: a heartbeat may still be heard."""
    unsaid = or_(of.c.failure.is_(None), of.c.failure == _BEING_ASKED)
    return and_(of.c.heard_at.is_(None), unsaid, of.c.sent_at > instant("pending"))


def ask(store: Store, channel: Way, *, every: timedelta) -> str | None:
    """Note that a heartbeat is to be asked for and return its secret name; None if one was `every` ago or less.

    One that failed is no reason to wait so long for the next. Until `asked`, or `hear`, it says nothing about the
    feed, so that who ends in between leaves no gap. Own transaction: of several processes one asks.
    """
    nonce, now, beats = secrets.token_urlsafe(24), store.clock.now(), feed_beats.c
    says = or_(beats.failure.is_(None), beats.missing.is_not(None))
    again = min(every, timedelta(seconds=_PATIENCE * store.clock.factor))
    with store.write() as connection:
        if connection.execute(
            select(beats.sent_at)
            .where(beats.channel == channel, or_(and_(says, beats.sent_at > now - every), beats.sent_at > now - again))
            .limit(1)
        ).first():
            return None
        connection.execute(
            insert(feed_beats).values(nonce_key=_key(nonce), channel=channel, sent_at=now, failure=_BEING_ASKED)
        )
    return nonce


def describe(store: Store, nonce: str, *, missing: Sequence[str] = ()) -> None:
    """Note which events were found to be off before a heartbeat is asked for. Own transaction; it counts from now."""
    with store.write() as connection:
        connection.execute(
            update(feed_beats)
            .where(feed_beats.c.nonce_key == _key(nonce))
            .values(sent_at=store.clock.now(), missing=json.dumps(sorted(missing)) if missing else None)
        )


def asked(store: Store, nonce: str, *, failure: str | None = None) -> None:
    """Note that the provider was asked for a heartbeat, or why it could not be. Own transaction.

    One that was heard by now needs neither.
    """
    with store.write() as connection:
        connection.execute(
            update(feed_beats)
            .where(feed_beats.c.nonce_key == _key(nonce), feed_beats.c.heard_at.is_(None))
            .values(failure=failure)
        )


def is_asked(connection: Connection, nonce: str) -> bool:
    """Tell whether a secret name is that of a heartbeat of ours."""
    found = select(feed_beats.c.channel).where(feed_beats.c.nonce_key == _key(nonce))
    return connection.execute(found).first() is not None


def hear(connection: Connection, nonce: str, at: datetime) -> bool:
    """Note that a heartbeat came back, received `at`; tell whether we had asked for it. In the caller's transaction."""
    return bool(
        connection.execute(
            update(feed_beats)
            .where(feed_beats.c.nonce_key == _key(nonce), feed_beats.c.heard_at.is_(None))
            .values(heard_at=at, failure=None)
        ).rowcount
    )


def _key(nonce: str) -> str:
    return sha256(nonce.encode("utf-8", "surrogatepass")).hexdigest()
