"""Goals against counts: each goal's figure, how far it may still move, and so its verdict.

Never calls a goal met or missed because of a likely outcome: what is not known yet is counted once entirely for the
goal and once entirely against it, and only if both agree is there a verdict.

The audience is everybody concerned, not a sample of them, so its counts are facts and chance does not touch the
verdict. What is uncertain is what has not been reported: messages whose outcome is unknown, messages without a final
receipt, people whose window is open or whose conversions were not asked for since it closed. A survey is different:
its figure stands for people who were asked, computed from those who answered, so there the 95 % interval around the
mean bounds the figure, and fewer than `FEWEST_ANSWERS` answers decide nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from fractions import Fraction
from typing import Any, Literal

from commplan import stats
from commplan.evaluation.model import GoalResult, Range
from commplan.evaluation.reading import Reading, read_rate
from commplan.evaluation.wording import figure, number, plural
from commplan.metrics import Metrics
from commplan.plan import Goal, Plan, Target
from commplan.terms import Metric, Verdict

#: Answers below which a survey decides nothing.
FEWEST_ANSWERS = 5
#: What an answer is worth on each survey's scale, and the ends of that scale.
SCALES: Mapping[Metric, tuple[Literal["csat", "nps"], float, float]] = {
    Metric.CSAT: ("csat", 1.0, 5.0),
    Metric.NPS: ("nps", -100.0, 100.0),
}


def decide(target: Target, lower: Fraction, upper: Fraction) -> Verdict:
    """Return the verdict on a figure that lies between `lower` and `upper`."""
    wanted = Fraction(target.value)
    if target.bound == "at least":
        met, missed = lower >= wanted, upper < wanted
    else:
        met, missed = upper <= wanted, lower > wanted
    return Verdict.MET if met else Verdict.MISSED if missed else Verdict.INCONCLUSIVE


def judge(goal: Goal, metrics: Metrics, plan: Plan, *, now: datetime) -> GoalResult:
    """Return what became of a goal, at plan time `now`."""
    if goal.metric in SCALES:
        return _judge_survey(goal, metrics, plan, now=now)
    reading = read_rate(goal, metrics, plan, now=now)
    value, bounds = reading.value, reading.bounds
    verdict = Verdict.INCONCLUSIVE if bounds is None else decide(goal.target, *bounds)
    chance = stats.wilson(reading.numerator, reading.denominator) if reading.denominator else None
    baseline = None if goal.baseline is None else float(goal.baseline)
    beyond = None
    if baseline is not None and reading.denominator and 0 <= baseline <= 1:
        beyond = stats.differs_from(reading.numerator, reading.denominator, baseline) < 1 - stats.CONFIDENCE
    return GoalResult(
        **_asked(goal, is_share=True),
        unit=reading.unit,
        numerator=reading.numerator,
        denominator=reading.denominator,
        undetermined=reading.inside + reading.outside,
        value=_rounded(value),
        lower=_rounded(bounds[0] if bounds else None),
        upper=_rounded(bounds[1] if bounds else None),
        chance=_range(chance),
        beyond_chance=beyond,
        verdict=verdict,
        provisional=reading.is_open,
        why=_explain_rate(goal, reading, verdict),
    )


def _asked(goal: Goal, *, is_share: bool) -> dict[str, Any]:
    return {
        "id": goal.id,
        "purpose": goal.purpose,
        "metric": goal.metric,
        "step": goal.step,
        "target": str(goal.target),
        "target_value": float(goal.target.value),
        "baseline": None if goal.baseline is None else float(goal.baseline),
        "is_share": is_share,
    }


def _rounded(value: Fraction | float | None) -> float | None:
    """Six decimals, so that a document does not hang on the last bit of a platform's arithmetic."""
    return None if value is None else round(float(value), 6)


def _range(interval: stats.Interval | None) -> Range | None:
    return None if interval is None else Range(low=round(interval.low, 6), high=round(interval.high, 6))


