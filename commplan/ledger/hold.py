"""Holds: steps whose silence is not proven wait, and say why.

Never holds a run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import Connection, and_, func, select

from commplan.clock import Clock
from commplan.ids import RunId
from commplan.ledger import evidence
from commplan.ledger.gate import parameters, prove, unproven
from commplan.ledger.run import plan_of, record
from commplan.ledger.schedule import reschedule
from commplan.store import Store
from commplan.store.tables import audit, messages
from commplan.terms import MessageState

_CLOSED, _OPEN = "step held", "step goes on"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """A step that waits for its silence to be proven: how many messages, and why (None: for the next heartbeat).

    `news`: it was open before, and nobody has been told.
    """

    step_no: int
    step: str
    waiting: int
    closed: str | None
    news: bool = False

    def __str__(self) -> str:
        why = self.closed or "the feed has to be heard after their wait"
        return f"{self.step}: {self.waiting:,} messages to people who are silent wait: {why}"


def hold_back(store: Store, run_id: RunId, step_no: int, *, gathered: bool = True) -> Hold | None:
    """Make what is due of a step due later if its silence is not proven; None if there is none of that.

    Not `gathered`: before conversions are asked for, and so only what waits whatever they say.

    Short transactions of its own, each over a range of recipients. Whose condition does not hold is left alone. The
    first time that the feed is closed for a step is noted in the audit, and the first time that it is open again.
    """
    with store.read() as connection:
        plan = plan_of(connection, run_id)
        proof = prove(connection, plan, run_id, step_no, store.clock, gathered=gathered)
    step = plan.sequence[step_no - 1]
    if proof is None or step.condition is None or not (gathered or proof.closed):
        return None
    now = store.clock.now()
    held = reschedule(
        store,
        run_id,
        step_no,
        messages.c.due_at <= now,
        messages.c.not_after >= now,
        unproven(plan, step_no),
        evidence.holds(step.condition, plan, messages),
        to=proof.again,
        parameters=parameters(plan, step_no, proof),
    )
    if not held and proof.closed is not None:
        return None
    news = _note(store, run_id, step_no, step.step, proof.closed)
    return Hold(step_no=step_no, step=step.step, waiting=held, closed=proof.closed, news=news) if held else None


def _note(store: Store, run_id: RunId, step_no: int, step: str, closed: str | None) -> bool:
    """Write into the audit that a step is held, or goes on, if that is news; tell whether it was news of a hold."""
    with store.write() as connection:
        told = connection.execute(
            select(audit.c.what, audit.c.detail)
            .where(audit.c.run_id == run_id, audit.c.what.in_((_CLOSED, _OPEN)))
            .order_by(audit.c.audit_id.desc())
        )
        was_closed = next((row.what == _CLOSED for row in told if json.loads(row.detail)["step"] == step), False)
        if was_closed == (closed is not None):
            return False
        what = _OPEN if closed is None else _CLOSED
        detail = {"step": step} | ({} if closed is None else {"reason": closed})
        record(connection, run_id, store.clock.now(), what, detail)
    return closed is not None


def standing(connection: Connection, run_id: RunId, clock: Clock) -> Iterator[Hold]:
    """Yield the steps for which the feed is closed, with how many messages wait for it by now."""
    plan, now = plan_of(connection, run_id), clock.now()
    left = (MessageState.NOT_DUE, MessageState.QUEUED, MessageState.CLAIMED)
    for step_no, step in enumerate(plan.sequence, 1):
        if step.condition is None or not step.silences:
            continue
        mine = and_(messages.c.run_id == run_id, messages.c.step_no == step_no)
        if connection.execute(select(messages.c.seq).where(mine, messages.c.state.in_(left)).limit(1)).first() is None:
            continue
        proof = prove(connection, plan, run_id, step_no, clock)
        if proof is None or proof.closed is None:
            continue
        waiting = connection.execute(
            select(func.count()).where(
                mine,
                messages.c.state == MessageState.QUEUED,
                messages.c.not_after <= now + step.lateness,
                messages.c.not_after >= now,
                unproven(plan, step_no),
                evidence.holds(step.condition, plan, messages),
            ),
            parameters(plan, step_no, proof),
        ).scalar_one()
        yield Hold(step_no=step_no, step=step.step, waiting=waiting, closed=proof.closed)
