"""Retention: raw posts of providers, and heartbeats of their feeds, are kept for a while and then go.

Never takes a post that has not been applied, nor a heartbeat that a run which is not over may rest on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import accumulate

from sqlalchemy import delete, func, select

from commplan.ledger import feed
from commplan.store import Store
from commplan.store.tables import feed_beats, inbox, runs
from commplan.terms import ENDED, Channel

#: Most rows, and most bytes of posts, that go in one transaction, and most transactions of one purge of either kind.
_ROWS, _BYTES, _TURNS = 500, 8 * 1024 * 1024, 200
#: A follow-up after so long a wait has the longest pause between heartbeats.
_LONG = timedelta(days=365)


@dataclass(frozen=True, slots=True, kw_only=True)
class Purged:
    """How many rows went."""

    posts: int
    beats: int


def purge(store: Store, *, keep: timedelta) -> Purged:
    """Delete posts applied, and heartbeats asked for, longer than `keep` ago (plan time), in short transactions.

    A heartbeat stays while any run is not over that was planned before it, or soon after. What is too much for one
    call is left to the next.
    """
    before = store.clock.now() - keep
    return Purged(posts=sum(_posts(store, before)), beats=sum(_beats(store, min(before, _needed_since(store, before)))))


def _posts(store: Store, before: datetime) -> Iterator[int]:
    oldest = (
        select(inbox.c.inbox_id, func.length(inbox.c.body))
        .where(inbox.c.applied_at < before)
        .order_by(inbox.c.applied_at)
        .limit(_ROWS)
    )
    for _ in range(_TURNS):
        with store.read() as connection:
            found = connection.execute(oldest).all()
        if not found:
            return
        held = list(accumulate(size for _, size in found))
        ids = [row[0] for row, bytes_ in zip(found, held, strict=True) if bytes_ <= max(_BYTES, held[0])]
        with store.write() as connection:
            yield connection.execute(delete(inbox).where(inbox.c.inbox_id.in_(ids))).rowcount


def _beats(store: Store, before: datetime) -> Iterator[int]:
    for way in (*Channel, feed.RECEIVER):
        oldest = (
            select(feed_beats.c.nonce_key)
            .where(feed_beats.c.channel == way, feed_beats.c.sent_at < before)
            .order_by(feed_beats.c.sent_at)
            .limit(_ROWS)
        )
        for _ in range(_TURNS):
            with store.read() as connection:
                keys = connection.execute(oldest).scalars().all()
            if not keys:
                break
            with store.write() as connection:
                yield connection.execute(delete(feed_beats).where(feed_beats.c.nonce_key.in_(keys))).rowcount


def _needed_since(store: Store, otherwise: datetime) -> datetime:
    """Return from when on heartbeats may still prove something: a run rests on those since just before its first."""
    with store.read() as connection:
        oldest: datetime | None = connection.execute(
            select(func.min(runs.c.created_at)).where(runs.c.state.not_in(ENDED))
        ).scalar_one()
    return otherwise if oldest is None else oldest - feed.rhythm(_LONG, store.clock).apart
