"""Whether the parts of a plan fit each other: names that must exist, order, consent, measures that can be taken.

Never judges a single value: that is notation's. Reads the plan as a tree of texts, so that what fits can be told even
while another part is wrong; what is missing or malformed is passed over in silence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal

from commplan import condition as conditions
from commplan.errors import quoted
from commplan.plan.notation import Target, parse_duration, parse_locale, parse_share, suggestion
from commplan.terms import Channel, Metric, Purpose

#: `:since` as a bind parameter, and not PostgreSQL's ``::since``.
SINCE = re.compile(r"(?<!:):since\b")

_EMAIL_ONLY = {"opened": "opens", "clicked": "clicks"}
_EMAIL_METRICS = frozenset({Metric.OPEN_RATE, Metric.CLICK_RATE, Metric.COMPLAINT_RATE})
_SURVEY_METRICS = frozenset({Metric.CSAT, Metric.NPS, Metric.ANSWER_RATE})
_SCALES = {Metric.CSAT: (Decimal(1), Decimal(5)), Metric.NPS: (Decimal(-100), Decimal(100))}

Tree = Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Two parts of a plan that do not fit: where, by which rule, what to do."""

    path: tuple[str | int, ...]
    rule: str
    remedy: str = ""

    def __str__(self) -> str:
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.path).removeprefix(".")
        return f"{place}: {self.rule}" + (f"; {self.remedy}" if self.remedy else "")


def cross_check(plan: Tree) -> list[Problem]:
    """Return what does not fit in a plan, given as its file spells it (keys and texts, defaults left out)."""
    return [
        *_team(plan),
        *_segments(plan),
        *_source(plan),
        *_columns(plan),
        *_steps(plan),
        *_goals(plan),
    ]


def group(value: object) -> Tree:
    """Return a group of fields; an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}


def groups(value: object) -> list[Tree]:
    """Return the items of a list as groups, each in its position."""
    return [group(item) for item in value] if isinstance(value, list | tuple) else []


def text(value: object) -> str | None:
    """Return a text, None for anything else."""
    return str(value) if isinstance(value, str) else None


def duration(value: object) -> timedelta | None:
    """Return a duration, None where none (or no readable one) was written."""
    try:
        return parse_duration(value) if isinstance(value, str) else None
    except ValueError:
        return None


def claims(step: Tree) -> list[conditions.Claim]:
    """Return the claims of a step's `when`; none where it cannot be read."""
    try:
        return list(conditions.claims(conditions.parse(text(step.get("when")) or "")))
    except ValueError:
        return []


def segment_changes(step: Tree) -> list[tuple[str, Tree]]:
    """Return what a step changes for each segment, by the segment's name."""
    return [(name, group(change)) for name, change in group(step.get("by_segment")).items()]


def step_channels(step: Tree) -> set[str]:
    """Return every channel that some segment meets in a step; empty if one of them cannot be read."""
    found = {text(step.get("channel"))}
    found |= {text(change["channel"]) for _, change in segment_changes(step) if "channel" in change}
    return set(_listed(found)) if found <= set(Channel) else set()


def _names(items: Iterable[Tree], key: str) -> list[str | None]:
    return [text(item.get(key)) for item in items]


def _listed(names: Iterable[str | None]) -> list[str]:
    return [name for name in names if name is not None]


def _repeated(what: str, path: tuple[str, ...], key: str, names: Sequence[str | None]) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for position, name in enumerate(names):
        if name is not None and first.setdefault(name, position) != position:
            yield Problem(
                path=(*path, position, key),
                rule=f"{what} {quoted(name)} is already the name of {path[-1]}[{first[name]}]",
                remedy="give it another name",
            )


def _team(plan: Tree) -> Iterator[Problem]:
    owner, team = text(plan.get("owner")), plan.get("team")
    if owner is not None and isinstance(team, Mapping) and owner not in team:
        yield Problem(path=("owner",), rule=f"{quoted(owner)} is not in team", remedy=suggestion(owner, list(team)))


