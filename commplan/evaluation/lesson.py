"""What to do next time: sentences that the run's own numbers support.

Says nothing that would need a comparison nobody made; a difference is told only if chance does not explain it.
"""

from __future__ import annotations

from collections.abc import Sequence

from commplan.evaluation.model import GoalResult, SegmentResult, StepResult
from commplan.evaluation.wording import REASONS, STATES, figure, points, segment_name
from commplan.terms import MessageState, Reason

#: Reasons that are the plan at work, or follow from a loss that was counted before.
_AS_PLANNED = frozenset(
    {
        Reason.CONDITION_FALSE,
        Reason.SKIPPED_SEGMENT,
        Reason.ALREADY_ENROLLED,
        Reason.RECENTLY_SENT,
        Reason.EARLIER_STEP_NOT_SENT,
    }
)


def derive(
    goals: Sequence[GoalResult], steps: Sequence[StepResult], segments: Sequence[SegmentResult], *, audience: int
) -> tuple[str, ...]:
    """Return the lessons of a run, most telling first."""
    return (
        *_worst_loss(steps, audience),
        *(sentence for goal in goals for sentence in _against_baseline(goal)),
        *(sentence for goal in goals for sentence in _between_segments(goal, segments)),
        *(sentence for step in steps for sentence in _follow_up(step)),
    )


def _worst_loss(steps: Sequence[StepResult], audience: int) -> list[str]:
    losses = {
        step.step_no: [
            row for row in step.reasons if row.reason not in _AS_PLANNED and row.state is not MessageState.NOT_NEEDED
        ]
        for step in steps
    }
    totals = {step_no: sum(row.messages for row in rows) for step_no, rows in losses.items()}
    if not any(totals.values()):
        return []
    step = max(steps, key=lambda step: (totals[step.step_no], -step.step_no))
    row = max(losses[step.step_no], key=lambda row: row.messages)
    lost = totals[step.step_no]
    return [
        f"Most people were lost at step “{step.step}”: {lost:,} of {audience:,} "
        f"({figure(lost / audience, is_share=True)}). The largest part, {row.messages:,}, ended as "
        f"{STATES[row.state]}: {REASONS[row.reason]}."
    ]


def _against_baseline(goal: GoalResult) -> list[str]:
    if goal.baseline is None or goal.value is None or goal.beyond_chance is None:
        return []
    away = points(goal.value - goal.baseline, is_share=goal.is_share)
    side = "above" if goal.value > goal.baseline else "below"
    weight = "more than chance explains" if goal.beyond_chance else "which chance alone could do"
    before = figure(goal.baseline, is_share=goal.is_share)
    return [f"Goal “{goal.id}” stands {away} {side} its baseline of {before}, {weight}."]


def _between_segments(goal: GoalResult, segments: Sequence[SegmentResult]) -> list[str]:
    differing = [
        (segment.segment, rate)
        for segment in segments
        for rate in segment.rates
        if rate.goal == goal.id and rate.differs and rate.value is not None
    ]
    if len(segments) == 2:
        # Two segments differ from each other: one sentence says it for both.
        differing = sorted(differing, key=lambda pair: pair[1].value or 0.0)[-1:]
    sentences = []
    for name, rate in differing:
        part, whole = (goal.numerator or 0) - rate.numerator, goal.denominator - rate.denominator
        sentences.append(
            f"Goal “{goal.id}”: segment {segment_name(name)} came to {figure(rate.value, is_share=True)} "
            f"({rate.numerator:,} of {rate.denominator:,}) and everybody else to "
            f"{figure(part / whole, is_share=True)} ({part:,} of {whole:,}), more of a difference than chance "
            "explains; whether it lies in the people or in what they were sent, these numbers cannot say."
        )
    return sentences


def _follow_up(step: StepResult) -> list[str]:
    counts = step.counts
    spared = sum(row.messages for row in step.reasons if row.reason is Reason.CONDITION_FALSE)
    if not spared or not counts.delivered:
        return []
    return [
        f"Follow-up “{step.step}” was delivered to {counts.delivered:,} people and left out for {spared:,} who "
        f"did not need it; {counts.responded:,} of those it reached ({counts.responded / counts.delivered:.1%}) "
        "responded to it. How many would have come round unprompted, a run without a control group cannot say."
    ]
