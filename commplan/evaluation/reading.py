"""Rates as far as they are known: how many of how many, and what is still missing from either.

Only reads the counts of a run; what a figure means for a goal is the verdict's business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from typing import Literal

from commplan.evaluation.model import Unit
from commplan.evaluation.wording import moment, plural
from commplan.metrics import Cell, Metrics
from commplan.plan import Goal, Plan
from commplan.terms import Channel, Metric


@dataclass(frozen=True, slots=True)
class Rate:
    """A rate over messages: `part` and `whole` are counts of a `Tally`, `words` follow “3 of 4”.

    `channel` is the only one that tells of `part`: messages of others, which could never count, are not in `whole`.
    `links`: nor are texts without a link that is counted.
    """

    part: str
    whole: Literal["accepted", "delivered"]
    words: str
    channel: Channel | None = None
    links: bool = False


#: Rates over messages.
RATES: Mapping[Metric, Rate] = {
    Metric.DELIVERED_RATE: Rate("delivered", "accepted", "accepted messages were delivered"),
    Metric.BOUNCE_RATE: Rate("failed", "accepted", "accepted messages came back"),
    Metric.OPEN_RATE: Rate("opened", "delivered", "delivered emails were opened by a person", Channel.EMAIL),
    Metric.CLICK_RATE: Rate("clicked", "delivered", "delivered messages were clicked by a person", links=True),
    Metric.RESPONSE_RATE: Rate("responded", "delivered", "delivered messages were clicked, replied to or answered"),
    Metric.REPLY_RATE: Rate("replied", "delivered", "delivered SMS were replied to", Channel.SMS),
    Metric.OPT_OUT_RATE: Rate("opted_out", "delivered", "delivered messages were followed by an opt-out"),
    Metric.COMPLAINT_RATE: Rate("complained", "delivered", "delivered emails were reported as spam", Channel.EMAIL),
    Metric.ANSWER_RATE: Rate("answered", "delivered", "delivered surveys were answered"),
}


#: Answers to invitations, as `Invited` counts them.
RSVPS: Mapping[str, str] = {Metric.RSVP_YES: "yes", Metric.RSVP_NO: "no", Metric.RSVP_MAYBE: "maybe"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A rate as far as it is known.

    Of the `denominator`, `numerator` count and `inside` may yet; `outside` may yet join the denominator, and count.
    `doubts` say in words what `inside` and `outside` wait for; `is_open` says that time alone will settle some of it.
    """

    numerator: int
    denominator: int
    inside: int
    outside: int
    unit: Unit
    words: str
    doubts: tuple[str, ...]
    is_open: bool

    @property
    def value(self) -> Fraction | None:
        """The rate as it stands, None while nothing is counted."""
        return Fraction(self.numerator, self.denominator) if self.denominator else None

    @property
    def bounds(self) -> tuple[Fraction, Fraction] | None:
        """The least and the most it can become, None if it never can be anything."""
        most = self.denominator + self.outside
        if not most:
            return None
        return Fraction(self.numerator, most), Fraction(self.numerator + self.inside + self.outside, most)


def read_rate(goal: Goal, metrics: Metrics, plan: Plan, *, now: datetime) -> Reading:
    """Return the figure of a goal that is about a rate: a conversion, a reach, or a rate over messages."""
    if goal.conversion is not None:
        return _read_conversion(goal, metrics, plan, now=now)
    if goal.metric == Metric.REACH:
        return _read_reach(metrics)
    if goal.metric in RSVPS:
        return _read_rsvp(goal, metrics, plan, now=now)
    rate = RATES[Metric(goal.metric)]
    steps = _scope(goal, plan)

    def chosen(cell: Cell) -> bool:
        can_count = not rate.links or cell.channel is Channel.EMAIL or cell.step_no in metrics.linked
        return cell.step_no in steps and can_count and rate.channel in (None, cell.channel)

    counts = metrics.tally(chosen)
    part, whole = int(getattr(counts, rate.part)), int(getattr(counts, rate.whole))
    doubts = _message_doubts(counts.unknown, counts.open, counts.pending)
    outside, inside = counts.unknown + counts.open, counts.pending
    is_open = counts.open > 0
    if rate.whole == "delivered":
        outside, inside = outside + inside, 0
        if (until := _still_until(metrics, plan, chosen, now=now)) is not None:
            is_open, inside = True, whole - part
            if inside:
                doubts.append(f"what people do until {until}")
    return Reading(
        numerator=part,
        denominator=whole,
        inside=inside,
        outside=outside,
        unit="messages",
        words=rate.words,
        doubts=tuple(doubts),
        is_open=is_open,
    )


