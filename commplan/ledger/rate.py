"""Rate limits: a token bucket for each sender, in the store, on the database's clock, shared by all workers.

Never waits: whoever finds the bucket empty is told how long, and holds no lock meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, select, update
from sqlalchemy.dialects import postgresql, sqlite

from commplan.settings import Settings
from commplan.store.tables import buckets
from commplan.store.types import machine_now
from commplan.terms import Channel


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What one sender may send: messages a machine second, and at most a second's worth (one, at least) at once."""

    channel: Channel
    sender: str
    rate: float

    @property
    def burst(self) -> float:
        """The most that a bucket holds."""
        return max(1.0, self.rate)


@dataclass(frozen=True, slots=True)
class Wait:
    """There is nothing to take yet: ask again in so many machine seconds."""

    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """A sender's tokens at a moment of the database's clock; its row is locked until the transaction ends."""

    limit: Limit
    tokens: float
    at: float

    @property
    def whole(self) -> int:
        """How many messages may be taken now."""
        return int(self.tokens)

    def wait(self, wanted: int) -> Wait:
        """Return the wait until half of what would be taken at once is there: fewer would make a batch of each."""
        enough = max(1.0, min(wanted, self.limit.burst) / 2)
        return Wait(max(0.0, enough - self.tokens) / self.limit.rate)

    def take(self, connection: Connection, count: int) -> None:
        """Take `count` tokens, in the transaction that opened the bucket."""
        connection.execute(
            update(buckets)
            .where(buckets.c.channel == self.limit.channel, buckets.c.sender == self.limit.sender)
            .values(tokens=self.tokens - count, filled_machine=self.at)
        )


def limits(settings: Settings) -> Mapping[Channel, Limit]:
    """Return the limits that the settings name, by channel; none where none is set."""
    given = (
        (Channel.EMAIL, settings.email.from_address, settings.email.rate),
        (Channel.SMS, settings.sms.from_number, settings.sms.rate),
    )
    return {
        channel: Limit(channel=channel, sender=sender, rate=rate) for channel, sender, rate in given if rate is not None
    }


def open_bucket(connection: Connection, limit: Limit) -> Bucket:
    """Return what a sender may send now, in the caller's transaction, which others that send for it wait for.

    A new sender begins with a full bucket. A clock that went back fills nothing.
    """
    upsert = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert
    connection.execute(
        upsert(buckets)
        .values(channel=limit.channel, sender=limit.sender, tokens=limit.burst, filled_machine=machine_now())
        .on_conflict_do_nothing()
    )
    row = connection.execute(
        select(buckets.c.tokens, buckets.c.filled_machine)
        .where(buckets.c.channel == limit.channel, buckets.c.sender == limit.sender)
        .with_for_update()
    ).one()
    # Asked for after the lock is held: what was read before would be too old.
    now = max(row.filled_machine, connection.execute(select(machine_now())).scalar_one())
    return Bucket(limit=limit, tokens=filled(row.tokens, now - row.filled_machine, limit), at=now)


def filled(tokens: float, seconds: float, limit: Limit) -> float:
    """Return what is in a bucket so many seconds later."""
    return min(limit.burst, tokens + seconds * limit.rate)
