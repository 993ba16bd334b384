"""The evaluation of one run: goals against counts, and everything a reader needs to believe it.

A pure function: reads no clock, no store and no setting.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta

from commplan import stats
from commplan.evaluation import lesson, verdict
from commplan.evaluation.cost import cost_of
from commplan.evaluation.model import (
    BreakdownRow,
    Evaluation,
    InvitationResult,
    LinkResult,
    Range,
    ReasonCount,
    SegmentRate,
    SegmentResult,
    Stage,
    StepResult,
    SurveyResult,
)
from commplan.evaluation.reading import Reading, read_rate
from commplan.evaluation.wording import moment, number, plural
from commplan.ledger.settlement import Doubts
from commplan.metrics import Cell, Metrics, People, tally
from commplan.plan import Goal, Plan
from commplan.pricing import Prices
from commplan.terms import Channel, MessageState, RunState

#: Age from which prices are pointed out as old.
_OLD_PRICES = timedelta(days=365)


def evaluate(metrics: Metrics, plan: Plan, prices: Prices, *, run_key: str, now: datetime, sandbox: bool) -> Evaluation:
    """Return the evaluation of a run at plan time `now`.

    Verdicts are explained in `commplan.evaluation.verdict`. The same arguments give the same document.
    """
    goals = tuple(verdict.judge(goal, metrics, plan, now=now) for goal in plan.goals)
    steps = tuple(_step(step_no, metrics, plan) for step_no in range(1, len(plan.sequence) + 1))
    segments = _segments(metrics, plan, now=now)
    cost = cost_of(metrics, plan, prices)
    return Evaluation(
        run_key=run_key,
        plan=plan.plan,
        occurrence=metrics.run.occurrence,
        title=plan.title,
        purpose=plan.purpose,
        topic=plan.topic,
        plan_digest=metrics.run.digest,
        sandbox=sandbox,
        zone=str(plan.zone),
        evaluated_at=now,
        snapshot_at=metrics.run.snapshot_at,
        first_accepted_at=metrics.run.first_accepted_at,
        last_accepted_at=metrics.last_accepted_at(),
        provisional=not metrics.snapshot or any(goal.provisional for goal in goals) or metrics.tally().open > 0,
        audience=metrics.snapshot,
        balanced=all(step.difference == 0 for step in steps),
        goals=goals,
        funnel=_funnel(metrics, plan),
        steps=steps,
        segments=segments,
        breakdown=_breakdown(metrics, plan),
        surveys=tuple(_surveys(metrics, plan)),
        invitations=tuple(_invitations(metrics, plan)),
        replies=metrics.replies,
        links=_links(metrics, plan),
        doubts=metrics.doubts,
        cost=cost,
        lessons=lesson.derive(goals, steps, segments, audience=metrics.snapshot),
        notes=(*_notes(metrics, prices, steps, now=now), *_doubts(metrics.doubts, plan)),
    )


def _stages(people: Iterable[People], metrics: Metrics) -> list[Stage]:
    total: Counter[str] = Counter()
    for group in people:
        total.update(
            audience=group.snapshot,
            reachable=group.assigned,
            accepted=group.accepted,
            delivered=group.delivered,
            opened=group.opened,
            clicked=group.clicked,
            responded=group.responded,
        )
    names = ["audience", "reachable", "accepted", "delivered", "opened", "clicked", "responded"]
    if not any(cell.channel is Channel.EMAIL for cell in metrics.cells):
        names.remove("opened")
    return [Stage(name=name, count=total[name]) for name in names]


def _funnel(metrics: Metrics, plan: Plan) -> tuple[Stage, ...]:
    """People, over all steps together; conversions by the plan's first conversion goal."""
    stages = [stage for stage in _stages(metrics.people, metrics) if stage.name != "responded"]
    if goal := next((goal for goal in plan.goals if goal.conversion), None):
        converted = sum(group.converted for group in metrics.conversions if group.goal == goal.id)
        stages.append(Stage(name=goal.conversion or "", count=converted))
    return tuple(stages)


