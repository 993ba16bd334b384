"""Decisions: what a person says about a follow-up on silence, in the place of its feed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, and_, bindparam, func, select
from sqlalchemy.dialects import postgresql, sqlite

from commplan.errors import RunError
from commplan.ids import RunId
from commplan.ledger import evidence
from commplan.ledger.run import plan_of, record
from commplan.ledger.schedule import reschedule
from commplan.store import Store
from commplan.store.tables import feed_decisions, messages, runs
from commplan.terms import ENDED, FeedDecision, MessageState

_NEWEST = (
    select(feed_decisions)
    .where(feed_decisions.c.run_id == bindparam("of_run"), feed_decisions.c.step_no == bindparam("of_step"))
    .order_by(feed_decisions.c.at.desc())
    .limit(1)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The newest word of a person about a step."""

    decision: str
    at: datetime
    by: str


def decision_about(connection: Connection, run_id: RunId, step_no: int) -> Decision | None:
    """Return what holds for a step by now; None if nobody has decided anything."""
    row = connection.execute(_NEWEST, {"of_run": run_id, "of_step": step_no}).one_or_none()
    return None if row is None else Decision(decision=row.decision, at=row.at, by=row.by)


def decide(
    store: Store, run_id: RunId, step_no: int, decision: FeedDecision, *, by: str, reason: str | None = None
) -> int:
    """Decide for a step in the place of its feed; return how many messages that lets on at once. Own transactions.

    `GO` lets on who has waited until now, and nobody whose wait ends later; `HOLD` holds the step whatever the feed
    says; `AUTO` leaves it to the feed again. RunError for a step that does not rest on silence, or a run that is over.
    """
    now = store.clock.now()
    with store.write() as connection:
        run = connection.execute(select(runs.c.run_key, runs.c.state).where(runs.c.run_id == run_id)).one()
        if run.state in ENDED:
            raise RunError(f"{run.run_key} is {run.state}; nothing of it waits")
        plan = plan_of(connection, run_id)
        step = plan.sequence[step_no - 1]
        if step.condition is None or not step.silences:
            raise RunError(f"{step.step} of {run.run_key} does not rest on silence, so nothing holds it for the feed")
        upsert = (sqlite if store.is_sqlite else postgresql).insert(feed_decisions)
        connection.execute(
            upsert.values(run_id=run_id, step_no=step_no, at=now, decision=decision, by=by).on_conflict_do_update(
                index_elements=list(feed_decisions.primary_key), set_={"decision": decision, "by": by}
            )
        )
        detail = {"step": step.step, "decision": decision.value, "by": by} | ({"reason": reason} if reason else {})
        record(connection, run_id, now, "feed decided", detail)
    if decision is FeedDecision.HOLD:
        return 0
    # Who has answered, or whom it is too late to write to, is left to the look that would have come anyway.
    goes_on = (
        messages.c.not_after.between(now, now + step.lateness),
        evidence.holds(step.condition, plan, messages),
    )
    reschedule(store, run_id, step_no, messages.c.due_at > now, *goes_on, to=now)
    mine = and_(messages.c.run_id == run_id, messages.c.step_no == step_no, messages.c.state == MessageState.QUEUED)
    with store.read() as connection:
        return int(connection.execute(select(func.count()).where(mine, *goes_on)).scalar_one())
