"""The rules of the last look: why a message may not go out at this moment, in order of precedence.

They are SQL, built once for a step of a run; what differs from look to look comes as parameters.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, Text, Update, and_, bindparam, case, select, update

from commplan import condition as conditions
from commplan import consent
from commplan.ids import AddressKey
from commplan.ledger import breaker, evidence, gate
from commplan.ledger.claim import Batch
from commplan.ledger.schedule import LOOK_LATER
from commplan.ledger.unsettled import EVIDENCE_TIME, number_in_doubt
from commplan.plan import Plan
from commplan.store.tables import message_values, messages, recipients, values_of
from commplan.store.types import among, instant, listed
from commplan.terms import Channel, MessageState, Reason

#: Plan time until a number is looked at again of which it is not known whether it has just been written to.
SETTLE_LATER = timedelta(minutes=5)

#: An earlier message in one of these may still be delivered, or not: what is claimed about it is not known yet.
_PENDING = (
    MessageState.QUEUED,
    MessageState.CLAIMED,
    MessageState.SENDING,
    MessageState.UNKNOWN,
    MessageState.ACCEPTED,
)


_NAMED = and_(
    messages.c.run_id == bindparam("of_run"),
    messages.c.step_no == bindparam("of_step"),
    among(messages.c.seq, bindparam("of_seqs", type_=Text())),
)
#: The rows a look is about, while they are only picked, and once they are claimed by a batch.
PICKED = and_(_NAMED, messages.c.state == MessageState.QUEUED)
CLAIMED = and_(
    _NAMED,
    messages.c.state == MessageState.CLAIMED,
    # Written so that each is found by its key, and not by going through all that the batch has claimed.
    messages.c.batch_id + 0 == bindparam("of_batch"),
)


def rows_of(batch: Batch, seqs: Collection[int]) -> dict[str, object]:
    """Return the parameters that name some messages of a batch."""
    return {"of_run": batch.run_id, "of_step": batch.step_no, "of_batch": batch.batch_id, "of_seqs": listed(seqs)}


def times_of(now: datetime) -> dict[str, object]:
    """Return the parameters that say when a look is taken."""
    return {
        "now": now,
        "looked_later": now + LOOK_LATER,
        "settled_later": now + SETTLE_LATER,
        "evidence_since": now - EVIDENCE_TIME,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    """A reason not to send now: when it applies, to a row of messages joined with its recipient, and what follows."""

    applies: ColumnElement[bool]
    change: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a look asks, and what it writes about those who do not pass. Parameters: `rows_of`, `times_of`.

    `examine` returns what is to be known of each message, with the number of the first rule against it (`rule`), None
    if there is none; `refusals` are what follows, by that number.
    """

    examine: Select[Any]
    refusals: tuple[Update, ...]


#: By what decides them. The plan is kept too, so that its identity stays its own.
_BUILT: dict[tuple[object, ...], tuple[Plan, Rules]] = {}
_MOST_BUILT = 1_000


def rules_of(
    plan: Plan,
    batch: Batch,
    *,
    mine: ColumnElement[bool],
    allowed: Collection[AddressKey] | None,
    countries: tuple[str, ...],
) -> Rules:
    """Return the rules for a batch; `mine` is `PICKED` or `CLAIMED`, `countries` those that are not texted for now."""
    only = None if allowed is None else frozenset(allowed)
    key = (id(plan), batch.step_no, batch.channel, mine is PICKED, only, countries)
    found = _BUILT.get(key)
    if found is None:
        if len(_BUILT) >= _MOST_BUILT:
            _BUILT.clear()
        found = _BUILT[key] = plan, _build(_rules(plan, batch, only, countries), batch.channel, mine)
    return found[1]


def _build(rules: list[_Rule], channel: Channel, mine: ColumnElement[bool]) -> Rules:
    who = recipients.c
    address, key = (who.email, who.email_key) if channel is Channel.EMAIL else (who.phone, who.phone_key)
    examine = (
        select(
            messages.c.seq,
            message_values.c.slot_values,
            messages.c.not_after,
            address.label("address"),
            (key != messages.c.address_key).label("moved"),
            who.segment,
            who.zone,
            who.country,
            case(*((rule.applies, number) for number, rule in enumerate(rules))).label("rule"),
        )
        .join(recipients, and_(who.run_id == messages.c.run_id, who.seq == messages.c.seq))
        .outerjoin(message_values, values_of(messages))
        .where(mine)
        .order_by(messages.c.seq)
    )
    refusals = (update(messages).where(mine).values(**rule.change, batch_id=None) for rule in rules)
    return Rules(examine=examine, refusals=tuple(refusals))


