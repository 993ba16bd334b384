"""Telling owners that people wrote: counts and a link, at most once an hour for each step.

Never says who wrote, or what, and never tells the same twice, however many processes are at it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, and_, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from commplan import notice
from commplan.errors import InputError
from commplan.feedback.item import scores_low
from commplan.feedback.link import link_to
from commplan.ids import RunId
from commplan.ledger.run import load_run, plan_of
from commplan.plan import Plan
from commplan.settings import Settings
from commplan.store import Store
from commplan.store.tables import answers, feedback_notices, replies
from commplan.store.types import machine_now
from commplan.tracking.inbox import take_turn

_LOG = logging.getLogger("commplan.feedback")

#: Machine seconds between two notifications about one step: what comes meanwhile is summed up in the next.
PAUSE = 3_600.0
#: Machine seconds that one process has to tell somebody; whoever dies meanwhile leaves it to another.
_LEASE = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _News:
    run_id: RunId
    step_no: int
    replies: int = 0
    comments: int = 0
    low_scores: int = 0
    last_reply: int = 0
    answers_until: datetime | None = None

    @property
    def is_any(self) -> bool:
        return bool(self.replies or self.comments or self.low_scores)


def tell_owners(store: Store, settings: Settings, environ: Mapping[str, str]) -> int:
    """Tell each step's owner what came since they were last told; return how many steps somebody was told of.

    A step is claimed before anybody is told of it, by one of the processes that may be at it, and marked afterwards. No
    transaction is open meanwhile. Whoever cannot be told is tried again after `_LEASE`.
    """
    with store.read() as connection:
        steps = sorted(step for step in _steps(connection) if _is_open(connection, *step))
    told = 0
    for run_id, step_no in steps:
        try:
            with store.read() as connection:
                plan = plan_of(connection, run_id)
        except InputError:
            # A plan of an earlier version, which this one does not read; the others still have their turn.
            continue
        if plan.team[plan.owner].notify is None:
            continue
        news = _claim(store, plan, run_id, step_no)
        if news is not None and _tell(store, settings, plan, news, environ):
            _mark(store, news)
            told += 1
    return told


def _tell(store: Store, settings: Settings, plan: Plan, news: _News, environ: Mapping[str, str]) -> bool:
    run_key, step = load_run(store, news.run_id).run_key, plan.sequence[news.step_no - 1].step
    counts = ((news.replies, "reply", "replies"), (news.comments, "comment", "comments"))
    said = [f"{count:,} {one if count == 1 else many}" for count, one, many in counts if count]
    if news.low_scores:
        said.append(f"{news.low_scores:,} low {'score' if news.low_scores == 1 else 'scores'}")
    link = link_to(settings, store.keyring, news.run_id)
    return notice.tell_owner(
        plan,
        environ,
        title=f"{'SANDBOX: ' if store.is_sandbox else ''}{run_key}: feedback on {step}",
        body=f"{', '.join(said)}. Whoever has this link can read it for {settings.feedback_hours:g} hours: {link} "
        f"(or: commplan feedback {run_key})",
    )


def _is_open(connection: Connection, run_id: RunId, step_no: int) -> bool:
    """Tell whether nobody is telling of a step, or was told less than `PAUSE` ago."""
    n = feedback_notices.c
    busy = connection.execute(
        select(n.run_id).where(
            n.run_id == run_id,
            n.step_no == step_no,
            or_(n.lease_machine > machine_now(), n.told_machine > machine_now() - PAUSE),
        )
    ).one_or_none()
    return busy is None


def _claim(store: Store, plan: Plan, run_id: RunId, step_no: int) -> _News | None:
    """Return what is new of a step, for this process alone to tell; None if there is nothing, or another is at it."""
    insert = sqlite.insert if store.is_sqlite else postgresql.insert
    with store.write() as connection:
        # Nothing is written in the meantime, so what is counted is all that the marks stand for.
        take_turn(connection)
        news = _count(connection, plan, run_id, step_no)
        if not _is_open(connection, run_id, step_no):
            return None
        # What is no news is marked at once: nobody needs to look at it again.
        marks: dict[str, object] = (
            {"lease_machine": machine_now() + _LEASE}
            if news.is_any
            else {"last_reply": news.last_reply, "answers_until": news.answers_until}
        )
        connection.execute(
            insert(feedback_notices)
            .values(run_id=run_id, step_no=step_no, **marks)
            .on_conflict_do_update(index_elements=[feedback_notices.c.run_id, feedback_notices.c.step_no], set_=marks)
        )
    return news if news.is_any else None


def _mark(store: Store, news: _News) -> None:
    n = feedback_notices.c
    with store.write() as connection:
        connection.execute(
            update(feedback_notices)
            .where(n.run_id == news.run_id, n.step_no == news.step_no)
            .values(
                last_reply=news.last_reply,
                answers_until=news.answers_until,
                told_machine=machine_now(),
                lease_machine=None,
            )
        )


def _steps(connection: Connection) -> set[tuple[RunId, int]]:
    """Return the steps of which owners may not know everything, as run and number."""
    n, found = feedback_notices.c, set()
    for table, is_new in (
        (replies, and_(replies.c.auto_why.is_(None), replies.c.reply_id > func.coalesce(n.last_reply, 0))),
        (answers, or_(n.answers_until.is_(None), answers.c.changed_at > n.answers_until)),
    ):
        notices = and_(n.run_id == table.c.run_id, n.step_no == table.c.step_no)
        rows = connection.execute(
            select(table.c.run_id, table.c.step_no)
            .join(feedback_notices, notices, isouter=True)
            .where(table.c.run_id.is_not(None), is_new)
            .distinct()
        )
        found |= {(RunId(run_id), step_no) for run_id, step_no in rows}
    return found


def _count(connection: Connection, plan: Plan, run_id: RunId, step_no: int) -> _News:
    """Return what came of a step since its owner was told, and where that ends."""
    n, r, a = feedback_notices.c, replies.c, answers.c
    known = connection.execute(
        select(n.last_reply, n.answers_until).where(n.run_id == run_id, n.step_no == step_no)
    ).one_or_none()
    last, until = (known.last_reply, known.answers_until) if known is not None else (0, None)
    here = and_(r.run_id == run_id, r.step_no == step_no, r.auto_why.is_(None), r.reply_id > last)
    came, newest = connection.execute(select(func.count(), func.max(r.reply_id)).where(here)).one()
    comments = low_scores = 0
    latest = until
    for score, has_text, count, changed in connection.execute(
        select(a.score, a.text.is_not(None), func.count(), func.max(a.changed_at))
        .where(a.run_id == run_id, a.step_no == step_no, *([] if until is None else [a.changed_at > until]))
        .group_by(a.score, a.text.is_not(None))
    ):
        comments += count if has_text else 0
        low_scores += count if scores_low(plan, step_no, score) else 0
        latest = changed if latest is None else max(latest, changed)
    return _News(
        run_id=run_id,
        step_no=step_no,
        replies=came,
        comments=comments,
        low_scores=low_scores,
        last_reply=newest or last,
        answers_until=latest,
    )
