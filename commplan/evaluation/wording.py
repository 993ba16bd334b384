"""Figures and vocabularies as a report says them, the same in every form of it.

Words only; what is worth saying is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from zoneinfo import ZoneInfo

from commplan.terms import MessageState, Reason

#: Why a message did not arrive, as it follows “because”.
REASONS: Mapping[Reason, str] = {
    Reason.NO_EMAIL: "no email address on record",
    Reason.INVALID_EMAIL: "the email address is not valid",
    Reason.NO_PHONE: "no phone number on record",
    Reason.INVALID_PHONE: "the phone number is not valid",
    Reason.INVALID_ROW: "the row of the source could not be used",
    Reason.SAME_ADDRESS: "another person of the audience has the same address",
    Reason.ALREADY_ENROLLED: "already went through this plan",
    Reason.RECENTLY_SENT: "received the same step shortly before",
    Reason.NO_CONSENT: "no consent on record",
    Reason.SKIPPED_SEGMENT: "the plan leaves this segment out of the step",
    Reason.NOT_ON_ALLOW_LIST: "not on the allow list",
    Reason.HARD_BOUNCE: "the address had bounced before",
    Reason.SOFT_BOUNCES: "three of the last five emails to the address had been refused",
    Reason.INVALID_NUMBER: "the number is known to be dead",
    Reason.WRONG_PERSON: "the address is somebody else's",
    Reason.SPAM_REPORT: "had reported our mail as spam",
    Reason.STOP: "had replied STOP",
    Reason.UNSUBSCRIBED: "had unsubscribed",
    Reason.DECLINED: "had chosen not to get this topic this way",
    Reason.PAUSED: "had asked for a pause",
    Reason.NEVER_CONTACT: "is never to be contacted",
    Reason.ERASED: "had their data erased",
    Reason.CONDITION_FALSE: "the condition of the step did not hold",
    Reason.CONDITION_UNKNOWN: "it was not known whether the condition of the step held",
    Reason.EARLIER_STEP_NOT_SENT: "the step before was not sent",
    Reason.LEFT_AUDIENCE: "left the audience meanwhile",
    Reason.CONTENT_DAMAGED: "its frozen content was damaged in the store",
    Reason.TOO_LATE: "its time had passed",
    Reason.SILENCE_UNPROVEN: "their silence could not be told from a closed feed in time",
    Reason.RUN_CANCELLED: "the run was cancelled",
    Reason.RUN_ENDED: "the run ended before it was known whether the earlier step arrived",
    Reason.REJECTED: "the provider refused it",
    Reason.BOUNCED: "it bounced",
    Reason.BLOCKED: "the receiving side blocked it",
    Reason.DROPPED: "the provider dropped it",
    Reason.UNDELIVERED: "it could not be delivered",
}

#: Where a message stands.
STATES: Mapping[MessageState, str] = {
    MessageState.EXCLUDED: "excluded",
    MessageState.NOT_DUE: "not due",
    MessageState.QUEUED: "queued",
    MessageState.CLAIMED: "claimed",
    MessageState.SENDING: "sending",
    MessageState.UNKNOWN: "unknown",
    MessageState.ACCEPTED: "accepted, no final receipt",
    MessageState.DELIVERED: "delivered",
    MessageState.FAILED: "failed",
    MessageState.NOT_NEEDED: "not needed",
    MessageState.SUPPRESSED: "suppressed",
    MessageState.EXPIRED: "expired",
    MessageState.CANCELLED: "cancelled",
}


def number(value: float) -> str:
    """Return a number with thousands separated and at most two decimals."""
    return f"{value:,.2f}".rstrip("0").rstrip(".") if value % 1 else f"{value:,.0f}"


def figure(value: float | None, *, is_share: bool) -> str:
    """Return a goal's figure: a share in per cent, else a number; a dash for none."""
    if value is None:
        return "–"
    return f"{value:.1%}" if is_share else number(value)


def points(value: float, *, is_share: bool) -> str:
    """Return a difference of two figures, without its sign."""
    return f"{plural(round(abs(value) * 100, 1), 'point')}" if is_share else number(abs(value))


def plural(count: float, noun: str) -> str:
    """Return a count with its noun."""
    many = {"person": "people"}.get(noun, f"{noun}s")
    return f"{number(count)} {noun if count == 1 else many}"


def moment(at: datetime, zone: ZoneInfo) -> str:
    """Return a time on the plan's clock, to the minute."""
    return f"{at.astimezone(zone):%Y-%m-%d %H:%M}"


def segment_name(segment: str | None) -> str:
    """Return what people outside every segment are called, else the segment's own name."""
    return "(no segment)" if segment is None else segment
