"""The plan: what a plan file says, checked and frozen.

Pure data and what follows from it; reading the file and naming lines is planfile's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from functools import cached_property
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema, model_validator

from commplan import condition as conditions
from commplan.condition import Condition
from commplan.terms import Channel, Metric, Purpose
from commplan.window import SMS_HOURS, Window

_DURATION = re.compile(r"^P(?=\d|T\d)(?:(\d+)W)?(?:(\d+)D)?(?:T(?=\d)(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?)?$")
_TARGET = re.compile(r"^(at least|at most) (-?\d+(?:\.\d+)?)(%?)$")
_ENV = r"^env:[A-Z][A-Z0-9_]*$"


def parse_duration(text: object) -> timedelta:
    """Return an ISO 8601 duration in weeks, days, hours, minutes and seconds (months and years have no fixed length)."""
    if isinstance(text, timedelta):
        return text
    match = _DURATION.match(str(text))
    if not match:
        raise ValueError(f"{str(text)!r} is not an ISO 8601 duration; write P2D, P1W or PT4H")
    weeks, days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return timedelta(weeks=weeks, days=days, hours=hours, minutes=minutes, seconds=seconds)


def write_duration(duration: timedelta) -> str:
    """Return the ISO 8601 form that `parse_duration` reads."""
    days, rest = duration.days, duration.seconds
    clock = "".join(f"{n}{unit}" for n, unit in ((rest // 3600, "H"), (rest // 60 % 60, "M"), (rest % 60, "S")) if n)
    return "P" + (f"{days}D" if days or not clock else "") + (f"T{clock}" if clock else "")


def _parse_zone(text: object) -> ZoneInfo:
    if isinstance(text, ZoneInfo):
        return text
    try:
        return ZoneInfo(str(text))
    except (ValueError, OSError):
        raise ValueError(f"{str(text)!r} is not a time zone; write an IANA name such as Asia/Shanghai") from None


def _parse_window(value: object) -> Window:
    return value if isinstance(value, Window) else Window.parse(str(value))


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(write_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": _DURATION.pattern, "examples": ["P2D", "PT4H"]}),
]
Zone = Annotated[
    ZoneInfo,
    BeforeValidator(_parse_zone),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "examples": ["Asia/Shanghai"]}),
]
Hours = Annotated[
    Window,
    BeforeValidator(_parse_window),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "examples": ["09:00-20:00"]}),
]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$", max_length=60)]
EnvRef = Annotated[
    str, Field(pattern=_ENV, description="`env:NAME`: the value is read from the environment, never from the plan")
]
#: One text for everybody, or one per locale.
Localized = str | dict[str, str]


class _Part(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, populate_by_name=True, arbitrary_types_allowed=True
    )


class Target(_Part):
    """A bound that a metric must keep; shares are fractions of 1."""

    bound: Literal["at least", "at most"]
    value: Decimal
    is_share: bool

    @classmethod
    def parse(cls, text: object) -> Target:
        """Return the target written as ``at least 40%`` or ``at most 4.2``."""
        if isinstance(text, Target):
            return text
        match = _TARGET.match(str(text))
        if not match:
            raise ValueError(f"{str(text)!r} is not a target; write `at least 40%` or `at most 2%`")
        value = Decimal(match[2])
        return cls(bound=match[1], value=value / 100 if match[3] else value, is_share=bool(match[3]))

    def __str__(self) -> str:
        shown = f"{(self.value * 100).normalize():f}%" if self.is_share else f"{self.value.normalize():f}"
        return f"{self.bound} {shown}"


def _parse_share(text: object) -> Decimal:
    if isinstance(text, Decimal):
        return text
    match = re.match(r"^(-?\d+(?:\.\d+)?)(%?)$", str(text))
    if not match:
        raise ValueError(f"{str(text)!r} is not a number; write 31% or 4.2")
    return Decimal(match[1]) / 100 if match[2] else Decimal(match[1])


class Member(_Part):
    """A role of the plan's team."""

    notify: EnvRef | None = Field(None, description="Where this role is told things: an apprise URL in the environment")