def _step(step_no: int, metrics: Metrics, plan: Plan) -> StepResult:
    cells = [cell for cell in metrics.cells if cell.step_no == step_no]
    states: Counter[MessageState] = Counter()
    reasons: Counter[tuple[MessageState, str]] = Counter()
    for cell in cells:
        states[cell.state] += cell.messages
        if cell.reason is not None:
            reasons[cell.state, cell.reason] += cell.messages
    listed = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    return StepResult(
        step_no=step_no,
        step=plan.sequence[step_no - 1].step,
        channels=tuple(sorted({cell.channel for cell in cells} or {plan.sequence[step_no - 1].channel})),
        states={state: states[state] for state in MessageState if states[state]},
        difference=metrics.snapshot - states.total(),
        counts=metrics.tally(lambda cell: cell.step_no == step_no),
        reasons=tuple(ReasonCount(state=state, reason=reason, messages=count) for (state, reason), count in listed),
    )


def _segments(metrics: Metrics, plan: Plan, *, now: datetime) -> tuple[SegmentResult, ...]:
    """Return the segments in the plan's order, people outside all of them last."""
    order = [segment.name for segment in plan.audience.segments]
    found = {group.segment: group for group in metrics.people}
    names: list[str | None] = [name for name in order if name in found]
    names += sorted(name for name in found if name is not None and name not in order)
    names += [None] if None in found else []
    parts = {name: metrics.of_segment(name) for name in names}
    goals = [goal for goal in plan.goals if goal.metric not in verdict.SCALES]
    readings = {(name, goal.id): read_rate(goal, parts[name], plan, now=now) for name in names for goal in goals}
    differing = _differing(readings, names, goals)
    return tuple(
        SegmentResult(
            segment=name,
            stages=tuple(_stages([found[name]], metrics)),
            rates=tuple(_rate(goal, readings[name, goal.id], (name, goal.id) in differing) for goal in goals),
        )
        for name in names
    )


def _rate(goal: Goal, reading: Reading, differs: bool) -> SegmentRate:
    chance = stats.wilson(reading.numerator, reading.denominator) if reading.denominator else None
    return SegmentRate(
        goal=goal.id,
        numerator=reading.numerator,
        denominator=reading.denominator,
        value=None if reading.value is None else round(float(reading.value), 6),
        chance=None if chance is None else Range(low=round(chance.low, 6), high=round(chance.high, 6)),
        differs=differs,
    )


def _differing(
    readings: dict[tuple[str | None, str], Reading], names: list[str | None], goals: list[Goal]
) -> set[tuple[str | None, str]]:
    """Compare each segment with everybody else, for each goal; all comparisons count against each other (Holm).

    Two segments are one comparison, which then holds for both.
    """
    compared: list[tuple[str | None, str]] = []
    p_values: list[float] = []
    for goal in goals:
        for name in names if len(names) > 2 else names[:1]:
            mine = readings[name, goal.id]
            others = [readings[other, goal.id] for other in names if other != name]
            part, whole = sum(o.numerator for o in others), sum(o.denominator for o in others)
            if mine.denominator and whole:
                compared.append((name, goal.id))
                p_values.append(stats.differ((mine.numerator, part), (mine.denominator, whole)))
    stands = {pair for pair, stood in zip(compared, stats.holm(p_values), strict=True) if stood}
    return {(name, goal) for _, goal in stands for name in names} if len(names) == 2 else stands


def _breakdown(metrics: Metrics, plan: Plan) -> tuple[BreakdownRow, ...]:
    groups: dict[tuple[int, Channel, str | None, str | None], list[Cell]] = {}
    for cell in metrics.cells:
        groups.setdefault((cell.step_no, cell.channel, cell.segment, cell.locale), []).append(cell)
    return tuple(
        BreakdownRow(
            step_no=step_no,
            step=plan.sequence[step_no - 1].step,
            channel=channel,
            segment=segment,
            locale=locale,
            counts=tally(cells),
        )
        for (step_no, channel, segment, locale), cells in groups.items()
    )


