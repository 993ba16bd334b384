"""Taking messages to send: a batch of due ones under a lease, so that nobody else sends them.

Never puts anything on the wire: that is the last look's to allow.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    Select,
    and_,
    bindparam,
    func,
    insert,
    select,
    true,
    update,
)

from commplan.errors import RunError
from commplan.ids import BatchId, RunId
from commplan.ledger import breaker
from commplan.ledger.rate import Limit, Wait, open_bucket
from commplan.ledger.standstill import sending_state
from commplan.store import Store
from commplan.store.tables import batches, messages, skeletons
from commplan.store.types import UtcDateTime, among, machine_now
from commplan.terms import Channel, MessageState, RunState


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A finished text with placeholders, as it was frozen."""

    subject: str = field(repr=False)
    text: str = field(repr=False)
    html: str = field(repr=False)
    placeholders: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Messages that this worker may send until its lease is over; all share one text.

    `batch_id` is the fencing token: every later change of these rows names it.
    """

    batch_id: BatchId
    run_id: RunId
    step_no: int
    channel: Channel
    seqs: tuple[int, ...]
    text: Text


@dataclass(frozen=True, slots=True)
class Shard:
    """A share of a step's messages: those whose position leaves `index` when divided by `count`."""

    index: int = 0
    count: int = 1

    def __contains__(self, seq: int) -> bool:
        return seq % self.count == self.index

    def where(self) -> ColumnElement[bool]:
        """Return the share as SQL."""
        return true() if self.count == 1 else messages.c.seq % self.count == self.index


#: All of a step.
WHOLE = Shard()


def claim(
    store: Store,
    *,
    run_id: RunId,
    step_no: int,
    worker: str,
    limit: int,
    lease: float,
    shard: Shard = WHOLE,
    rates: Mapping[Channel, Limit] | None = None,
) -> Batch | Wait | None:
    """Take up to `limit` due messages of a step that share a text; None when nothing is due or the run is stopped.

    No more than `rates` allow its sender at this moment; if that is nothing, the answer is how long to wait. The
    lease is `lease` machine seconds on the database's clock. Own transaction. Two workers never get the same message:
    on SQLite writers queue up, on PostgreSQL rows locked by another are skipped.
    """
    with store.write() as connection:
        batch = pick(
            connection,
            store,
            run_id=run_id,
            step_no=step_no,
            worker=worker,
            limit=limit,
            lease=lease,
            shard=shard,
            rates=rates,
        )
        if isinstance(batch, Batch):
            take_up(connection, batch)
    return batch


_SKELETON = select(skeletons).where(
    skeletons.c.run_id == bindparam("of_run"), skeletons.c.skeleton_no == bindparam("of_skeleton")
)
_OPENING = (
    insert(batches)
    .values(
        run_id=bindparam("run_id"),
        step_no=bindparam("step_no"),
        worker=bindparam("worker"),
        claimed=bindparam("claimed"),
        lease_machine=machine_now() + bindparam("seconds"),
    )
    .returning(batches.c.batch_id)
)


def take_up(connection: Connection, batch: Batch) -> None:
    """Note that the messages of a batch that was picked are claimed, in the caller's transaction."""
    picked = and_(
        messages.c.run_id == batch.run_id,
        messages.c.step_no == batch.step_no,
        among(messages.c.seq, batch.seqs),
        messages.c.state == MessageState.QUEUED,
    )
    connection.execute(update(messages).where(picked).values(state=MessageState.CLAIMED, batch_id=batch.batch_id))


def pick(
    connection: Connection,
    store: Store,
    *,
    run_id: RunId,
    step_no: int,
    worker: str,
    limit: int,
    lease: float,
    shard: Shard,
    rates: Mapping[Channel, Limit] | None,
) -> Batch | Wait | None:
    """Choose what `claim` takes and open its batch, in the caller's transaction; the messages are still queued."""
    if sending_state(connection, run_id) is not RunState.EXECUTING:
        return None
    search = _search(shard, breaker.halted_countries(connection, run_id))
    due = {"of_run": run_id, "of_step": step_no, "now": store.clock.now()}
    skeleton_no = connection.execute(search.oldest, due).scalar_one_or_none()
    if skeleton_no is None:
        if connection.execute(search.any, due).first() is not None:
            raise RunError(
                f"the texts of step {step_no} are gone from the store, so what waits for them cannot be sent; "
                "restore the store, or cancel the run"
            )
        return None
    text = connection.execute(_SKELETON, {"of_run": run_id, "of_skeleton": skeleton_no}).one()
    allowed = (rates or {}).get(Channel(text.channel))
    bucket = None if allowed is None else open_bucket(connection, allowed)
    if bucket is not None:
        if not bucket.whole:
            return bucket.wait(limit)
        limit = min(limit, bucket.whole)
    seqs = connection.execute(search.first, due | {"of_skeleton": skeleton_no, "most": limit}).scalars().all()
    if not seqs:
        return None
    if bucket is not None:
        bucket.take(connection, len(seqs))
    opened = {"run_id": run_id, "step_no": step_no, "worker": worker, "claimed": len(seqs), "seconds": lease}
    batch_id = connection.execute(_OPENING, opened).scalar_one()
    return Batch(
        batch_id=BatchId(batch_id),
        run_id=run_id,
        step_no=step_no,
        channel=Channel(text.channel),
        seqs=tuple(seqs),
        text=Text(
            subject=text.subject, text=text.text, html=text.html, placeholders=tuple(json.loads(text.placeholders))
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Search:
    """How to find what is due. Parameters: `of_run`, `of_step`, `now`; for `first` also `of_skeleton` and `most`.

    `oldest` is the skeleton of the message that has been due longest, found by one look into the index for each
    skeleton; `any` tells whether there is one at all; `first` are the messages of a skeleton, longest due first.
    """

    oldest: Select[tuple[int]]
    any: Select[tuple[int]]
    first: Select[tuple[int]]


@lru_cache(maxsize=256)
def _search(shard: Shard, countries: tuple[str, ...]) -> _Search:
    now = bindparam("now", type_=UtcDateTime())
    due = and_(
        messages.c.run_id == bindparam("of_run"),
        messages.c.step_no == bindparam("of_step"),
        messages.c.state == MessageState.QUEUED,
        messages.c.due_at <= now,
        ~breaker.held_back(countries, now),
        shard.where(),
    )
    at = (
        select(func.min(messages.c.due_at))
        .where(due, messages.c.skeleton_no == skeletons.c.skeleton_no)
        .correlate(skeletons)
        .scalar_subquery()
    )
    waiting = (
        select(skeletons.c.skeleton_no, at.label("at")).where(skeletons.c.run_id == bindparam("of_run")).subquery()
    )
    return _Search(
        oldest=select(waiting.c.skeleton_no).where(waiting.c.at.is_not(None)).order_by(waiting.c.at).limit(1),
        any=select(messages.c.seq).where(due).limit(1),
        first=select(messages.c.seq)
        .where(due, messages.c.skeleton_no == bindparam("of_skeleton"))
        .order_by(messages.c.due_at, messages.c.seq)
        .limit(bindparam("most", type_=Integer()))
        .with_for_update(skip_locked=True),
    )