def _still_until(metrics: Metrics, plan: Plan, chosen: Callable[[Cell], bool], *, now: datetime) -> str | None:
    """Return until when people may still do something about the messages chosen, None if that is over."""
    last = metrics.last_accepted_at(chosen)
    if last is None or now >= last + plan.evaluation.after:
        return None
    return moment(last + plan.evaluation.after, plan.zone)


def _scope(goal: Goal, plan: Plan) -> frozenset[int]:
    """Return the steps that a goal is about."""
    asked = {n for n, step in enumerate(plan.sequence, 1) if step.ask or goal.metric != Metric.ANSWER_RATE}
    return frozenset(asked if goal.step is None else asked & {plan.step_number(goal.step)})


def _message_doubts(unknown: int, open_: int, pending: int) -> list[str]:
    return [
        f"{plural(count, 'message')} {words}"
        for count, words in (
            (unknown, "whose outcome is unknown"),
            (open_, "still to be sent"),
            (pending, "without a final receipt"),
        )
        if count
    ]


def _read_reach(metrics: Metrics) -> Reading:
    waiting = sum(group.open for group in metrics.people)
    counts = metrics.tally()
    return Reading(
        numerator=sum(group.delivered for group in metrics.people),
        denominator=sum(group.assigned for group in metrics.people),
        inside=waiting,
        outside=0,
        unit="people",
        words="people assigned had a message delivered",
        doubts=(f"{plural(waiting, 'person')} whose messages are not settled",) if waiting else (),
        is_open=counts.open > 0,
    )


def _read_rsvp(goal: Goal, metrics: Metrics, plan: Plan, *, now: datetime) -> Reading:
    steps = _scope(goal, plan)
    events = {plan.sequence[number - 1].rsvp for number in steps}
    inviting = {number for number, step in enumerate(plan.sequence, 1) if step.rsvp is not None} & steps
    found = [group for group in metrics.invited if group.event in events]
    answer = RSVPS[goal.metric]
    part, whole = sum(getattr(group, answer) for group in found), sum(group.invited for group in found)
    waiting = sum(group.open for group in found)
    doubts = [f"{plural(waiting, 'person')} whose invitations are not settled"] if waiting else []
    is_open, inside = metrics.tally(lambda cell: cell.step_no in inviting).open > 0, 0
    if (until := _still_until(metrics, plan, lambda cell: cell.step_no in inviting, now=now)) is not None:
        is_open, inside = True, whole - part
        if inside:
            doubts.append(f"what people answer until {until}")
    return Reading(
        numerator=part,
        denominator=whole,
        inside=inside,
        outside=waiting,
        unit="people",
        words=f"people with a delivered invitation said {answer}",
        doubts=tuple(doubts),
        is_open=is_open,
    )


def _read_conversion(goal: Goal, metrics: Metrics, plan: Plan, *, now: datetime) -> Reading:
    found = [group for group in metrics.conversions if group.goal == goal.id]
    waiting, unwritten = sum(group.waiting for group in found), sum(group.unwritten for group in found)
    starts = [group.last_start for group in found if group.last_start is not None]
    closes = max(starts) + goal.within if starts and goal.within is not None else None
    asked = next((g for g in metrics.gatherings if g.name == goal.conversion), None)
    doubts = []
    if waiting:
        heard = f"on {moment(asked.answered_at, plan.zone)}" if asked is not None and asked.answered_at else "never"
        last = "" if closes is None else f" (the last time ends on {moment(closes, plan.zone)})"
        doubts.append(f"{plural(waiting, 'person')} with time left when conversions were last learnt, {heard}{last}")
    if unwritten:
        doubts.append(f"{plural(unwritten, 'person')} of whom it is not known whether they were written to")
    days = goal.within.total_seconds() / 86_400 if goal.within else 0
    return Reading(
        numerator=sum(group.converted for group in found),
        denominator=sum(group.assigned for group in found),
        inside=waiting + unwritten,
        outside=0,
        unit="people",
        words=f"people assigned converted within {plural(days, 'day')}",
        doubts=tuple(doubts),
        is_open=metrics.tally().open > 0 or (closes is not None and now < closes),
    )
