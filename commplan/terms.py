"""The closed vocabularies of the field, spelled as they are stored.

A ground-floor module: it imports nothing of commplan.
"""

from __future__ import annotations

from enum import StrEnum


class Channel(StrEnum):
    """How a message travels."""

    EMAIL = "email"
    SMS = "sms"


class Purpose(StrEnum):
    """Why we write, and so which consent it needs."""

    MARKETING = "marketing"
    SERVICE = "service"
    EMERGENCY = "emergency"


class RunState(StrEnum):
    """Where a run is.

    `paused` and `held` wait for a person; `finished`, `cancelled` and `superseded` are for ever.
    """

    FROZEN = "frozen"  #: plan and templates are stored; nobody has been looked up
    READY = "ready"  #: audience and content are frozen; every message has its row
    EXECUTING = "executing"
    PAUSED = "paused"  #: a person stopped it for a while
    HELD = "held"  #: it stopped itself until a person acts; `reason` says why
    FINISHED = "finished"
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"  #: began so late that the plan's next occurrence was due; it has sent nothing


#: States that a run never leaves.
ENDED = frozenset({RunState.FINISHED, RunState.CANCELLED, RunState.SUPERSEDED})


class MessageState(StrEnum):
    """Where a message is. Each contact of the snapshot is in exactly one of these for every step."""

    EXCLUDED = "excluded"  #: left out when the run was planned; `reason` says why
    NOT_DUE = "not_due"  #: waits for an earlier step of the same person
    QUEUED = "queued"  #: has a due time; may be claimed once it has come
    CLAIMED = "claimed"  #: in a worker's batch; certainly not on the wire yet
    SENDING = "sending"  #: its request is on the wire
    UNKNOWN = "unknown"  #: the request may or may not have been accepted
    ACCEPTED = "accepted"  #: the provider took it
    DELIVERED = "delivered"
    FAILED = "failed"  #: rejected, bounced, dropped or undeliverable
    NOT_NEEDED = "not_needed"  #: its condition did not hold when it was due
    SUPPRESSED = "suppressed"  #: an opt-out or a dead address was found in the last look
    EXPIRED = "expired"  #: later than `not_after`: counted, never sent
    CANCELLED = "cancelled"


class AttemptOutcome(StrEnum):
    """What one request to a provider came to."""

    OPEN = "open"  #: committed before the wire; no answer yet
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    NEVER_LEFT = "never_left"  #: certainly not processed (refused connection, 429): may be sent again
    UNKNOWN = "unknown"
    LOST = "lost"  #: proven by evidence not to have been accepted


class Finding(StrEnum):
    """What a provider's records said when they were asked about a request whose outcome is unknown."""

    FOUND = "found"  #: the request, by its id or as the only message that can be it
    NOTHING = "nothing"  #: every question was answered, and nothing can be it
    AMBIGUOUS = "ambiguous"  #: something may be it, and may be something else
    NO_ANSWER = "no_answer"  #: busy, broken or incomplete: proves nothing


class OnUnknown(StrEnum):
    """What becomes of messages of which nobody knows, when no more evidence is to be expected."""

    HOLD = "hold"  #: they stay unknown, and a person decides
    ASSUME_SENT = "assume_sent"  #: they stay unknown, and the sequence goes on
    RESEND = "resend"  #: they are sent again, and may arrive twice


class FeedDecision(StrEnum):
    """What a person decides about a step that rests on silence."""

    GO = "go"  #: who has waited until now is written to, whatever the feed says
    HOLD = "hold"  #: nobody is, whatever the feed says
    AUTO = "auto"  #: as the feed says


class Retry(StrEnum):
    """What a person may have sent again."""

    TRANSIENT = "transient"  #: what could not be sent in time, and certainly was not
    UNKNOWN = "unknown"  #: what may have been sent, and may arrive twice


class ReceiptKind(StrEnum):
    """What a provider, or the recipient through it, reports about a message."""

    PROCESSED = "processed"
    DEFERRED = "deferred"
    SENT = "sent"
    DELIVERED = "delivered"
    BOUNCED = "bounced"  #: permanent: the address is dead (SendGrid ``bounce``/``bounce``)
    BLOCKED = "blocked"  #: refused this time (SendGrid ``bounce``/``blocked``)
    DROPPED = "dropped"  #: the provider did not try
    UNDELIVERED = "undelivered"  #: SMS failed or undelivered
    OPENED = "opened"
    MACHINE_OPENED = "machine_opened"  #: an open that the provider says is a machine's
    CLICKED = "clicked"
    REPLIED = "replied"
    AUTO_REPLIED = "auto_replied"  #: a machine's answer, such as an absence note
    COMPLAINED = "complained"  #: spam report
    OPTED_OUT = "opted_out"
    OPTED_IN = "opted_in"
    ANSWERED = "answered"  #: a survey answer
    IGNORED = "ignored"  #: understood or not, it changes nothing; kept and counted