class Goal(_Part):
    """A number that the plan is judged by."""

    id: Name = Field(description="Short name, used in the report")
    purpose: str = Field("", description="The goal in words")
    metric: str = Field(description="What is measured: a metric such as delivered_rate, or conversion.<name>")
    step: Name | None = Field(None, description="Measure this step only")
    baseline: Annotated[Decimal, BeforeValidator(_parse_share), WithJsonSchema({"type": "string"})] | None = Field(
        None, description="The figure before this plan, to compare with"
    )
    target: Annotated[
        Target,
        BeforeValidator(Target.parse),
        PlainSerializer(str, return_type=str),
        WithJsonSchema({"type": "string", "pattern": _TARGET.pattern, "examples": ["at least 40%"]}),
    ] = Field(description="`at least` or `at most` a number")
    within: Duration | None = Field(
        None, description="For a conversion: counted this long after a person's first message"
    )

    @property
    def conversion(self) -> str | None:
        """The conversion this goal is about, None for other metrics."""
        return self.metric.removeprefix("conversion.") if self.metric.startswith("conversion.") else None

    @model_validator(mode="after")
    def _check(self) -> Goal:
        if self.conversion is None and self.metric not in tuple(Metric):
            raise ValueError(
                f"metric {self.metric!r} is unknown; write one of {', '.join(Metric)}, or conversion.<name>"
            )
        if (self.within is None) != (self.conversion is None):
            raise ValueError("`within` belongs to a conversion goal, and every conversion goal needs it")
        return self


class Source(_Part):
    """Where the audience comes from: a database and a query, or imported contacts."""

    url: EnvRef | None = Field(None, description="SQLAlchemy URL of the organisation's database, by `env:` reference")
    sql: str | None = Field(None, description="One SELECT; `:since` is the time of the last run (RULES R7)")
    contacts: Name | None = Field(
        None, description="Instead of url and sql: people imported with `commplan contacts import`"
    )
    zone: Zone | None = Field(None, description="What times without a zone mean in this database")
    timeout: Duration = Field(timedelta(seconds=60), description="Longest the query may take")
    row_limit: int = Field(2_000_000, ge=1, description="Most rows the query may return; more is an error")

    @model_validator(mode="after")
    def _check(self) -> Source:
        if (self.contacts is None) == (self.url is None) or (self.url is None) != (self.sql is None):
            raise ValueError("write either `url` and `sql`, or `contacts`")
        return self


class ConsentColumns(_Part):
    """Columns that record permission: 1, true, yes or a date is a yes; 0, false, no or nothing is a no."""

    email: str | None = Field(None, description="Column with the consent to email")
    sms: str | None = Field(None, description="Column with the consent to SMS")


class ContactColumns(_Part):
    """Which column of the source is what."""

    id: str = Field(description="Column that identifies a person among `people`")
    email: str | None = Field(None, description="Column with the email address")
    phone: str | None = Field(None, description="Column with the phone number")
    locale: str | None = Field(None, description="Column with the language, such as zh-CN")
    timezone: str | None = Field(None, description="Column with the IANA time zone")
    consent: ConsentColumns = Field(default_factory=ConsentColumns, description="Columns that record permission")


class Segment(_Part):
    """A named rule over the audience; the first that matches wins."""

    name: Name = Field(description="Name of the segment")
    condition: str | None = Field(
        None, alias="if", description="One boolean SQL expression over the source's columns; nothing: everybody else"
    )


def _parse_enroll(value: object) -> object:
    return value if value in ("once", "every_run") else parse_duration(value)


