"""What the claims of ``when`` mean in the ledger, as SQL with three values.

Someone whose earlier message was not delivered neither responded nor failed to: every claim about it is NULL, so
neither a claim nor its opposite lets a later step run for them. Silence is only silence of those who were reached.
"""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    ColumnElement,
    FromClause,
    and_,
    case,
    exists,
    false,
    literal,
    null,
    or_,
    select,
    true,
)

from commplan.condition import DEFAULT_GRADE, GRADES, And, Claim, Condition, Not, Or
from commplan.plan import Plan
from commplan.store.tables import conversions, messages
from commplan.terms import MessageState

_FACTS = {"opened": "opened_at", "clicked": "clicked_at", "replied": "replied_at", "answered": "answered_at"}
#: What counts as a response of each grade, besides what counts as one of a higher grade; all of it done by people.
_GRADES = {"open": ("opened_at",), "click": ("clicked_at",), "answer": ("replied_at", "answered_at")}


def holds(condition: Condition, plan: Plan, message: FromClause) -> ColumnElement[bool]:
    """Return the SQL for `condition` about the person of a row of `message`: true, false or NULL (unknown)."""
    match condition:
        case Not(part):
            # Not NOT: "NOT (SELECT …) IS NULL", as it is written then, denies the wrong half on PostgreSQL.
            return holds(part, plan, message) == false()
        case And(parts):
            return and_(*(holds(part, plan, message) for part in parts))
        case Or(parts):
            return or_(*(holds(part, plan, message) for part in parts))
        case Claim("converted", name):
            return _converted(message, name)
        case Claim(verb, step, grade):
            return _about_step(verb, plan.step_number(step), message, grade or DEFAULT_GRADE)


def _converted(
    message: FromClause, name: str | None, since: ColumnElement[object] | None = None
) -> ColumnElement[bool]:
    query = select(literal(1)).where(conversions.c.run_id == message.c.run_id, conversions.c.seq == message.c.seq)
    if name is not None:
        query = query.where(conversions.c.name == name)
    if since is not None:
        query = query.where(conversions.c.at > since)
    return exists(query.correlate_except(conversions))


def _about_step(verb: str, step_no: int, message: FromClause, grade: str) -> ColumnElement[bool]:
    earlier = messages.alias(f"earlier_{step_no}_{verb}")
    reached = earlier.c.state == MessageState.DELIVERED
    if verb == "undelivered":
        answer = case((earlier.c.state == MessageState.FAILED, true()), (reached, false()), else_=null())
    elif verb == "delivered":
        answer = case((reached, true()), else_=null())
    elif verb == "responded":
        told = [name for one in GRADES[GRADES.index(grade) :] for name in _GRADES[one]]
        facts = or_(*(earlier.c[name].is_not(None) for name in told), _converted(earlier, None, earlier.c.accepted_at))
        answer = case((reached, facts), else_=null())
    else:
        answer = case((reached, earlier.c[_FACTS[verb]].is_not(None)), else_=null())
    return (
        select(answer.cast(Boolean))
        .where(
            earlier.c.run_id == message.c.run_id,
            earlier.c.step_no == step_no,
            earlier.c.seq == message.c.seq,
        )
        .correlate(message)
        .scalar_subquery()
    )
