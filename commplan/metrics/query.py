"""Counting one run, straight from the ledger, in a handful of set-based statements.

Never writes, and never brings a row that stands for one person into the process.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    Connection,
    Row,
    and_,
    case,
    func,
    literal,
    or_,
    select,
    true,
    type_coerce,
)

from commplan.errors import RunError
from commplan.ids import RunId
from commplan.ledger import settlement
from commplan.metrics.count import (
    OPEN_STATES,
    Cell,
    Converted,
    Gathering,
    Invited,
    LinkClicks,
    Metrics,
    People,
    RunFacts,
    Scores,
)
from commplan.plan import Goal, Plan
from commplan.store.tables import (
    answers,
    conversions,
    gatherings,
    messages,
    receipts,
    recipients,
    replies,
    rsvps,
    runs,
    skeletons,
)
from commplan.terms import Channel, MessageState, Reason, ReceiptKind, RsvpAnswer, RunState

_MICROSECOND = timedelta(microseconds=1)


def measure(connection: Connection, *, run_id: RunId, plan: Plan) -> Metrics:
    """Count one run, in a handful of statements over the whole ledger.

    Only reads; call it inside `Store.read`. RunError if there is no such run.
    """
    run = connection.execute(select(runs).where(runs.c.run_id == run_id)).one_or_none()
    if run is None:
        raise RunError("there is no such run in this store; `commplan status` lists the runs")
    return Metrics(
        run=RunFacts(
            plan=run.plan,
            occurrence=run.occurrence,
            digest=run.digest,
            state=RunState(run.state),
            snapshot_at=run.snapshot_at,
            first_accepted_at=run.first_accepted_at,
            finished_at=run.finished_at,
        ),
        cells=_cells(connection, run_id),
        people=_people(connection, run_id),
        conversions=tuple(
            found for goal in plan.goals if goal.conversion for found in _converted(connection, run_id, run.plan, goal)
        ),
        gatherings=_gatherings(connection, run_id),
        scores=_scores(connection, run_id),
        invited=tuple(found for event in sorted(plan.events) for found in _invited(connection, run_id, plan, event)),
        links=_links(connection, run_id, plan),
        doubts=settlement.doubts(connection, run_id),
        replies=connection.execute(
            select(func.count()).select_from(replies).where(replies.c.run_id == run_id, replies.c.auto_why.is_(None))
        ).scalar_one(),
    )


def _sorted(rows: Iterable[Any], *names: str) -> tuple[Any, ...]:
    """Sort in Python: databases do not agree on collation, nor on where NULL comes."""

    def place(row: Any) -> list[tuple[bool, Any]]:
        values = (getattr(row, name) for name in names)
        return [(value is not None, 0 if value is None else value) for value in values]

    return tuple(sorted(rows, key=place))


def _cells(connection: Connection, run_id: RunId) -> tuple[Cell, ...]:
    m, r = messages.c, recipients.c
    country = case((m.channel == Channel.SMS, r.country)).label("country")
    keys = (m.step_no, m.channel, r.segment, r.locale, country, m.state, m.reason)
    responded = or_(m.clicked_at.is_not(None), m.replied_at.is_not(None), m.answered_at.is_not(None))
    rows = connection.execute(
        select(
            *keys,
            func.count().label("messages"),
            func.count(m.accepted_at).label("accepted"),
            func.count(m.opened_at).label("opened"),
            func.count(m.machine_opened_at).label("machine_opened"),
            func.count(m.clicked_at).label("clicked"),
            func.count(m.machine_clicked_at).label("machine_clicked"),
            func.count(m.replied_at).label("replied"),
            func.count(m.answered_at).label("answered"),
            func.count(case((responded, 1))).label("responded"),
            func.count(m.opted_out_at).label("opted_out"),
            func.count(m.complained_at).label("complained"),
            func.coalesce(func.sum(case((m.accepted_at.is_not(None), func.coalesce(m.parts, 1)))), 0).label("parts"),
            func.max(m.accepted_at).label("last_accepted_at"),
        )
        .join(recipients, and_(r.run_id == m.run_id, r.seq == m.seq))
        .where(m.run_id == run_id)
        .group_by(*keys)
    )
    cells = (
        Cell(
            **{
                **row._asdict(),
                "channel": Channel(row.channel),
                "state": MessageState(row.state),
                "reason": Reason(row.reason) if row.reason else None,
            }
        )
        for row in rows
    )
    return _sorted(cells, "step_no", "channel", "segment", "locale", "country", "state", "reason")


def _any(condition: ColumnElement[bool]) -> ColumnElement[int]:
    """1 if the condition holds for any message of the person."""
    return func.max(case((condition, 1), else_=0))


def _persons(run_id: RunId) -> CTE:
    """One row per person: what became of their messages taken together."""
    m = messages.c
    here = m.state == MessageState.DELIVERED
    clicked, replied, answered = m.clicked_at.is_not(None), m.replied_at.is_not(None), m.answered_at.is_not(None)
    unsettled = [*OPEN_STATES, MessageState.UNKNOWN]
    return (
        select(
            m.seq,
            _any(m.state != MessageState.EXCLUDED).label("assigned"),
            _any(m.accepted_at.is_not(None)).label("accepted"),
            _any(here).label("delivered"),
            _any(and_(here, m.opened_at.is_not(None))).label("opened"),
            _any(and_(here, clicked)).label("clicked"),
            _any(and_(here, or_(clicked, replied, answered))).label("responded"),
            _any(m.state.in_(unsettled)).label("may_be_accepted"),
            _any(m.state.in_([*unsettled, MessageState.ACCEPTED])).label("may_be_delivered"),
            func.min(m.accepted_at).label("first"),
        )
        .where(m.run_id == run_id)
        .group_by(m.seq)
        .cte("persons")
    )


def _people(connection: Connection, run_id: RunId) -> tuple[People, ...]:
    p, r = (persons := _persons(run_id)).c, recipients.c
    open_ = func.sum(case((and_(p.delivered == 0, p.may_be_delivered == 1), 1), else_=0)).label("open")
    counted = ("assigned", "accepted", "delivered", "opened", "clicked", "responded")
    rows = connection.execute(
        select(
            r.segment,
            func.count().label("snapshot"),
            *(func.coalesce(func.sum(p[name]), 0).label(name) for name in counted),
            open_,
        )
        .select_from(recipients.outerjoin(persons, p.seq == r.seq))
        .where(r.run_id == run_id)
        .group_by(r.segment)
    )
    return _sorted((People(**_whole(row)) for row in rows), "segment")


def _whole(row: Row[Any]) -> dict[str, Any]:
    """PostgreSQL sums integers to numeric, which arrives as Decimal."""
    return {
        key: value if value is None or isinstance(value, str) else int(value) for key, value in row._asdict().items()
    }


def _converted(connection: Connection, run_id: RunId, plan_name: str, goal: Goal) -> tuple[Converted, ...]:
    """Count conversions after a person's first accepted message and at most `within` later, once per person.

    A conversion belongs to the latest run of the plan that had written to the person before it.
    """
    if goal.within is None:
        raise ValueError("a conversion goal has a window")
    within = goal.within // _MICROSECOND
    p, r, c = (persons := _persons(run_id)).c, recipients.c, conversions.c
    first, at = type_coerce(p.first, BigInteger), type_coerce(c.at, BigInteger)
    in_window = (
        select(c.seq)
        .distinct()
        .join_from(conversions, persons, p.seq == c.seq)
        .join(recipients, and_(r.run_id == c.run_id, r.seq == c.seq))
        .where(
            c.run_id == run_id,
            c.name == goal.conversion,
            at > first,
            at <= first + within,
            ~_claimed_by_later_run(run_id, plan_name, first=p.first, at=c.at),
        )
        .cte("in_window")
    )
    answered_at = connection.execute(
        select(func.max(gatherings.c.at)).where(
            gatherings.c.run_id == run_id, gatherings.c.name == goal.conversion, gatherings.c.succeeded
        )
    ).scalar_one()
    not_asked = true() if answered_at is None else first + within > literal(answered_at, gatherings.c.at.type)
    waiting = and_(in_window.c.seq.is_(None), p.first.is_not(None), not_asked)
    rows = connection.execute(
        select(
            r.segment,
            func.coalesce(func.sum(p.assigned), 0).label("assigned"),
            func.count(in_window.c.seq).label("converted"),
            func.count(case((waiting, 1))).label("waiting"),
            func.count(case((and_(p.first.is_(None), p.may_be_accepted == 1), 1))).label("unwritten"),
            func.max(p.first).label("last_start"),
        )
        .select_from(recipients.join(persons, p.seq == r.seq).outerjoin(in_window, in_window.c.seq == r.seq))
        .where(r.run_id == run_id)
        .group_by(r.segment)
    )
    found = (
        Converted(
            goal=goal.id,
            segment=row.segment,
            assigned=int(row.assigned),
            converted=row.converted,
            waiting=row.waiting,
            unwritten=row.unwritten,
            last_start=row.last_start,
        )
        for row in rows
    )
    return _sorted(found, "segment")


def _claimed_by_later_run(
    run_id: RunId, plan_name: str, *, first: ColumnElement[datetime], at: ColumnElement[datetime]
) -> ColumnElement[bool]:
    """Another run of the plan first wrote to the same person after `first` and before `at`."""
    other, sent, run = recipients.alias("other"), messages.alias("sent"), runs.alias("other_run")
    return (
        select(sent.c.run_id)
        .select_from(run)
        .join(other, other.c.run_id == run.c.run_id)
        .join(sent, and_(sent.c.run_id == other.c.run_id, sent.c.seq == other.c.seq))
        .where(
            run.c.plan == plan_name,
            run.c.run_id != run_id,
            other.c.people == recipients.c.people,
            other.c.contact_id == recipients.c.contact_id,
        )
        .group_by(sent.c.run_id)
        .having(and_(func.min(sent.c.accepted_at) > first, func.min(sent.c.accepted_at) < at))
        .correlate(recipients, conversions, first.table)
        .exists()
    )


def _gatherings(connection: Connection, run_id: RunId) -> tuple[Gathering, ...]:
    g = gatherings.c
    rows = connection.execute(
        select(
            g.name,
            func.max(g.at).label("asked_at"),
            func.max(case((g.succeeded, g.at))).label("answered_at"),
        )
        .where(g.run_id == run_id)
        .group_by(g.name)
    )
    return _sorted((Gathering(**row._asdict()) for row in rows), "name")


def _scores(connection: Connection, run_id: RunId) -> tuple[Scores, ...]:
    a, r = answers.c, recipients.c
    rows = connection.execute(
        select(
            a.step_no,
            r.segment,
            a.score,
            func.count().label("answers"),
            func.count(case((a.text != "", 1))).label("comments"),
        )
        .join_from(answers, recipients, and_(r.run_id == a.run_id, r.seq == a.seq))
        .where(a.run_id == run_id)
        .group_by(a.step_no, r.segment, a.score)
    )
    return _sorted((Scores(**row._asdict()) for row in rows), "step_no", "segment", "score")


def _invited(connection: Connection, run_id: RunId, plan: Plan, event: str) -> tuple[Invited, ...]:
    """Count the answers of people whom this run invited; who answered was reached, whatever the provider says."""
    m, r, a = messages.c, recipients.c, rsvps.c
    inviting = [number for number, step in enumerate(plan.sequence, 1) if step.rsvp == event]
    may_be_delivered = [*OPEN_STATES, MessageState.UNKNOWN, MessageState.ACCEPTED]
    reached = (
        select(
            m.seq,
            _any(or_(m.state == MessageState.DELIVERED, m.answered_at.is_not(None))).label("here"),
            _any(m.state.in_(may_be_delivered)).label("may_be"),
        )
        .where(m.run_id == run_id, m.step_no.in_(inviting))
        .group_by(m.seq)
        .cte("reached")
    )
    here = reached.c.here == 1
    rows = connection.execute(
        select(
            r.segment,
            func.count(case((here, 1))).label("invited"),
            func.count(case((and_(~here, reached.c.may_be == 1), 1))).label("open"),
            *(func.count(case((and_(here, a.answer == answer), 1))).label(answer.value) for answer in RsvpAnswer),
        )
        .select_from(
            recipients.join(reached, reached.c.seq == r.seq).outerjoin(
                rsvps,
                and_(a.plan == plan.plan, a.event == event, a.people == r.people, a.contact_id == r.contact_id),
            )
        )
        .where(r.run_id == run_id)
        .group_by(r.segment)
    )
    return _sorted((Invited(event=event, **row._asdict()) for row in rows), "segment")


def _links(connection: Connection, run_id: RunId, plan: Plan) -> tuple[LinkClicks, ...]:
    """Count the links of texts, those that nobody followed too."""
    s, r, m = skeletons.c, receipts.c, messages.c
    named: dict[str, set[str]] = {}
    for content, links in connection.execute(
        select(s.content, s.links).where(s.run_id == run_id, s.channel == Channel.SMS, s.links.is_not(None))
    ):
        named.setdefault(content, set()).update(json.loads(links))
    segments = [None, *(segment.name for segment in plan.audience.segments)]
    counts: dict[tuple[int, str], tuple[int, int]] = {}
    for step_no in range(1, len(plan.sequence) + 1):
        touches = (plan.touch(step_no, segment) for segment in segments)
        sent = {touch.content for touch in touches if touch.channel is Channel.SMS and not touch.skip}
        counts.update({(step_no, link): (0, 0) for content in sent for link in named.get(content, ())})
    if not counts:
        return ()
    rows = connection.execute(
        select(
            r.step_no,
            r.url_key,
            func.count(case((r.machine_why.is_(None), r.seq)).distinct()),
            func.count(case((r.machine_why.is_not(None), r.seq)).distinct()),
        )
        .join(messages, and_(m.run_id == r.run_id, m.step_no == r.step_no, m.seq == r.seq))
        .where(
            r.run_id == run_id,
            r.step_no.in_({step_no for step_no, _ in counts}),
            r.kind == ReceiptKind.CLICKED,
            r.provider == "page",
            m.state == MessageState.DELIVERED,
        )
        .group_by(r.step_no, r.url_key)
    )
    counts.update({(row[0], row[1]): (row[2], row[3]) for row in rows})
    found = (
        LinkClicks(step_no=step_no, link=link, clicked=people, machine_clicked=machines)
        for (step_no, link), (people, machines) in counts.items()
    )
    return _sorted(found, "step_no", "link")