class Audience(_Part):
    """Who is written to."""

    people: Name = Field(description="Whose ids these are: customers, employees, partners (RULES R8)")
    source: Source = Field(description="Where they come from")
    contact: ContactColumns = Field(description="Which column is what")
    start: date | None = Field(None, description="`:since` of the first run; required if the query uses :since")
    overlap: Duration = Field(timedelta(days=2), description="How far before the last run `:since` reaches back")
    enroll: Annotated[
        Literal["once", "every_run"] | timedelta,
        BeforeValidator(_parse_enroll),
        PlainSerializer(lambda v: v if isinstance(v, str) else write_duration(v), return_type=str),
        WithJsonSchema({"type": "string", "examples": ["once", "every_run", "P90D"]}),
    ] = Field(
        "once", description="How often one person may go through this plan: `once`, `every_run`, or once in a duration"
    )
    min_gap: Duration = Field(
        timedelta(days=1),
        description="With `every_run`: least time between two messages of the same step to one person",
    )
    segments: tuple[Segment, ...] = Field((), description="Named rules, in order")

    @model_validator(mode="after")
    def _check(self) -> Audience:
        if self.source.sql and ":since" in self.source.sql and self.start is None:
            raise ValueError("the query uses :since; write `start: YYYY-MM-DD` for the first run")
        return self


class Conversion(_Part):
    """Something people do in the organisation's own systems."""

    sql: str = Field(description="One SELECT over the audience's database")
    contact: str = Field(description="Column with the person's id")
    at: str = Field(description="Column with the time it happened")


class Ask(_Part):
    """A survey of one question and a free text."""

    scale: Literal["csat", "nps"] = Field(description="csat: 1 to 5; nps: 0 to 10")
    question: Localized = Field(description="The question; one text, or one per locale")


class SegmentChange(_Part):
    """What is different for one segment in one step."""

    content: Name | None = Field(None, description="Other content")
    channel: Channel | None = Field(None, description="Other channel")
    wait: Duration | None = Field(None, description="Other wait")
    window: Hours | None = Field(None, description="Other hours")
    skip: bool = Field(False, description="Leave this segment out of the step")


class Step(_Part):
    """One touch of the sequence."""

    step: Name = Field(description="Name of the step")
    channel: Channel = Field(description="email or sms")
    content: Name = Field(description="Name of the content files beside the plan")
    after: Name | None = Field(None, description="The earlier step it follows; default: the one before")
    wait: Duration = Field(timedelta(0), description="Per person, from the acceptance of their message in `after`")
    when: str | None = Field(None, description="Condition on earlier steps, such as `not responded(welcome)`")
    window: Hours | None = Field(None, description="The recipient's local hours; SMS without one gets 09:00-20:00")
    not_after: Duration = Field(timedelta(days=1), description="How late it may still be sent")
    ask: Ask | None = Field(None, description="The survey behind `links.survey`")
    by_segment: dict[str, SegmentChange] = Field({}, description="What is different for a segment")

    @cached_property
    def condition(self) -> Condition | None:
        """The parsed `when`."""
        return None if self.when is None else conditions.parse(self.when)

    @model_validator(mode="after")
    def _check(self) -> Step:
        if self.when is not None:
            try:
                conditions.parse(self.when)
            except ValueError as error:
                raise ValueError(f"when: {error}") from None
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Touch:
    """A step as it is for one segment."""

    step_no: int
    step: str
    channel: Channel
    content: str
    wait: timedelta
    window: Window | None
    skip: bool


class EvaluationTime(_Part):
    """When the plan is judged."""

    after: Duration = Field(timedelta(days=7), description="After the last message was accepted")