def _rules(plan: Plan, batch: Batch, allowed: frozenset[AddressKey] | None, countries: tuple[str, ...]) -> list[_Rule]:
    """Return the rules in order of precedence: the first that applies is the one that is reported."""
    now = instant("now")
    step = plan.sequence[batch.step_no - 1]
    who = recipients.c
    email = batch.channel is Channel.EMAIL
    key, why_none = (who.email_key, who.email_reason) if email else (who.phone_key, who.phone_reason)
    permission = who.email_consent if email else who.sms_consent
    suppressed = consent.suppressed(messages, plan.purpose, plan.topic, care=plan.care, now=now)
    of_person = and_(who.run_id == messages.c.run_id, who.seq == messages.c.seq)
    rules = [
        _Rule(
            applies=who.left_at.is_not(None),
            change={"state": MessageState.CANCELLED, "reason": Reason.LEFT_AUDIENCE},
        ),
        _Rule(
            applies=key.is_(None),
            change={
                "state": MessageState.CANCELLED,
                "reason": select(why_none).where(of_person).correlate(messages).scalar_subquery(),
            },
        ),
        _Rule(
            applies=suppressed.exists(),
            change={"state": MessageState.SUPPRESSED, "reason": suppressed.limit(1).scalar_subquery()},
        ),
        _Rule(
            applies=consent.refused(batch.channel, permission, purpose=plan.purpose, basis=plan.basis),
            change={"state": MessageState.SUPPRESSED, "reason": Reason.NO_CONSENT},
        ),
    ]
    if allowed is not None:
        outside = messages.c.address_key.not_in(sorted(allowed))
        rules.append(
            _Rule(applies=outside, change={"state": MessageState.CANCELLED, "reason": Reason.NOT_ON_ALLOW_LIST})
        )
    if step.condition is not None:
        holds = evidence.holds(step.condition, plan, messages)
        unsettled = and_(holds.is_(None), _awaits_receipt(step.condition, plan), messages.c.not_after >= now)
        rules += [
            _Rule(applies=unsettled, change={"state": MessageState.QUEUED, "due_at": instant("looked_later")}),
            _Rule(
                applies=holds.is_(None),
                change={"state": MessageState.NOT_NEEDED, "reason": Reason.CONDITION_UNKNOWN},
            ),
            _Rule(applies=~holds, change={"state": MessageState.NOT_NEEDED, "reason": Reason.CONDITION_FALSE}),
        ]
    if step.silences:
        unproven = gate.unproven(plan, batch.step_no)
        rules += [
            _Rule(
                applies=and_(unproven, messages.c.not_after >= now),
                change={"state": MessageState.QUEUED, "due_at": instant("silence_later")},
            ),
            _Rule(applies=unproven, change={"state": MessageState.EXPIRED, "reason": Reason.SILENCE_UNPROVEN}),
        ]
    if batch.channel is Channel.SMS:
        in_doubt = and_(number_in_doubt(messages, instant("evidence_since")), messages.c.not_after >= now)
        rules.append(_Rule(applies=in_doubt, change={"state": MessageState.QUEUED, "due_at": instant("settled_later")}))
    rules.append(_Rule(applies=breaker.held_back(countries, now), change={"state": MessageState.QUEUED}))
    late = messages.c.not_after < now
    rules.append(_Rule(applies=late, change={"state": MessageState.EXPIRED, "reason": Reason.TOO_LATE}))
    return rules


def _awaits_receipt(condition: conditions.Condition, plan: Plan) -> ColumnElement[bool]:
    """Return whether a message that `condition` speaks of may still be delivered."""
    earlier = messages.alias("awaited")
    steps = {
        plan.step_number(claim.subject)
        for claim in conditions.claims(condition)
        if claim.verb not in conditions.CONVERSION_CLAIMS
    }
    return (
        select(earlier.c.seq)
        .where(
            earlier.c.run_id == messages.c.run_id,
            earlier.c.seq == messages.c.seq,
            earlier.c.step_no.in_(steps),
            earlier.c.state.in_(_PENDING),
        )
        .correlate(messages)
        .exists()
    )