def _surveys(metrics: Metrics, plan: Plan) -> Iterable[SurveyResult]:
    for step_no, step in enumerate(plan.sequence, 1):
        rows = [row for row in metrics.scores if row.step_no == step_no]
        if step.ask is None:
            continue
        scores: Counter[int] = Counter()
        for row in rows:
            if row.score is not None:
                scores[row.score] += row.answers
        answers = scores.total()
        worth = sum(verdict.score_worth(step.ask.scale, score) * count for score, count in scores.items())
        yield SurveyResult(
            step=step.step,
            scale=step.ask.scale,
            scores=dict(sorted(scores.items())),
            answers=answers,
            comments=sum(row.comments for row in rows),
            figure=round(worth / answers, 6) if answers else None,
        )


def _invitations(metrics: Metrics, plan: Plan) -> Iterable[InvitationResult]:
    for name, event in plan.events.items():
        found = [group for group in metrics.invited if group.event == name]
        yield InvitationResult(
            event=name,
            places=event.places,
            invited=sum(group.invited for group in found),
            yes=sum(group.yes for group in found),
            no=sum(group.no for group in found),
            maybe=sum(group.maybe for group in found),
            waiting=sum(group.waiting for group in found),
        )


def _links(metrics: Metrics, plan: Plan) -> tuple[LinkResult, ...]:
    """Return the links of each step's texts, those that most people followed first."""
    return tuple(
        LinkResult(
            step=plan.sequence[each.step_no - 1].step,
            link=each.link,
            clicked=each.clicked,
            machine_clicked=each.machine_clicked,
        )
        for each in sorted(metrics.links, key=lambda each: (each.step_no, -each.clicked, each.link))
    )


def _doubts(found: Doubts, plan: Plan) -> Iterable[str]:
    if found.since is not None:
        yield (
            f"Of {plural(found.unknown, 'message')} nobody knows whether they were sent, the first since"
            f" {moment(found.since, plan.zone)}"
            + (f"; {number(found.assumed)} are assumed to be, as the plan says." if found.assumed else ".")
        )
    if found.lost:
        yield (
            f"The provider's records proved that {plural(found.lost, 'message')} had not been accepted the first time;"
            " they were sent again."
        )
    if found.resent:
        yield (
            f"{plural(found.resent, 'message')} were sent again without evidence;"
            f" {number(found.repeats)} are known to have arrived twice."
        )
    if found.duplicates:
        yield (
            f"{plural(found.duplicates, 'message')} arrived twice although the first request had been judged lost:"
            " nothing of this run is sent again by itself any more."
        )


def _notes(metrics: Metrics, prices: Prices, steps: Iterable[StepResult], *, now: datetime) -> Iterable[str]:
    counts = metrics.tally()
    if metrics.run.state in (RunState.CANCELLED, RunState.PAUSED, RunState.HELD):
        yield f"The run is {metrics.run.state}: it sends nothing further."
    for step in steps:
        if step.difference:
            yield f"The books of step “{step.step}” are off by {step.difference:,}: see `commplan prove`."
    for what, count in (("opened", counts.machine_opened), ("clicked in", counts.machine_clicked)):
        if count:
            yield (
                f"Machines (mail scanners, previews, prefetching mail programs) {what}"
                f" {plural(count, 'delivered message')}; that counts in no rate, and as no response."
            )
    by_default = sum(
        cell.parts
        for cell in metrics.cells
        if cell.channel is Channel.SMS and cell.accepted and not prices.names(cell.country)
    )
    if by_default:
        yield f"{plural(by_default, 'SMS part')} cost the default price: their country has none in the price file."
    if now.date() - prices.as_of > _OLD_PRICES:
        yield f"The prices are of {prices.as_of.isoformat()}, more than a year old."
    for gathering in metrics.gatherings:
        if gathering.answered_at != gathering.asked_at:
            yield f"The source of conversion “{gathering.name}” did not answer when it was last asked."
