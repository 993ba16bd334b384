"""The tables. Rules that must hold are constraints here, not only care in Python.

Plan times are `UtcDateTime`; columns called ``…_machine`` are seconds of the database's own clock.
"""

from commplan.store.tables.base import metadata
from commplan.store.tables.installation import (
    batch_proofs,
    buckets,
    stops,
    store_info,
    upkeep,
)
from commplan.store.tables.message import (
    attempts,
    batches,
    inquiries,
    message_values,
    messages,
    polls,
    skeletons,
    values_of,
)
from commplan.store.tables.receipt import (
    answers,
    feed_beats,
    feedback_notices,
    inbox,
    receipts,
    replies,
    rsvps,
)
from commplan.store.tables.run import (
    audit,
    bundles,
    conversions,
    country_halts,
    enrolments,
    evaluations,
    feed_decisions,
    flow_runs,
    gatherings,
    plan_locks,
    recipients,
    runs,
)
from commplan.store.tables.suppression import (
    group_entries,
    provider_lists,
    suppression_changes,
    suppressions,
)

__all__ = [
    "answers",
    "attempts",
    "audit",
    "batch_proofs",
    "batches",
    "buckets",
    "bundles",
    "conversions",
    "country_halts",
    "enrolments",
    "evaluations",
    "feed_beats",
    "feed_decisions",
    "feedback_notices",
    "flow_runs",
    "gatherings",
    "group_entries",
    "inbox",
    "inquiries",
    "message_values",
    "messages",
    "metadata",
    "plan_locks",
    "polls",
    "provider_lists",
    "receipts",
    "recipients",
    "replies",
    "rsvps",
    "runs",
    "skeletons",
    "stops",
    "store_info",
    "suppression_changes",
    "suppressions",
    "upkeep",
    "values_of",
]
