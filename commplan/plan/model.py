"""The plan: what a plan file says, checked and frozen.

Pure data and what follows from it; reading the file and naming lines is planfile's.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from commplan import condition as conditions
from commplan.condition import Claim, Condition
from commplan.plan.coherence import cross_check
from commplan.plan.field import (
    ColumnName,
    Count,
    Date,
    Duration,
    Enrolment,
    EnvRef,
    Flag,
    Hours,
    Line,
    Locale,
    Localized,
    MetricName,
    Name,
    Part,
    PositiveDuration,
    Share,
    TargetText,
    Text,
    When,
    Zone,
    one_value,
    parse_column,
)
from commplan.silence import silences
from commplan.terms import Channel, OnUnknown, Purpose
from commplan.window import SMS_HOURS, Window


class Member(Part):
    """A role of the plan's team."""

    notify: EnvRef | None = Field(
        None, description="Where this role is told things: `env:NAME` of a variable with an apprise URL"
    )


class Goal(Part):
    """A number that the plan is judged by."""

    id: Name = Field(description="Short name, used in the report")
    purpose: Text = Field("", description="The goal in words")
    metric: MetricName = Field(description="What is measured: a metric such as delivered_rate, or conversion.<name>")
    step: Name | None = Field(None, description="Measure this step only; not for reach and conversions")
    baseline: Share | None = Field(None, description="The figure before this plan, to compare with")
    target: TargetText = Field(description="`at least` or `at most` a number; rates in per cent")
    within: PositiveDuration | None = Field(
        None, description="For a conversion: counted this long after a person's first message"
    )

    @property
    def conversion(self) -> str | None:
        """The conversion this goal is about, None for other metrics."""
        return self.metric.removeprefix("conversion.") if self.metric.startswith("conversion.") else None


class Source(Part):
    """Where the audience comes from: a database and a query, or imported contacts."""

    url: EnvRef | None = Field(
        None,
        description="`env:NAME` of a variable with the URL of the organisation's database, any that SQLAlchemy knows",
    )
    sql: Text | None = Field(None, description="One SELECT; `:since` is the time of this plan's last run")
    contacts: Name | None = Field(
        None, description="Instead of url and sql: people imported with `commplan contacts import`"
    )
    zone: Zone | None = Field(None, description="What times without a zone mean in this database")
    timeout: PositiveDuration = Field(timedelta(seconds=60), description="Longest the query may take")
    row_limit: Count = Field(2_000_000, description="Most rows the query may return; more is an error")


class ConsentRecord(Part):
    """Columns with one channel's permission and the evidence of it.

    In `given` 1, true, yes or a date is a yes; 0, false, no or nothing is a no.
    """

    given: ColumnName = Field(description="Column with the consent itself; where it stands alone, write its name only")
    source: ColumnName | None = Field(None, description="Column with where it was given: a form, a shop, a call")
    text: ColumnName | None = Field(None, description="Column with the words that were agreed to")
    at: ColumnName | None = Field(None, description="Column with the time it was given")

    @property
    def evidence(self) -> dict[str, str]:
        """The columns besides `given`, by field."""
        named = {"source": self.source, "text": self.text, "at": self.at}
        return {name: column for name, column in named.items() if column is not None}


def _record(value: object) -> object:
    if value is None or isinstance(value, dict | ConsentRecord):
        return value
    return {"given": one_value(parse_column)(value)}


_Consent = Annotated[
    ConsentRecord | None, BeforeValidator(_record, json_schema_input_type=ColumnName | ConsentRecord | None)
]


class ConsentColumns(Part):
    """Columns that record permission."""

    email: _Consent = Field(None, description="Column with the consent to email, or a group with its evidence too")
    sms: _Consent = Field(None, description="Column with the consent to SMS, or a group with its evidence too")


class ContactColumns(Part):
    """Which column of the source is what."""

    id: ColumnName = Field(description="Column that identifies a person among `people`")
    email: ColumnName | None = Field(None, description="Column with the email address")
    phone: ColumnName | None = Field(None, description="Column with the phone number")
    locale: ColumnName | None = Field(None, description="Column with the language, such as zh-CN")
    timezone: ColumnName | None = Field(None, description="Column with the IANA time zone")
    consent: ConsentColumns = Field(default_factory=ConsentColumns, description="Columns that record permission")


class Segment(Part):
    """A named rule over the audience; the first that matches wins."""

    name: Name = Field(description="Name of the segment")
    condition: Text | None = Field(
        None,
        alias="if",
        description="One boolean SQL expression over the source's columns; nothing: everybody else",
        examples=["lifetime_value >= 1000"],
    )


class Audience(Part):
    """Who is written to."""

    people: Name = Field(description="Whose ids these are: customers, employees, partners")
    source: Source = Field(description="Where they come from")
    contact: ContactColumns = Field(description="Which column is what")
    start: Date | None = Field(None, description="`:since` of the first run; required if the query uses :since")
    overlap: Duration = Field(timedelta(days=2), description="How far before the last run `:since` reaches back")
    enroll: Enrolment = Field(
        "once", description="How often one person may go through this plan: `once`, `every_run`, or once in a duration"
    )
    min_gap: Duration = Field(
        timedelta(days=1),
        description="With `every_run`: least time between two messages of the same step to one person",
    )
    segments: tuple[Segment, ...] = Field((), max_length=100, description="Named rules, in order")


class Conversion(Part):
    """Something people do in the organisation's own systems."""

    sql: Text = Field(description="One SELECT over the audience's database")
    contact: ColumnName = Field(description="Column with the person's id")
    at: ColumnName = Field(description="Column with the time it happened")