def _segments(plan: Tree) -> Iterator[Problem]:
    segments = groups(group(plan.get("audience")).get("segments"))
    yield from _repeated("segment", ("audience", "segments"), "name", _names(segments, "name"))
    for position, segment in enumerate(segments[:-1]):
        if set(segment) == {"name"}:
            yield Problem(
                path=("audience", "segments", position),
                rule="takes everybody, so that no segment after it is ever reached",
                remedy="write `if:`, or move it to the end",
            )


def _source(plan: Tree) -> Iterator[Problem]:
    audience = group(plan.get("audience"))
    if not isinstance(audience.get("source"), Mapping):
        return
    source, path = group(audience["source"]), ("audience", "source")
    if "contacts" in source:
        for key in ("url", "sql"):
            if key in source:
                yield Problem(
                    path=(*path, key), rule="cannot stand beside `contacts`", remedy="keep one source of people"
                )
    elif "url" not in source and "sql" not in source:
        yield Problem(path=path, rule="names no people", remedy="write `url` and `sql`, or `contacts`")
    else:
        for key, other in (("url", "sql"), ("sql", "url")):
            if key not in source:
                yield Problem(path=(*path, key), rule=f"is missing beside `{other}`", remedy="write both")
    if SINCE.search(text(source.get("sql")) or "") and "start" not in audience:
        yield Problem(
            path=("audience", "start"),
            rule="is missing, but the query uses :since",
            remedy="write `start: YYYY-MM-DD` for the first run",
        )


def _columns(plan: Tree) -> Iterator[Problem]:
    steps = groups(plan.get("sequence"))
    channels = {channel for step in steps for channel in step_channels(step)}
    contact = group(plan.get("audience")).get("contact")
    if not isinstance(contact, Mapping):
        return
    path = ("audience", "contact")
    for channel, name, column in ((Channel.EMAIL, "email", "email"), (Channel.SMS, "SMS", "phone")):
        if channel in channels and column not in contact:
            yield Problem(
                path=(*path, column),
                rule=f"is missing, but a step sends {name}",
                remedy=f"write `{column}:` and the column's name",
            )
    if plan.get("purpose") != Purpose.MARKETING:
        return
    consent = group(contact.get("consent"))
    if Channel.SMS in channels and "sms" not in consent:
        yield Problem(
            path=(*path, "consent", "sms"),
            rule="is missing, but marketing SMS needs a recorded consent",
            remedy="name the column that records it",
        )
    if Channel.EMAIL in channels and "email" not in consent and "basis" not in plan:
        yield Problem(
            path=(*path, "consent", "email"),
            rule="is missing, but marketing email needs a recorded consent or another basis",
            remedy="name the column that records it, or write `basis:` with the reason",
        )


def _steps(plan: Tree) -> Iterator[Problem]:
    steps = groups(plan.get("sequence"))
    names = _names(steps, "step")
    yield from _repeated("step", ("sequence",), "step", names)
    segments = set(_listed(_names(groups(group(plan.get("audience")).get("segments")), "name")))
    for number, step in enumerate(steps):
        path = ("sequence", number)
        yield from _order(step, path, names[:number])
        yield from _claims(plan, step, path, steps[:number])
        for name, _ in segment_changes(step):
            if name not in segments:
                yield Problem(
                    path=(*path, "by_segment", name),
                    rule=f"{quoted(name)} is not a segment",
                    remedy=suggestion(name, sorted(segments)),
                )
        yield from _question(plan, step, path)


def _question(plan: Tree, step: Tree, path: tuple[str | int, ...]) -> Iterator[Problem]:
    question = group(group(step.get("ask")).get("question"))
    try:
        locale = parse_locale(plan.get("locale", "en"))
    except ValueError:
        return
    if question and locale not in question:
        yield Problem(
            path=(*path, "ask", "question"),
            rule=f"has no text for {locale}, the language of people whose own is unknown",
            remedy=f"add `{locale}:`",
        )


