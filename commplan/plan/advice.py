"""What is allowed in a plan but probably not meant.

Never refuses anything: a plan with advice runs as written.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from commplan import condition as conditions
from commplan.plan.coherence import SINCE
from commplan.plan.model import Plan, Step
from commplan.plan.tree import KeyPath, Problem
from commplan.silence import PROVEN_AGAIN
from commplan.terms import Channel
from commplan.window import Window

#: A window shorter than this lets few messages through, and none after a short disturbance.
SHORT_WINDOW = timedelta(hours=1)


def advise(plan: Plan) -> list[Problem]:
    """Return what a planner should look at again, in no particular order."""
    return [*_windows(plan), *_waits(plan), *_silences(plan), *_unused(plan), *_judged_early(plan)]


def _windows(plan: Plan) -> Iterator[Problem]:
    for number, step in enumerate(plan.sequence):
        here: KeyPath = ("sequence", number)
        windows: list[tuple[KeyPath, Window | None]] = [((*here, "window"), step.window)]
        windows += [((*here, "by_segment", name, "window"), change.window) for name, change in step.by_segment.items()]
        for path, window in windows:
            if window is not None and window.length < SHORT_WINDOW:
                yield Problem(
                    path=path,
                    rule=f"is open for less than {SHORT_WINDOW.seconds // 3600} hour a day",
                    remedy="after a short disturbance the messages wait for the next day",
                )
        for name, change in step.by_segment.items():
            if change.skip and change.model_fields_set - {"skip"}:
                yield Problem(
                    path=(*here, "by_segment", name), rule="skips the step and changes it", remedy="keep one of both"
                )


def _earliest(plan: Plan) -> list[timedelta]:
    """Return for each step the least time between a person's first message and theirs in this step."""
    starts: list[timedelta] = []
    for number, step in enumerate(plan.sequence, 1):
        follows = plan.follows(number)
        starts.append(starts[follows - 1] + step.wait if follows else timedelta(0))
    return starts


def _claimed_steps(step: Step) -> set[str]:
    found = conditions.claims(step.condition) if step.condition is not None else ()
    return {claim.subject for claim in found if claim.verb not in conditions.CONVERSION_CLAIMS}


def _waits(plan: Plan) -> Iterator[Problem]:
    starts = _earliest(plan)
    for number, step in enumerate(plan.sequence):
        for name in sorted(_claimed_steps(step)):
            subject = plan.step_number(name) - 1
            if starts[subject] >= starts[number]:
                yield Problem(
                    path=("sequence", number, "when"),
                    rule=f"asks about {name}, which is sent no earlier than this step, so that nothing is known of it",
                    remedy="wait longer here, or let this step come `after` it",
                )


def _silences(plan: Plan) -> Iterator[Problem]:
    for number, step in enumerate(plan.sequence):
        if step.silences and step.lateness < PROVEN_AGAIN:
            yield Problem(
                path=("sequence", number, "not_after"),
                rule="is shorter than the 25 hours after which silence is proven again once the receiver was down, so "
                "that this step then goes to nobody",
                remedy="write PT25H or more, or leave it out: P2D",
            )


def _unused(plan: Plan) -> Iterator[Problem]:
    used = {goal.conversion for goal in plan.goals}
    for step in plan.sequence:
        if step.condition is not None:
            used |= {c.subject for c in conditions.claims(step.condition) if c.verb in conditions.CONVERSION_CLAIMS}
    for name in plan.conversions:
        if name not in used:
            yield Problem(path=("conversions", name), rule="is used by no goal and no step", remedy="leave it out")
    audience = plan.audience
    if audience.start is not None and not SINCE.search(audience.source.sql or ""):
        yield Problem(
            path=("audience", "start"), rule="has no effect without :since in the query", remedy="leave it out"
        )
    if "min_gap" in audience.model_fields_set and audience.enroll != "every_run":
        yield Problem(
            path=("audience", "min_gap"), rule="has no effect without `enroll: every_run`", remedy="leave it out"
        )
    if plan.basis is not None and Channel.EMAIL not in plan.channels:
        yield Problem(path=("basis",), rule="has no effect in a plan without email", remedy="leave it out")


def _judged_early(plan: Plan) -> Iterator[Problem]:
    end = max(_earliest(plan)) + plan.evaluation.after
    for number, goal in enumerate(plan.goals):
        if goal.within is not None and goal.within > end:
            yield Problem(
                path=("goals", number, "within"),
                rule="is longer than the plan waits before it is judged, so that the verdict stays open",
                remedy="lengthen `evaluation.after`",
            )
