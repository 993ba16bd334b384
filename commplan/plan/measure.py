"""Whether the goals of a plan can be measured by what the plan does.

Never judges a single value: that is notation's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal

from commplan.errors import quoted
from commplan.plan.notation import Target, parse_share, suggestion
from commplan.plan.tree import KeyPath, Problem, Tree, group, groups, names, repeated, step_channels, text, written
from commplan.terms import Channel, Metric

_EMAIL_METRICS = frozenset({Metric.OPEN_RATE, Metric.COMPLAINT_RATE})
_SURVEY_METRICS = frozenset({Metric.CSAT, Metric.NPS, Metric.ANSWER_RATE})
_RSVP_METRICS = frozenset({Metric.RSVP_YES, Metric.RSVP_NO, Metric.RSVP_MAYBE})
_SCALES = {Metric.CSAT: (Decimal(1), Decimal(5)), Metric.NPS: (Decimal(-100), Decimal(100))}


def measured(plan: Tree) -> Iterator[Problem]:
    """Yield what keeps a goal from being measured."""
    goals, steps = groups(plan.get("goals")), groups(plan.get("sequence"))
    yield from repeated("goal", ("goals",), "id", names(goals, "id"))
    by_name = {text(step.get("step")): step for step in steps}
    for number, goal in enumerate(goals):
        path, metric, step = ("goals", number), text(goal.get("metric")) or "", text(goal.get("step"))
        if metric.startswith("conversion."):
            yield from _conversion_goal(plan, goal, path, metric.removeprefix("conversion."))
        elif metric in tuple(Metric) and "within" in goal:
            yield Problem(path=(*path, "within"), rule="belongs to conversions only", remedy="leave it out")
        if step is not None and (metric == Metric.REACH or metric.startswith("conversion.")):
            yield Problem(
                path=(*path, "step"), rule=f"cannot narrow {metric}, which is about everybody", remedy="leave it out"
            )
        elif step is not None and steps and step not in by_name:
            yield Problem(
                path=(*path, "step"),
                rule=f"{quoted(step)} is not a step",
                remedy=suggestion(step, written(by_name)),
            )
        elif steps:
            yield from _unmeasurable(metric, path, [by_name[step]] if step is not None else steps)
        yield from _units(goal, path, metric)


def _conversion_goal(plan: Tree, goal: Tree, path: KeyPath, name: str) -> Iterator[Problem]:
    known = list(group(plan.get("conversions")))
    if name not in known:
        yield Problem(
            path=(*path, "metric"),
            rule=f"`conversions` does not define {quoted(name)}",
            remedy=suggestion(name, known) if known else "define it there",
        )
    if "within" not in goal:
        yield Problem(
            path=(*path, "within"),
            rule="is missing: a conversion is counted for a time",
            remedy="write `within: P7D`",
        )


def _unmeasurable(metric: str, path: KeyPath, steps: Sequence[Tree]) -> Iterator[Problem]:
    channels = [step_channels(step) for step in steps]
    if metric in _EMAIL_METRICS and all(found == {Channel.SMS} for found in channels):
        yield Problem(path=(*path, "metric"), rule=f"{metric} is known of email only", remedy="measure an email step")
    if metric == Metric.REPLY_RATE and all(found == {Channel.EMAIL} for found in channels):
        yield Problem(
            path=(*path, "metric"),
            rule="reply_rate counts answers to texts alone",
            remedy="measure an SMS step, or response_rate",
        )
    if metric in _RSVP_METRICS and not any("rsvp" in step for step in steps):
        yield Problem(
            path=(*path, "metric"), rule=f"{metric} needs a step that invites", remedy="write `rsvp:` in that step"
        )
    if metric not in _SURVEY_METRICS:
        return
    asks = [group(step.get("ask")) for step in steps if "ask" in step]
    if not asks:
        yield Problem(
            path=(*path, "metric"), rule=f"{metric} needs a step that asks", remedy="write `ask:` in the survey's step"
        )
    elif metric in _SCALES and all(text(ask.get("scale")) in {"csat", "nps"} - {metric} for ask in asks):
        yield Problem(path=(*path, "metric"), rule=f"no step asks on the {metric} scale", remedy="correct `ask.scale`")


def _units(goal: Tree, path: KeyPath, metric: str) -> Iterator[Problem]:
    scale = next((bounds for name, bounds in _SCALES.items() if name == metric), None)
    if scale is None and metric not in tuple(Metric) and not metric.startswith("conversion."):
        return
    for key in ("target", "baseline"):
        try:
            target = Target.parse(goal[key]) if key == "target" else None
            value = target.value if target else parse_share(goal[key])
        except (KeyError, ValueError):
            continue
        is_share = target.is_share if target else str(goal[key]).endswith("%")
        if scale is None:
            if target is not None and not is_share:
                yield Problem(path=(*path, key), rule=f"{metric} is a rate", remedy="write the target in per cent")
            elif not 0 <= value <= 1:
                yield Problem(path=(*path, key), rule="is not between 0% and 100%", remedy="correct it")
        elif target is not None and is_share:
            yield Problem(path=(*path, key), rule=f"{metric} is not a rate", remedy="write a number without %")
        elif not scale[0] <= value <= scale[1]:
            yield Problem(
                path=(*path, key), rule=f"is not between {scale[0]} and {scale[1]}, as {metric} is", remedy="correct it"
            )