def _explain_rate(goal: Goal, reading: Reading, verdict: Verdict) -> str:
    value, bounds = reading.value, reading.bounds
    if bounds is None:
        return "Nothing was sent that this goal could be measured by."
    said = f"{reading.numerator:,} of {reading.denominator:,} {reading.words}"
    said += "." if value is None else f" ({figure(float(value), is_share=True)})."
    doubts = ", ".join(reading.doubts)
    if verdict is Verdict.INCONCLUSIVE:
        low, high = (figure(float(bound), is_share=True) for bound in bounds)
        return f"{said} It may still become anything from {low} to {high}: not known yet are {doubts}."
    if verdict is Verdict.MISSED:
        said += f" {_shortfall(goal.target, reading)}"
    if doubts:
        extreme = "all" if (goal.target.bound == "at most") == (verdict is Verdict.MET) else "none"
        said += f" That holds even if {extreme} of what is not known yet should count: {doubts}."
    return said


def _shortfall(target: Target, reading: Reading) -> str:
    allowed = Fraction(target.value) * reading.denominator
    if target.bound == "at least":
        missing = math.ceil(allowed) - reading.numerator
        return f"{missing:,} more would have met the target."
    return f"That is {reading.numerator - math.floor(allowed):,} more than the target allows."


def _judge_survey(goal: Goal, metrics: Metrics, plan: Plan, *, now: datetime) -> GoalResult:
    scale, least, most = SCALES[Metric(goal.metric)]
    steps = {n for n, step in enumerate(plan.sequence, 1) if step.ask and step.ask.scale == scale}
    if goal.step is not None:
        steps &= {plan.step_number(goal.step)}
    worth: Counter[float] = Counter()
    for row in metrics.scores:
        if row.step_no in steps and row.score is not None:
            worth[score_worth(scale, row.score)] += row.answers
    answers = worth.total()
    value = math.fsum(v * n for v, n in worth.items()) / answers if answers else None
    bounds: stats.Interval | None = None
    if answers >= 2:
        _, reach = stats.mean_interval(worth)
        bounds = stats.Interval(max(least, reach.low), min(most, reach.high))
    last = metrics.last_accepted_at(lambda cell: cell.step_no in steps)
    is_open = metrics.tally(lambda cell: cell.step_no in steps).open > 0
    if last is not None and now < last + plan.evaluation.after:
        is_open = True
    verdict = Verdict.INCONCLUSIVE
    if bounds is not None and answers >= FEWEST_ANSWERS:
        verdict = decide(goal.target, Fraction(bounds.low), Fraction(bounds.high))
    baseline = None if goal.baseline is None else float(goal.baseline)
    return GoalResult(
        **_asked(goal, is_share=False),
        unit="answers",
        numerator=None,
        denominator=answers,
        undetermined=0,
        value=_rounded(value),
        lower=_rounded(bounds.low if bounds else None),
        upper=_rounded(bounds.high if bounds else None),
        chance=_range(bounds),
        beyond_chance=None if baseline is None or bounds is None else not bounds.low <= baseline <= bounds.high,
        verdict=verdict,
        provisional=is_open,
        why=_explain_survey(value, bounds, answers, verdict),
    )


def score_worth(scale: str, score: int) -> float:
    """Return what one answer adds to the figure: the score itself, or for NPS 100 (9, 10), 0 (7, 8) or -100."""
    if scale == "csat":
        return float(score)
    return 100.0 if score >= 9 else 0.0 if score >= 7 else -100.0


def _explain_survey(value: float | None, bounds: stats.Interval | None, answers: int, verdict: Verdict) -> str:
    if value is None:
        return "Nobody has answered."
    said = f"{number(value)} on average of {plural(answers, 'answer')}."
    if bounds is None or answers < FEWEST_ANSWERS:
        return f"{said} Fewer than {FEWEST_ANSWERS} answers decide nothing."
    between = f"{number(bounds.low)} to {number(bounds.high)}"
    if verdict is Verdict.INCONCLUSIVE:
        return f"{said} So few answers leave anything from {between} possible (95 %), and the target lies inside."
    return f"{said} The 95 % interval around it, {between}, lies wholly on one side of the target."