def _order(step: Tree, path: tuple[str | int, ...], earlier: Sequence[str | None]) -> Iterator[Problem]:
    after = text(step.get("after"))
    if after is not None and after not in earlier:
        yield Problem(
            path=(*path, "after"),
            rule=f"{quoted(after)} is not an earlier step",
            remedy=suggestion(after, _listed(earlier)) if earlier else "the first step follows nothing; leave it out",
        )
    if earlier:
        return
    first = "has no meaning in the first step, which follows nothing"
    if duration(step.get("wait")):
        yield Problem(path=(*path, "wait"), rule=first, remedy="leave it out")
    if "when" in step:
        yield Problem(path=(*path, "when"), rule=first, remedy="leave it out; choose the people in `audience`")
    for name, change in segment_changes(step):
        if duration(change.get("wait")):
            yield Problem(path=(*path, "by_segment", name, "wait"), rule=first, remedy="leave it out")


def _claims(plan: Tree, step: Tree, path: tuple[str | int, ...], earlier: Sequence[Tree]) -> Iterator[Problem]:
    by_name = {text(other.get("step")): other for other in earlier}
    for claim in claims(step):
        if claim.verb in conditions.CONVERSION_CLAIMS:
            known = list(group(plan.get("conversions")))
            if claim.subject not in known:
                yield Problem(
                    path=(*path, "when"),
                    rule=f"{claim}: `conversions` does not define it",
                    remedy=suggestion(claim.subject, known),
                )
        elif claim.subject not in by_name:
            if earlier:
                yield Problem(
                    path=(*path, "when"),
                    rule=f"{claim}: there is no earlier step of that name",
                    remedy=suggestion(claim.subject, _listed(by_name)),
                )
        else:
            yield from _impossible(claim, path, by_name[claim.subject])


def _impossible(claim: conditions.Claim, path: tuple[str | int, ...], subject: Tree) -> Iterator[Problem]:
    channels = step_channels(subject)
    if claim.verb in _EMAIL_ONLY and channels == {Channel.SMS}:
        yield Problem(
            path=(*path, "when"),
            rule=f"{claim}: {_EMAIL_ONLY[claim.verb]} of an SMS cannot be known",
            remedy="ask for delivered, replied or responded",
        )
    if claim.verb == "replied" and channels == {Channel.EMAIL}:
        yield Problem(
            path=(*path, "when"),
            rule=f"{claim}: replies to email are not read in this version",
            remedy="ask for opened, clicked or responded",
        )
    if claim.verb == "answered" and "ask" not in subject:
        yield Problem(path=(*path, "when"), rule=f"{claim}: that step asks nothing", remedy="write `ask:` in that step")


def _goals(plan: Tree) -> Iterator[Problem]:
    goals, steps = groups(plan.get("goals")), groups(plan.get("sequence"))
    yield from _repeated("goal", ("goals",), "id", _names(goals, "id"))
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
                remedy=suggestion(step, _listed(by_name)),
            )
        elif steps:
            yield from _unmeasurable(metric, path, [by_name[step]] if step is not None else steps)
        yield from _units(goal, path, metric)


def _conversion_goal(plan: Tree, goal: Tree, path: tuple[str | int, ...], name: str) -> Iterator[Problem]:
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


def _unmeasurable(metric: str, path: tuple[str | int, ...], steps: Sequence[Tree]) -> Iterator[Problem]:
    channels = [step_channels(step) for step in steps]
    if metric in _EMAIL_METRICS and all(found == {Channel.SMS} for found in channels):
        yield Problem(path=(*path, "metric"), rule=f"{metric} is known of email only", remedy="measure an email step")
    if metric == Metric.REPLY_RATE and all(found == {Channel.EMAIL} for found in channels):
        yield Problem(
            path=(*path, "metric"),
            rule="replies to email are not read in this version",
            remedy="measure an SMS step, or response_rate",
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


def _units(goal: Tree, path: tuple[str | int, ...], metric: str) -> Iterator[Problem]:
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
