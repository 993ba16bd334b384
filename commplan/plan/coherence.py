"""Whether the parts of a plan fit each other: names that must exist, order, consent, measures that can be taken.

Never judges a single value: that is notation's. Reads the plan as a tree of texts, so that what fits can be told even
while another part is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from commplan import condition as conditions
from commplan.errors import quoted
from commplan.plan.measure import measured
from commplan.plan.notation import NO_TOPICS, parse_locale, suggestion
from commplan.plan.tree import (
    KeyPath,
    Problem,
    Tree,
    claims,
    duration,
    group,
    groups,
    names,
    repeated,
    segment_changes,
    step_channels,
    text,
    written,
)
from commplan.terms import Channel, Purpose

#: `:since` as a bind parameter, and not PostgreSQL's ``::since``.
SINCE = re.compile(r"(?<!:):since\b")


def cross_check(plan: Tree) -> list[Problem]:
    """Return what does not fit in a plan, given as its file spells it (keys and texts, defaults left out)."""
    return [
        *_topic(plan),
        *_care(plan),
        *_team(plan),
        *_segments(plan),
        *_source(plan),
        *_columns(plan),
        *_steps(plan),
        *_events(plan),
        *_languages(plan),
        *measured(plan),
    ]


def _topic(plan: Tree) -> Iterator[Problem]:
    topic = text(plan.get("topic"))
    if topic in NO_TOPICS:
        yield Problem(
            path=("topic",),
            rule=f"{quoted(topic)} is no topic: opting out of it would be opting out of more than this plan",
            remedy="name what this plan is about, such as getting-started",
        )


def _care(plan: Tree) -> Iterator[Problem]:
    if "care" in plan and plan.get("purpose") in (Purpose.MARKETING, Purpose.EMERGENCY):
        yield Problem(
            path=("care",),
            rule=f"has no meaning with `purpose: {plan.get('purpose')}`",
            remedy="leave it out, or write `purpose: service`",
        )


def _team(plan: Tree) -> Iterator[Problem]:
    owner, team = text(plan.get("owner")), plan.get("team")
    if owner is not None and isinstance(team, Mapping) and owner not in team:
        yield Problem(path=("owner",), rule=f"{quoted(owner)} is not in team", remedy=suggestion(owner, list(team)))


def _segments(plan: Tree) -> Iterator[Problem]:
    segments = groups(group(plan.get("audience")).get("segments"))
    yield from repeated("segment", ("audience", "segments"), "name", names(segments, "name"))
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
    step_names = names(steps, "step")
    yield from repeated("step", ("sequence",), "step", step_names)
    segments = set(written(names(groups(group(plan.get("audience")).get("segments")), "name")))
    for number, step in enumerate(steps):
        path = ("sequence", number)
        yield from _order(step, path, step_names[:number])
        yield from _claims(plan, step, path, steps[:number])
        for name, _ in segment_changes(step):
            if name not in segments:
                yield Problem(
                    path=(*path, "by_segment", name),
                    rule=f"{quoted(name)} is not a segment",
                    remedy=suggestion(name, sorted(segments)),
                )
        yield from _invitation(plan, step, path)


def _invitation(plan: Tree, step: Tree, path: KeyPath) -> Iterator[Problem]:
    event, known = text(step.get("rsvp")), list(group(plan.get("events")))
    if event is not None and event not in known:
        yield Problem(
            path=(*path, "rsvp"),
            rule=f"`events` does not define {quoted(event)}",
            remedy=suggestion(event, known) if known else "define it there",
        )
    if "rsvp" in step and "ask" in step:
        yield Problem(
            path=(*path, "rsvp"),
            rule="cannot stand beside `ask`: nobody could tell which of them was answered",
            remedy="ask in a step of its own",
        )


def _events(plan: Tree) -> Iterator[Problem]:
    invited = {text(step.get("rsvp")) for step in groups(plan.get("sequence"))}
    for name in group(plan.get("events")):
        if name not in invited:
            yield Problem(
                path=("events", name),
                rule="no step invites to it",
                remedy=f"write `rsvp: {name}` in a step, or leave it out",
            )


def _languages(plan: Tree) -> Iterator[Problem]:
    """Yield the texts for people that lack the language of those whose own is unknown."""
    try:
        locale = parse_locale(plan.get("locale", "en"))
    except ValueError:
        return
    places: list[tuple[KeyPath, object]] = [(("topic_title",), plan.get("topic_title"))]
    for name, event in group(plan.get("events")).items():
        places.append((("events", name, "title"), group(event).get("title")))
    for number, step in enumerate(groups(plan.get("sequence"))):
        places.append((("sequence", number, "ask", "question"), group(step.get("ask")).get("question")))
    for path, found in places:
        if group(found) and locale not in group(found):
            yield Problem(
                path=path,
                rule=f"has no text for {locale}, the language of people whose own is unknown",
                remedy=f"add `{locale}:`",
            )


def _order(step: Tree, path: KeyPath, earlier: Sequence[str | None]) -> Iterator[Problem]:
    after = text(step.get("after"))
    if after is not None and after not in earlier:
        yield Problem(
            path=(*path, "after"),
            rule=f"{quoted(after)} is not an earlier step",
            remedy=suggestion(after, written(earlier)) if earlier else "the first step follows nothing; leave it out",
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


def _claims(plan: Tree, step: Tree, path: KeyPath, earlier: Sequence[Tree]) -> Iterator[Problem]:
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
                    remedy=suggestion(claim.subject, written(by_name)),
                )
        else:
            yield from _impossible(claim, path, by_name[claim.subject])


def _impossible(claim: conditions.Claim, path: KeyPath, subject: Tree) -> Iterator[Problem]:
    channels = step_channels(subject)
    if (claim.verb == "opened" or claim.grade == "open") and channels == {Channel.SMS}:
        yield Problem(
            path=(*path, "when"),
            rule=f"{claim}: opens of an SMS cannot be known",
            remedy="ask for delivered, clicked, replied or responded",
        )
    if claim.verb == "answered" and "ask" not in subject and "rsvp" not in subject:
        yield Problem(
            path=(*path, "when"),
            rule=f"{claim}: that step asks nothing",
            remedy="write `ask:` or `rsvp:` in that step",
        )
