"""What people said in answer to a run: replies in words, comments of surveys, low scores.

Never has an address in it, and never what a machine answered.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, and_, false, or_, select

from commplan.errors import InputError
from commplan.ids import RunId
from commplan.ledger.run import plan_of
from commplan.plan import Plan
from commplan.store.tables import answers, messages, recipients, replies
from commplan.terms import Channel
from commplan.tracking.keyword import mentions_stop

#: The highest score that is low, by scale: *dissatisfied* of CSAT, *detractors* of NPS.
LOW = {"csat": 2, "nps": 6}


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One thing that one person said, newest wording; `at` is plan time.

    `inferred`: nothing but its sender tells what it answers. `objects`: a word in it may ask us to stop. Survey answers
    have a `scale`.
    """

    at: datetime
    step: str
    channel: Channel
    people: str = field(repr=False)
    contact_id: str = field(repr=False)
    text: str | None = field(repr=False)
    scale: str | None = None
    score: int | None = None
    is_low: bool = False
    inferred: bool = False
    objects: bool = False

    @property
    def contact(self) -> str:
        """The person, as `commplan explain --contact` takes them."""
        return f"{self.people}:{self.contact_id}"


def scores_low(plan: Plan, step_no: int, score: int | None) -> bool:
    """Tell whether a score of a step's survey is low."""
    ask = plan.sequence[step_no - 1].ask
    return ask is not None and score is not None and score <= LOW[ask.scale]


def find(
    connection: Connection, run_id: RunId, *, low: bool = False, step: str | None = None, limit: int | None = None
) -> list[Item]:
    """Return what people said, newest first; with `low` only low scores. InputError when there is no such step."""
    plan = plan_of(connection, run_id)
    names = [one.step for one in plan.sequence]
    if step is not None and step not in names:
        raise InputError.one("--step", f"the plan has no step {step!r}", f"choose one of {', '.join(names)}")
    step_no = None if step is None else names.index(step) + 1
    found = list(_answers(connection, run_id, plan, low=low, step_no=step_no, limit=limit))
    if not low:
        found += _replies(connection, run_id, plan, step_no=step_no, limit=limit)
    found.sort(key=lambda item: item.at, reverse=True)
    return found[:limit]


def _replies(
    connection: Connection, run_id: RunId, plan: Plan, *, step_no: int | None, limit: int | None
) -> Iterator[Item]:
    r = replies.c
    rows = connection.execute(
        select(r.at, r.step_no, r.channel, r.text, r.inferred, recipients.c.people, recipients.c.contact_id)
        .join(recipients, and_(recipients.c.run_id == r.run_id, recipients.c.seq == r.seq))
        .where(r.run_id == run_id, r.auto_why.is_(None), *([] if step_no is None else [r.step_no == step_no]))
        .order_by(r.at.desc(), r.reply_id.desc())
        .limit(limit)
    )
    for row in rows:
        yield Item(
            at=row.at,
            step=plan.sequence[row.step_no - 1].step,
            channel=Channel(row.channel),
            people=row.people,
            contact_id=row.contact_id,
            text=row.text,
            inferred=row.inferred,
            objects=mentions_stop(row.text),
        )


def _answers(
    connection: Connection, run_id: RunId, plan: Plan, *, low: bool, step_no: int | None, limit: int | None
) -> Iterator[Item]:
    a, m = answers.c, messages.c
    is_low: ColumnElement[bool] = or_(
        false(),
        *(
            and_(a.step_no == number, a.score <= LOW[step.ask.scale])
            for number, step in enumerate(plan.sequence, 1)
            if step.ask is not None
        ),
    )
    rows = connection.execute(
        select(a.changed_at, a.step_no, a.score, a.text, m.channel, recipients.c.people, recipients.c.contact_id)
        .join(messages, and_(m.run_id == a.run_id, m.step_no == a.step_no, m.seq == a.seq))
        .join(recipients, and_(recipients.c.run_id == a.run_id, recipients.c.seq == a.seq))
        .where(
            a.run_id == run_id,
            is_low if low else or_(is_low, a.text.is_not(None)),
            *([] if step_no is None else [a.step_no == step_no]),
        )
        .order_by(a.changed_at.desc(), a.step_no, a.seq)
        .limit(limit)
    )
    for row in rows:
        step = plan.sequence[row.step_no - 1]
        yield Item(
            at=row.changed_at,
            step=step.step,
            channel=Channel(row.channel),
            people=row.people,
            contact_id=row.contact_id,
            text=row.text,
            scale=None if step.ask is None else step.ask.scale,
            score=row.score,
            is_low=scores_low(plan, row.step_no, row.score),
            objects=row.text is not None and mentions_stop(row.text),
        )