class Ask(Part):
    """A survey of one question and a free text."""

    scale: Literal["csat", "nps"] = Field(description="csat: 1 to 5; nps: 0 to 10")
    question: Localized = Field(description="The question; one text, or one per locale")
    open_for: PositiveDuration = Field(
        timedelta(days=30), description="How long after its message was accepted the survey takes answers"
    )


class Event(Part):
    """Something that people are invited to."""

    title: Localized = Field(description="What it is, when and where, for people; one text, or one per locale")
    places: Count | None = Field(None, description="Most people who may say yes; left out: as many as will")
    closes: Date | None = Field(None, description="The last day on which answers are taken, in the source's zone")
    open_for: PositiveDuration = Field(
        timedelta(days=30), description="How long after its message was accepted an invitation takes answers"
    )


class SegmentChange(Part):
    """What is different for one segment in one step."""

    content: Name | None = Field(None, description="Other content")
    channel: Channel | None = Field(None, description="Other channel")
    wait: Duration | None = Field(None, description="Other wait")
    window: Hours | None = Field(None, description="Other hours")
    skip: Flag = Field(False, description="Leave this segment out of the step")


class Step(Part):
    """One touch of the sequence."""

    step: Name = Field(description="Name of the step")
    channel: Channel = Field(description="email or sms")
    content: Name = Field(description="Name of the content files beside the plan")
    after: Name | None = Field(None, description="The earlier step it follows; default: the one before")
    wait: Duration = Field(timedelta(0), description="Per person, from the acceptance of their message in `after`")
    when: When | None = Field(
        None,
        description="Condition on earlier steps and on conversions: claims joined by and, or, not; `responded(step)` "
        "is a click or better, `responded(step, open)` counts opens, too",
    )
    window: Hours | None = Field(
        None, description="The recipient's local hours; SMS without one gets 09:00-20:00, email any hour"
    )
    not_after: PositiveDuration | None = Field(
        None,
        description="How late it may still be sent; left out: P1D, or P2D where `when` rests on silence",
    )
    on_unknown: OnUnknown = Field(
        OnUnknown.HOLD,
        description="What becomes of messages that may have been sent, when no evidence came within 25 hours: `hold`, "
        "`assume_sent` or `resend`",
    )
    ask: Ask | None = Field(None, description="The survey behind `links.survey`")
    rsvp: Name | None = Field(None, description="The event, one of `events`, that `links.rsvp` invites to")
    by_segment: dict[Name, SegmentChange] = Field({}, description="What is different for a segment")

    @cached_property
    def condition(self) -> Condition | None:
        """The parsed `when`."""
        return None if self.when is None else conditions.parse(self.when)

    @cached_property
    def silences(self) -> tuple[Claim, ...]:
        """The claims whose absence can make `when` hold; with any, the step rests on silence."""
        return tuple(silences(self.condition))

    @property
    def lateness(self) -> timedelta:
        """How late it may still be sent: after a gap of the feed it takes 25 hours until silence is proven again."""
        return self.not_after or timedelta(days=2 if self.silences else 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Touch:
    """A step as it is for one segment; `window` None means any hour."""

    step_no: int
    step: str
    channel: Channel
    content: str
    wait: timedelta
    window: Window | None
    skip: bool


class EvaluationTime(Part):
    """When the plan is judged."""

    after: Duration = Field(timedelta(days=7), description="After the last message was accepted")


class Plan(Part):
    """A whole plan; it exists only if its parts fit each other (`cross_check`)."""

    plan: Name = Field(description="Name of the plan; enrolment, evaluations and runs go by it")
    title: Line = Field(description="Title for people")
    purpose: Purpose = Field(description="Which consent it needs: marketing, service or emergency")
    topic: Name = Field(description="What a recipient can opt out of")
    topic_title: Localized | None = Field(
        None, description="What recipients read in place of the topic's name; one text, or one per locale"
    )
    care: Flag = Field(
        False, description="With `purpose: service`: it is kind rather than needed, so that a pause keeps it back"
    )
    owner: Name = Field(description="The role in `team` that answers for it")
    team: dict[Name, Member] = Field(max_length=100, description="Roles and where they are told things")
    live: Flag = Field(False, description="May be sent to real people, where environment and store agree")
    locale: Locale = Field("en", description="Language of people whose own is unknown or has no content")
    basis: Text | None = Field(None, description="Why marketing email may go to people without a recorded consent")
    goals: tuple[Goal, ...] = Field(min_length=1, max_length=100, description="Numbers it is judged by")
    audience: Audience = Field(description="Who is written to")
    conversions: dict[Name, Conversion] = Field(
        {}, max_length=50, description="What people do in the organisation's own systems"
    )
    events: dict[Name, Event] = Field({}, max_length=50, description="What people are invited to")
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
            window=None if window is not None and window.is_whole_day else window,
            skip=change.skip,
        )

    @property
    def channels(self) -> frozenset[Channel]:
        """Every channel that any segment may meet."""
        found = {step.channel for step in self.sequence}
        return frozenset(found | {c.channel for s in self.sequence for c in s.by_segment.values() if c.channel})

    def channels_of(self, step_no: int) -> list[Channel]:
        """Return the channels that a step uses, for any segment."""
        step = self.sequence[step_no - 1]
        return sorted({step.channel, *(change.channel for change in step.by_segment.values() if change.channel)})

    @property
    def zone(self) -> ZoneInfo:
        """The zone that the plan's own times are written in."""
        return self.audience.source.zone or ZoneInfo("UTC")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        problems = cross_check(self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True))
        if problems:
            text = "\n".join(str(problem) for problem in problems)
            raise PydanticCustomError("incoherent", "{text}", {"text": text, "problems": tuple(problems)})
        return self