class RsvpAnswer(StrEnum):
    """What somebody answered to an invitation."""

    YES = "yes"  #: they have a place
    NO = "no"
    MAYBE = "maybe"
    WAITING = "waiting"  #: they would come, and all places were taken


class AgentClass(StrEnum):
    """What kind of program opened a message or followed a link, by the name it gave itself."""

    BROWSER = "browser"  #: a browser or a mail program, as far as its name tells
    IMAGE_PROXY = "image_proxy"  #: fetches the pictures for somebody who opens the message; follows no link
    PREFETCHER = "prefetcher"  #: fetches the pictures whether or not anybody opens the message
    PREVIEWER = "previewer"  #: draws a preview of a link that was passed on
    SCANNER = "scanner"  #: looks for what is dangerous
    TOOL = "tool"  #: a programming library, or a browser without a screen


class MachineWhy(StrEnum):
    """Why an open or a click is taken for a machine's."""

    FLAGGED = "flagged"  #: the provider, or the request, says so
    AGENT = "agent"  #: the program's name
    ALL_LINKS = "all_links"  #: links of one message were clicked at the same moment
    TOO_SOON = "too_soon"  #: sooner after delivery than anybody reads


class AutoWhy(StrEnum):
    """By what an answer by mail is known as a machine's."""

    HEADER = "header"  #: it says so (Auto-Submitted, Precedence and their kin)
    RETURN_PATH = "return_path"  #: nobody would get an answer to it
    SENDER = "sender"  #: a mail system wrote it
    SUBJECT = "subject"  #: its subject is that of absence notes


class Reason(StrEnum):
    """Why a message was excluded, suppressed, not needed, expired, cancelled or failed."""

    # found while the audience was resolved
    NO_EMAIL = "no_email"
    INVALID_EMAIL = "invalid_email"
    NO_PHONE = "no_phone"
    INVALID_PHONE = "invalid_phone"
    INVALID_ROW = "invalid_row"
    SAME_ADDRESS = "same_address"
    ALREADY_ENROLLED = "already_enrolled"
    RECENTLY_SENT = "recently_sent"
    NO_CONSENT = "no_consent"
    SKIPPED_SEGMENT = "skipped_segment"
    NOT_ON_ALLOW_LIST = "not_on_allow_list"
    # suppression, at planning or in the last look
    HARD_BOUNCE = "hard_bounce"
    SOFT_BOUNCES = "soft_bounces"
    INVALID_NUMBER = "invalid_number"
    WRONG_PERSON = "wrong_person"
    SPAM_REPORT = "spam_report"
    STOP = "stop"
    UNSUBSCRIBED = "unsubscribed"
    DECLINED = "declined"
    PAUSED = "paused"
    NEVER_CONTACT = "never_contact"
    ERASED = "erased"
    # the last look
    CONDITION_FALSE = "condition_false"
    CONDITION_UNKNOWN = "condition_unknown"
    EARLIER_STEP_NOT_SENT = "earlier_step_not_sent"
    LEFT_AUDIENCE = "left_audience"
    CONTENT_DAMAGED = "content_damaged"
    TOO_LATE = "too_late"
    SILENCE_UNPROVEN = "silence_unproven"
    RUN_CANCELLED = "run_cancelled"
    RUN_ENDED = "run_ended"
    # the provider
    REJECTED = "rejected"
    BOUNCED = "bounced"
    BLOCKED = "blocked"
    DROPPED = "dropped"
    UNDELIVERED = "undelivered"


class Verdict(StrEnum):
    """What an evaluation says of a goal."""

    MET = "met"
    MISSED = "missed"
    INCONCLUSIVE = "inconclusive"


class Metric(StrEnum):
    """What a goal may be about, besides ``conversion.<name>``; each rate's denominator is given with it."""

    REACH = "reach"  #: people with at least one delivered message / people in the audience
    DELIVERED_RATE = "delivered_rate"  #: delivered / accepted
    BOUNCE_RATE = "bounce_rate"  #: failed after acceptance / accepted
    OPEN_RATE = "open_rate"  #: opened by a person / delivered
    CLICK_RATE = "click_rate"  #: clicked by a person / delivered
    RESPONSE_RATE = "response_rate"  #: clicked by a person, replied or answered / delivered
    REPLY_RATE = "reply_rate"  #: replied / delivered
    OPT_OUT_RATE = "opt_out_rate"  #: opted out after this message / delivered
    COMPLAINT_RATE = "complaint_rate"  #: spam reports / delivered
    ANSWER_RATE = "answer_rate"  #: survey answers / delivered survey messages
    RSVP_YES = "rsvp_yes"  #: people who said yes / people with a delivered invitation
    RSVP_NO = "rsvp_no"  #: people who said no / people with a delivered invitation
    RSVP_MAYBE = "rsvp_maybe"  #: people who said maybe / people with a delivered invitation
    CSAT = "csat"  #: mean survey score, 1 to 5
    NPS = "nps"  #: net promoter score, -100 to 100
