"""Polling: what became of texts whose callbacks never arrived, asked of the provider's own record.

Twilio gives a callback up 15 seconds after it began to try; a receiver that was away longer never hears of it. The
answer goes into the inbox as that callback would have, so hearing it again changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import urlencode

from sqlalchemy import ColumnElement, Row, and_, case, func, or_, select
from sqlalchemy.dialects import postgresql, sqlite

from commplan.channels.base import Gateways
from commplan.envelope import TextStatus
from commplan.errors import DeliveryError
from commplan.ids import MessageRef, RunId, TokenPurpose
from commplan.store import Store
from commplan.store.tables import attempts, messages, polls, runs
from commplan.store.types import machine_now
from commplan.terms import AttemptOutcome, Channel, MessageState, RunState
from commplan.tracking import PostKind, append

_LOG = logging.getLogger("commplan.poll")

#: Machine seconds from a request to the first question about its text; each following pause is twice as long, up to
#: the longest. Past `GIVE_UP` nobody asks any more: a text waits ten hours at Twilio at the most.
FIRST, LONGEST, GIVE_UP = 60.0, 3_600.0, 48 * 3_600.0
#: Texts that are asked about in one pass, one after the other, and failures in a row after which a pass ends.
MOST, _DISCOURAGED = 100, 3
#: How long after its end a run's texts are still asked about, in plan time.
_AFTERWARDS = timedelta(days=2)
#: Statuses after which none follows that matters, in Twilio's words.
_FINAL = frozenset({"delivered", "read", "undelivered", "failed", "canceled"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Polled:
    """What one pass came to: texts `asked` about, and of them those whose fate is `told`."""

    asked: int = 0
    told: int = 0


def open_runs(store: Store) -> list[RunId]:
    """Return the runs whose texts may still be waiting for their last callback."""
    ended = and_(runs.c.state == RunState.FINISHED, runs.c.finished_at > store.clock.now() - _AFTERWARDS)
    going = runs.c.state.in_((RunState.EXECUTING, RunState.PAUSED, RunState.HELD))
    with store.read() as connection:
        return [
            RunId(run_id) for run_id in connection.execute(select(runs.c.run_id).where(or_(going, ended))).scalars()
        ]


def poll(store: Store, gateways: Callable[[], Gateways], run_ids: Sequence[RunId]) -> Polled:
    """Ask about texts that were accepted a while ago and of which nothing final has been heard; `MOST` at a time.

    What is told waits in the inbox, to be applied. Whatever is not answered is asked again later. No transaction is
    open while asking; `gateways` is called if there is anything to ask.
    """
    asked = told = failures = 0
    for row in _due(store, run_ids):
        try:
            found = gateways().sms.fetch(row.provider_id)
        except DeliveryError as error:
            found, failures = None, failures + 1
            _LOG.warning("a text could not be asked about", extra={"status": error.status, "code": error.code})
        else:
            failures = 0
        asked += 1
        if found is not None and (found.status in _FINAL or (found.status == "sent" and row.sent_at is None)):
            told += 1
            _tell(store, row, found)
        _note(store, row.attempt_id)
        if failures == _DISCOURAGED:
            break
    return Polled(asked=asked, told=told)


def _due(store: Store, run_ids: Sequence[RunId]) -> Sequence[Row[tuple[object, ...]]]:
    pauses: ColumnElement[float] = case(
        {count: min(LONGEST, FIRST * 2.0**count) for count in range(1, 7)}, value=polls.c.count, else_=LONGEST
    )
    with store.read() as connection:
        return connection.execute(
            select(
                messages.c.run_id,
                messages.c.step_no,
                messages.c.seq,
                messages.c.provider_id,
                messages.c.sent_at,
                attempts.c.attempt_id,
            )
            .join(attempts, attempts.c.attempt_id == messages.c.attempt_id)
            .outerjoin(polls, polls.c.attempt_id == attempts.c.attempt_id)
            .where(
                messages.c.run_id.in_(run_ids),
                messages.c.channel == Channel.SMS,
                messages.c.state == MessageState.ACCEPTED,
                messages.c.provider_id.is_not(None),
                attempts.c.outcome == AttemptOutcome.ACCEPTED,
                attempts.c.wire_machine.between(machine_now() - GIVE_UP, machine_now() - FIRST),
                or_(polls.c.attempt_id.is_(None), polls.c.asked_machine <= machine_now() - pauses),
            )
            .order_by(func.coalesce(polls.c.asked_machine, 0.0), attempts.c.wire_machine)
            .limit(MOST)
        ).all()


def _tell(store: Store, row: Row[tuple[object, ...]], found: TextStatus) -> None:
    """Put into the inbox what the callback would have said."""
    token = store.keyring.token(TokenPurpose.MESSAGE, MessageRef(RunId(row.run_id), row.step_no, row.seq))
    form = {"MessageSid": found.provider_id, "MessageStatus": found.status}
    if found.code is not None:
        form["ErrorCode"] = found.code
    append(
        store,
        kind=PostKind.TWILIO_STATUS,
        query={"m": token, "a": row.attempt_id},
        body=urlencode(form).encode("ascii"),
    )


def _note(store: Store, attempt_id: str) -> None:
    upsert = (sqlite if store.is_sqlite else postgresql).insert(polls)
    with store.write() as connection:
        connection.execute(
            upsert.values(attempt_id=attempt_id, asked_machine=machine_now(), count=1).on_conflict_do_update(
                index_elements=[polls.c.attempt_id],
                set_={"asked_machine": machine_now(), "count": polls.c.count + 1},
            )
        )
