"""What an explanation says, and the rule behind each reason, for people."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from commplan.terms import Channel, MessageState, Reason

#: The rule behind each reason that a message was not sent or failed, for people.
RULES: dict[Reason, str] = {
    Reason.NO_EMAIL: "the source has no email address for this person",
    Reason.INVALID_EMAIL: "no provider would take the email address",
    Reason.NO_PHONE: "the source has no phone number for this person",
    Reason.INVALID_PHONE: "the phone number cannot get a text",
    Reason.INVALID_ROW: "the source's row cannot be used",
    Reason.SAME_ADDRESS: "somebody else in this step has the same address: it is written to once",
    Reason.ALREADY_ENROLLED: "audience.enroll: this person went through the plan before",
    Reason.RECENTLY_SENT: "audience.min_gap: the same step went to this person a short while ago",
    Reason.NO_CONSENT: "the consent that the purpose needs is not on record",
    Reason.SKIPPED_SEGMENT: "by_segment: the step leaves this segment out",
    Reason.NOT_ON_ALLOW_LIST: "only the allow list may be written to here",
    Reason.HARD_BOUNCE: "mail to this address came back for good",
    Reason.SOFT_BOUNCES: "three of the last five emails to this address were refused",
    Reason.INVALID_NUMBER: "the provider says that the number gets no texts",
    Reason.WRONG_PERSON: "whoever has this address says that they are not the person we mean",
    Reason.SPAM_REPORT: "the person reported a message as spam",
    Reason.STOP: "the person replied STOP",
    Reason.UNSUBSCRIBED: "the person unsubscribed",
    Reason.DECLINED: "the person chose not to get this topic this way",
    Reason.PAUSED: "the person asked for a pause in what is not needed",
    Reason.NEVER_CONTACT: "somebody decided that this address is never written to",
    Reason.ERASED: "the person had their data erased",
    Reason.CONDITION_FALSE: "when: the condition did not hold",
    Reason.CONDITION_UNKNOWN: "when: nobody knows whether it holds, as the earlier message was not delivered",
    Reason.EARLIER_STEP_NOT_SENT: "after: the earlier step was never sent to this person",
    Reason.LEFT_AUDIENCE: "the audience's query no longer returns this person",
    Reason.CONTENT_DAMAGED: "its frozen content is damaged in the store, and nothing is sent on a guess",
    Reason.TOO_LATE: "not_after: it was too late to send it",
    Reason.SILENCE_UNPROVEN: "not_after: until then nobody could tell silence from a feed that was closed",
    Reason.RUN_CANCELLED: "the run was cancelled",
    Reason.RUN_ENDED: "the run ended before it was its turn",
    Reason.REJECTED: "the provider refused it",
    Reason.BOUNCED: "it came back for good",
    Reason.BLOCKED: "it was refused this time",
    Reason.DROPPED: "the provider did not try",
    Reason.UNDELIVERED: "it could not be delivered",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One thing that was decided or happened; `at` is plan time, None for what holds throughout."""

    at: datetime | None
    what: str = field(repr=False)
    rule: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One step's message to the person: what was decided, and the text as it was frozen for them."""

    step: str
    channel: Channel
    state: MessageState
    decisions: tuple[Decision, ...]
    subject: str | None = field(repr=False)
    text: str | None = field(repr=False)
    stop: str = field(repr=False)  #: how the person, or somebody for them, ends it


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The person in one run."""

    run_key: str
    state: str
    people: str
    contact_id: str = field(repr=False)
    addresses: tuple[str, ...] = field(repr=False)
    decisions: tuple[Decision, ...]
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """All that is on record: what is on the suppression list, how it came to be there, and each run, newest first."""

    suppressions: tuple[Decision, ...]
    history: tuple[Decision, ...]
    runs: tuple[Part, ...]