class Plan(_Part):
    """A whole plan."""

    plan: Name = Field(description="Name of the plan; enrolment, evaluations and runs go by it")
    title: str = Field(min_length=1, max_length=200, description="Title for people")
    purpose: Purpose = Field(description="marketing, service or emergency: which consent it needs")
    topic: Name = Field(description="What a recipient can opt out of")
    owner: Name = Field(description="The role in `team` that answers for it")
    team: dict[Name, Member] = Field(description="Roles and where they are told things")
    live: bool = Field(False, description="May be sent to real people, where environment and store agree (RULES R19)")
    locale: str = Field("en", description="Language of people whose own is unknown or has no content")
    basis: str | None = Field(None, description="Why marketing email may go to people without a recorded consent")
    goals: tuple[Goal, ...] = Field(min_length=1, description="Numbers it is judged by")
    audience: Audience = Field(description="Who is written to")
    conversions: dict[Name, Conversion] = Field({}, description="What people do in the organisation's own systems")
    sequence: tuple[Step, ...] = Field(min_length=1, max_length=50, description="The touches, in order")
    evaluation: EvaluationTime = Field(default_factory=EvaluationTime, description="When it is judged")

    def step_number(self, name: str) -> int:
        """Return the position of a step, from 1; KeyError if there is none of that name."""
        for number, step in enumerate(self.sequence, 1):
            if step.step == name:
                return number
        raise KeyError(name)

    def follows(self, step_no: int) -> int | None:
        """Return the number of the step that `step_no` waits for, None for a step that waits for nothing."""
        step = self.sequence[step_no - 1]
        if step.after is not None:
            return self.step_number(step.after)
        return step_no - 1 if step_no > 1 else None

    def touch(self, step_no: int, segment: str | None) -> Touch:
        """Return a step as it is for one segment (None: outside every segment)."""
        step = self.sequence[step_no - 1]
        change = step.by_segment.get(segment or "", SegmentChange())
        channel = change.channel or step.channel
        window = change.window or step.window or (SMS_HOURS if channel is Channel.SMS else None)
        return Touch(
            step_no=step_no,
            step=step.step,
            channel=channel,
            content=change.content or step.content,
            wait=step.wait if change.wait is None else change.wait,
            window=window,
            skip=change.skip,
        )

    @property
    def channels(self) -> frozenset[Channel]:
        """Every channel that any segment may meet."""
        found = {step.channel for step in self.sequence}
        return frozenset(found | {c.channel for s in self.sequence for c in s.by_segment.values() if c.channel})

    @property
    def zone(self) -> ZoneInfo:
        """The zone that the plan's own times are written in."""
        return self.audience.source.zone or ZoneInfo("UTC")

    @model_validator(mode="after")
    def _check(self) -> Plan:
        problems: list[str] = []
        if self.owner not in self.team:
            problems.append(f"owner {self.owner!r} is not in team; add it there")
        names = [step.step for step in self.sequence]
        for number, step in enumerate(self.sequence):
            problems.extend(self._check_step(number, step, names))
        for what, values in (
            ("step", names),
            ("goal", [goal.id for goal in self.goals]),
            ("segment", [segment.name for segment in self.audience.segments]),
        ):
            problems.extend(
                f"{what} {value!r} appears twice; names must differ"
                for value in sorted({v for v in values if values.count(v) > 1})
            )
        for goal in self.goals:
            if goal.conversion is not None and goal.conversion not in self.conversions:
                problems.append(
                    f"goal {goal.id!r} counts conversion {goal.conversion!r}, which `conversions` does not define"
                )
            if goal.step is not None and goal.step not in names:
                problems.append(f"goal {goal.id!r} is about step {goal.step!r}, which `sequence` does not have")
        if Channel.EMAIL in self.channels and self.audience.contact.email is None:
            problems.append("a step sends email, but audience.contact.email names no column")
        if Channel.SMS in self.channels and self.audience.contact.phone is None:
            problems.append("a step sends SMS, but audience.contact.phone names no column")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _check_step(self, number: int, step: Step, names: list[str]) -> list[str]:
        earlier, problems = names[:number], []
        if step.after is not None and step.after not in earlier:
            problems.append(f"step {step.step!r} comes after {step.after!r}, which is not an earlier step")
        if number == 0 and (step.wait or step.when):
            problems.append(f"step {step.step!r} is the first; it can have neither `wait` nor `when`")
        if step.condition is not None:
            for claim in conditions.claims(step.condition):
                known = list(self.conversions) if claim.verb in conditions.CONVERSION_CLAIMS else earlier
                if claim.subject not in known:
                    problems.append(
                        f"step {step.step!r}: when: {claim.verb}({claim.subject}) names nothing earlier; known: {', '.join(known) or 'nothing'}"
                    )
        segments = [segment.name for segment in self.audience.segments]
        problems.extend(
            f"step {step.step!r}: by_segment names {name!r}, which is not a segment"
            for name in step.by_segment
            if name not in segments
        )
        return problems


def json_schema() -> dict[str, Any]:
    """Return the published JSON Schema of the plan file (draft 2020-12)."""
    schema = Plan.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "commplan communication plan", **schema}
