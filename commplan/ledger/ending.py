"""Endings: runs that are cancelled for ever, and those that are gone before they have sent anything."""

from __future__ import annotations

from sqlalchemy import Connection, and_, delete, select, update

from commplan.errors import RunError
from commplan.ids import RunId
from commplan.ledger.run import ranges, record
from commplan.store import Store
from commplan.store.tables import (
    attempts,
    batches,
    conversions,
    enrolments,
    evaluations,
    flow_runs,
    gatherings,
    message_values,
    messages,
    recipients,
    runs,
    skeletons,
)
from commplan.terms import MessageState, Reason, RunState

_NOT_ON_WIRE = (MessageState.NOT_DUE, MessageState.QUEUED, MessageState.CLAIMED)


def cancel_run(store: Store, run_id: RunId, *, by: str | None = None, reason: str | None = None) -> int:
    """Cancel a run for ever and return how many messages that stopped; what is on the wire is not called back.

    The first transaction stops all claims; short ones over ranges of recipients follow, and cancelling again goes on
    where they were cut short. People whom the run never wrote to are released for later runs of the plan.
    """
    now = store.clock.now()
    with store.write() as connection:
        if not connection.execute(
            update(runs)
            .where(runs.c.run_id == run_id, runs.c.state.not_in((RunState.FINISHED, RunState.SUPERSEDED)))
            .values(state=RunState.CANCELLED, finished_at=now)
        ).rowcount:
            return 0
    stopped = cancel_waiting(store, run_id, Reason.RUN_CANCELLED)
    with store.write() as connection:
        release_enrolments(connection, run_id)
        said = {name: text for name, text in (("by", by), ("reason", reason)) if text}
        record(connection, run_id, now, "cancelled", {"messages": stopped, **said})
    return stopped


def cancel_waiting(store: Store, run_id: RunId, reason: Reason) -> int:
    """Cancel every message of a stopped run that is not on the wire; return how many. Short transactions."""
    stopped = 0
    for first, last in ranges(store, run_id):
        with store.write() as connection:
            stopped += connection.execute(
                update(messages)
                .where(
                    messages.c.run_id == run_id,
                    messages.c.seq.between(first, last),
                    messages.c.state.in_(_NOT_ON_WIRE),
                )
                .values(state=MessageState.CANCELLED, reason=reason, batch_id=None)
            ).rowcount
    return stopped


def release_enrolments(connection: Connection, run_id: RunId) -> None:
    """Give back the places of people whom the run has not written to. In the caller's transaction.

    Who may have been written to keeps the place: what is on the wire, or unknown, may arrive.
    """
    perhaps = (
        select(recipients.c.contact_id)
        .join(messages, and_(messages.c.run_id == recipients.c.run_id, messages.c.seq == recipients.c.seq))
        .where(
            recipients.c.run_id == run_id,
            messages.c.run_id == run_id,
            messages.c.state.in_((MessageState.SENDING, MessageState.UNKNOWN)),
        )
    )
    connection.execute(
        delete(enrolments).where(
            enrolments.c.run_id == run_id, enrolments.c.state == "reserved", enrolments.c.contact_id.not_in(perhaps)
        )
    )


def discard_run(store: Store, run_id: RunId) -> None:
    """Remove a run that has sent nothing, so that its key can be used again after a mistake was mended.

    One transaction. RunError, and nothing removed, if any request of the run was ever put on the wire.
    """
    with store.write() as connection:
        if connection.execute(select(attempts.c.attempt_id).where(attempts.c.run_id == run_id).limit(1)).first():
            raise RunError("this run has sent messages; cancel it instead of discarding it")
        for table in (
            messages,
            message_values,
            skeletons,
            conversions,
            gatherings,
            enrolments,
            recipients,
            evaluations,
            batches,
            flow_runs,
            runs,
        ):
            connection.execute(delete(table).where(table.c.run_id == run_id))
        record(connection, run_id, store.clock.now(), "discarded", {})
