"""The evaluation of one run as a document: what its readers see, and what its JSON schema promises.

Holds counts and sentences only; no address, no name, no contact id and no text that a recipient wrote.
"""

from __future__ import annotations

import hashlib
import json
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from commplan.ledger.settlement import Doubts
from commplan.metrics import Tally
from commplan.terms import Channel, MessageState, Purpose, Reason, Verdict

#: Of what a figure is a count.
Unit = Literal["people", "messages", "answers"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Range(_Part):
    """A 95 % interval."""

    low: float
    high: float


class GoalResult(_Part):
    """What became of one goal.

    `lower` and `upper` bound the value by what is not yet known; only they decide the verdict. `chance` is how far
    chance alone would move the figure in an audience of this size: for a rate it informs, for a survey mean (whose
    bounds it then is) it decides.
    """

    id: str
    purpose: str
    metric: str
    step: str | None
    target: str
    target_value: float
    baseline: float | None
    is_share: bool = Field(description="Shown in per cent")
    unit: Unit
    numerator: int | None = Field(description="None for a survey mean")
    denominator: int
    undetermined: int = Field(description="People or messages whose part in the figure is not known yet")
    value: float | None = Field(description="None while the denominator is 0")
    lower: float | None
    upper: float | None
    chance: Range | None
    beyond_chance: bool | None = Field(
        description="Whether it differs from the baseline beyond chance; None without one"
    )
    verdict: Verdict
    provisional: bool
    why: str


class Stage(_Part):
    """One bar of a funnel: so many people, or messages, came this far."""

    name: str
    count: int


class ReasonCount(_Part):
    """Messages that ended in one state for one reason."""

    state: MessageState
    reason: Reason
    messages: int


class StepResult(_Part):
    """One step: where each contact of the snapshot stands, and what followed from what was accepted."""

    step_no: int
    step: str
    channels: tuple[Channel, ...]
    states: dict[MessageState, int] = Field(description="Every contact of the snapshot is in exactly one")
    difference: int = Field(description="Snapshot minus the sum of the states: 0 when the books balance")
    counts: Tally
    reasons: tuple[ReasonCount, ...]


class SegmentRate(_Part):
    """One goal's figure in one segment, with its Wilson interval."""

    goal: str
    numerator: int
    denominator: int
    value: float | None
    chance: Range | None
    differs: bool = Field(description="From everybody else, beyond chance, when all such comparisons are counted")


class SegmentResult(_Part):
    """How far the people of one segment came (None: outside every segment)."""

    segment: str | None
    stages: tuple[Stage, ...]
    rates: tuple[SegmentRate, ...]


class BreakdownRow(_Part):
    """The messages of one step, channel, segment and locale."""

    step_no: int
    step: str
    channel: Channel
    segment: str | None
    locale: str | None
    counts: Tally


class SurveyResult(_Part):
    """The answers to one survey, as counts."""

    step: str
    scale: Literal["csat", "nps"]
    scores: dict[int, int]
    answers: int = Field(description="With a score")
    comments: int = Field(description="With a text")
    figure: float | None = Field(description="Mean score (csat) or net promoter score (nps)")


class InvitationResult(_Part):
    """The last answers of the people who were invited to one event."""

    event: str
    places: int | None = Field(description="None: as many as will")
    invited: int = Field(description="People with a delivered invitation")
    yes: int
    no: int
    maybe: int
    waiting: int = Field(description="They would come, and all places were taken")


class LinkResult(_Part):
    """A counted link of a step's texts, by the name its template has for it: delivered texts it was clicked in."""

    step: str
    link: str
    clicked: int = Field(description="By people")
    machine_clicked: int = Field(description="By previews, scanners and the like")


class CostLine(_Part):
    """What one step cost on one channel, by country of the number for SMS."""

    step: str
    channel: Channel
    country: str | None
    quantity: int = Field(description="Accepted emails, or parts of accepted SMS")
    price: Decimal
    amount: Decimal
    by_default: bool = Field(description="The price file has no price for this country")


class Cost(_Part):
    """What the accepted messages cost at the prices of the price file."""

    currency: str
    as_of: date
    lines: tuple[CostLine, ...]
    total: Decimal


class Evaluation(_Part):
    """The evaluation of one run. The same ledger, plan, prices and time give the same document, byte for byte."""

    format: Literal[1] = 1
    run_key: str
    plan: str
    occurrence: str
    title: str
    purpose: Purpose
    topic: str
    plan_digest: str
    sandbox: bool
    zone: str = Field(description="The zone that reports show times in")
    evaluated_at: datetime
    snapshot_at: datetime | None
    first_accepted_at: datetime | None
    last_accepted_at: datetime | None
    provisional: bool = Field(description="A window is open, or messages are still to be sent: verdicts may change")
    audience: int
    balanced: bool
    goals: tuple[GoalResult, ...]
    funnel: tuple[Stage, ...]
    steps: tuple[StepResult, ...]
    segments: tuple[SegmentResult, ...]
    breakdown: tuple[BreakdownRow, ...]
    surveys: tuple[SurveyResult, ...]
    invitations: tuple[InvitationResult, ...] = ()
    replies: int
    links: tuple[LinkResult, ...] = ()
    doubts: Doubts = Field(Doubts(), description="Messages decided on without an answer of a provider")
    cost: Cost
    lessons: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def digest(self) -> str:
        """SHA-256 of all that was found, without the time of asking: equal digests need no new version."""
        found = self.model_dump(mode="json", exclude={"evaluated_at"})
        return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def json_schema() -> dict[str, Any]:
    """Return the published JSON Schema of an evaluation (draft 2020-12)."""
    schema = Evaluation.model_json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "commplan evaluation"}
