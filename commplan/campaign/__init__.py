"""The use-cases of a campaign: what the flow, the command line and the tests call.

Wires the parts together and owns no rule of its own; knows nothing of Prefect.
"""

from commplan.campaign.books import prove, settle_runs
from commplan.campaign.listening import Gathering, apply_receipts, poll_texts, prove_feeds, tell_of_feedback
from commplan.campaign.lists import exchange_lists
from commplan.campaign.occurrence import require_occurrence
from commplan.campaign.opening import Campaign, join, start

__all__ = [
    "Campaign",
    "Gathering",
    "apply_receipts",
    "exchange_lists",
    "join",
    "poll_texts",
    "prove",
    "prove_feeds",
    "require_occurrence",
    "settle_runs",
    "start",
    "tell_of_feedback",
]
