"""Tracking: what providers and recipients report becomes facts in the ledger, opt-outs, replies and answers.

Never guesses: what cannot be placed is kept or counted, and an opt-out is honoured even when it cannot be placed.
"""

from commplan.tracking.backlog import Backlog, backlog
from commplan.tracking.inbox import BEAT, Applied, PostKind, append, append_listed, apply_inbox, waiting
from commplan.tracking.link import Destination, destination
from commplan.tracking.page import (
    MAX_TEXT,
    SCALES,
    Answer,
    Visit,
    answer_survey,
    find_visit,
    is_opted_out,
    previous_answer,
    resubscribe,
    takes_answers,
    unsubscribe,
    unsubscribe_address,
)
from commplan.tracking.preference import PAUSE, Preferences, choose, pause, preferences, resume, stop, unstop
from commplan.tracking.rsvp import Invitation, answer_invitation, invitation
from commplan.tracking.stranger import MISDIRECTED, disown, is_disowned, own

__all__ = [
    "BEAT",
    "MAX_TEXT",
    "MISDIRECTED",
    "PAUSE",
    "SCALES",
    "Answer",
    "Applied",
    "Backlog",
    "Destination",
    "Invitation",
    "PostKind",
    "Preferences",
    "Visit",
    "answer_invitation",
    "answer_survey",
    "append",
    "append_listed",
    "apply_inbox",
    "backlog",
    "choose",
    "destination",
    "disown",
    "find_visit",
    "invitation",
    "is_disowned",
    "is_opted_out",
    "own",
    "pause",
    "preferences",
    "previous_answer",
    "resubscribe",
    "resume",
    "stop",
    "takes_answers",
    "unstop",
    "unsubscribe",
    "unsubscribe_address",
    "waiting",
]
