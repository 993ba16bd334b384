"""Tracking: what providers and recipients report becomes facts in the ledger, opt-outs, replies and answers.

Never guesses: what cannot be placed is kept or counted, and an opt-out is honoured even when it cannot be placed.
"""

from commplan.tracking.backlog import Backlog, backlog
from commplan.tracking.inbox import BEAT, Applied, PostKind, append, apply_inbox, waiting
from commplan.tracking.page import (
    Answer,
    Visit,
    answer_survey,
    find_visit,
    is_opted_out,
    previous_answer,
    resubscribe,
    unsubscribe,
    unsubscribe_address,
)

__all__ = [
    "BEAT",
    "Answer",
    "Applied",
    "Backlog",
    "PostKind",
    "Visit",
    "answer_survey",
    "append",
    "apply_inbox",
    "backlog",
    "find_visit",
    "is_opted_out",
    "previous_answer",
    "resubscribe",
    "unsubscribe",
    "unsubscribe_address",
    "waiting",
]
