"""The ledger: messages, and the requests that carry them."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ColumnElement,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    FromClause,
    Index,
    Integer,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    and_,
)

from commplan.store.tables.base import metadata, one_of
from commplan.store.types import BigId, UtcDateTime
from commplan.terms import AttemptOutcome, Finding, MessageState

#: A finished text that many share, with placeholders where people differ.
skeletons = Table(
    "skeletons",
    metadata,
    Column("run_id", BigInteger, ForeignKey("runs.run_id"), primary_key=True),
    Column("skeleton_no", Integer, primary_key=True, autoincrement=False),
    Column("digest", String(64), nullable=False),
    Column("content", Text, nullable=False),
    Column("channel", String(8), nullable=False),
    Column("locale", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("html", Text, nullable=False),
    Column("placeholders", Text, nullable=False),  # JSON: list, in the order of a message's values
    Column("links", Text),  # JSON: list, what the template calls the links of its text that are counted
    UniqueConstraint("run_id", "digest"),
)

#: The ledger: one row per run × step × recipient, whatever became of it.
messages = Table(
    "messages",
    metadata,
    Column("run_id", BigInteger, primary_key=True),
    Column("step_no", SmallInteger, primary_key=True, autoincrement=False),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("channel", String(8), nullable=False),
    Column("state", String(12), nullable=False),
    Column("reason", String(24)),
    Column("address_key", String(32)),
    Column("due_at", UtcDateTime),
    Column("not_after", UtcDateTime),
    Column("skeleton_no", Integer),
    Column("parts", SmallInteger),  # SMS parts
    Column("batch_id", BigInteger),
    Column("attempt_id", String(32)),
    Column("provider_id", Text),
    Column("accepted_at", UtcDateTime),
    Column("sent_at", UtcDateTime),
    Column("delivered_at", UtcDateTime),
    Column("failed_at", UtcDateTime),
    Column("opened_at", UtcDateTime),  # by a person
    Column("machine_opened_at", UtcDateTime),
    Column("clicked_at", UtcDateTime),  # by a person
    Column("machine_clicked_at", UtcDateTime),
    Column("replied_at", UtcDateTime),
    Column("answered_at", UtcDateTime),
    Column("opted_out_at", UtcDateTime),
    Column("complained_at", UtcDateTime),
    ForeignKeyConstraint(["run_id", "seq"], ["recipients.run_id", "recipients.seq"]),
    UniqueConstraint("address_key", "run_id", "step_no"),  # in this order it also finds the messages to an address
    one_of("state", MessageState),
    CheckConstraint(
        "state IN ('excluded', 'cancelled', 'not_needed', 'suppressed', 'expired') OR address_key IS NOT NULL",
        name="sendable",
    ),
    CheckConstraint("state NOT IN ('claimed', 'sending') OR batch_id IS NOT NULL", name="claimed_by_a_batch"),
    CheckConstraint(
        "state NOT IN ('sending', 'unknown', 'accepted', 'delivered') OR attempt_id IS NOT NULL", name="attempted"
    ),
    # Only of what waits to be claimed: every other change of state leaves it alone.
    Index(
        "ix_messages_queued",
        "run_id",
        "step_no",
        "skeleton_no",
        "due_at",
        sqlite_where=Column("state") == "queued",
        postgresql_where=Column("state") == "queued",
    ),
    Index(
        "ix_messages_claimed",
        "batch_id",
        sqlite_where=Column("state") == "claimed",
        postgresql_where=Column("state") == "claimed",
    ),
    Index(None, "attempt_id"),
    sqlite_with_rowid=False,
)

#: What stands at each placeholder of a message's skeleton: written once, so that a change of state rewrites none of it.
message_values = Table(
    "message_values",
    metadata,
    Column("run_id", BigInteger, primary_key=True),
    Column("step_no", SmallInteger, primary_key=True, autoincrement=False),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("slot_values", Text, nullable=False),  # JSON: list, in the order of the skeleton's placeholders
    Column("targets", Text),  # JSON: list, where the skeleton's links lead
    sqlite_with_rowid=False,
)


def values_of(rows: FromClause) -> ColumnElement[bool]:
    """Return the condition that joins `rows` (of the shape of messages) with their `message_values`."""
    return and_(
        message_values.c.run_id == rows.c.run_id,
        message_values.c.step_no == rows.c.step_no,
        message_values.c.seq == rows.c.seq,
    )


#: What one worker claims together. The id only grows and is the fencing token.
batches = Table(
    "batches",
    metadata,
    Column("batch_id", BigId, primary_key=True, autoincrement=True),
    Column("run_id", BigInteger, ForeignKey("runs.run_id"), nullable=False),
    Column("step_no", SmallInteger, nullable=False),
    Column("worker", Text, nullable=False),
    Column("claimed", Integer, nullable=False),
    Column("lease_machine", Double, nullable=False),
    Column("closed_machine", Double),
    Index(None, "run_id", "step_no"),
    Index(None, "lease_machine", sqlite_where=Column("closed_machine").is_(None)),
    sqlite_autoincrement=True,
)

#: One HTTP request to a provider; committed before the wire.
attempts = Table(
    "attempts",
    metadata,
    Column("attempt_id", String(32), primary_key=True),
    Column("batch_id", BigInteger, ForeignKey("batches.batch_id"), nullable=False),
    Column("run_id", BigInteger, ForeignKey("runs.run_id"), nullable=False),
    Column("step_no", SmallInteger, nullable=False),
    Column("channel", String(8), nullable=False),
    Column("messages", Integer, nullable=False),  # how many it carries
    Column("wire_at", UtcDateTime, nullable=False),
    Column("wire_machine", Double, nullable=False),
    Column("outcome", String(12), nullable=False),
    Column("rejected", Integer, nullable=False, server_default="0"),  # of `messages`, refused one by one
    Column("status", Integer),
    Column("code", Text),
    Column("provider_id", Text),
    Column("closed_machine", Double),
    Column("given_up_at", UtcDateTime),  # when it was noticed that no answer comes any more
    Column("decision", String(12)),  # of what stayed unknown: assume_sent | resend
    Column("decided_at", UtcDateTime),
    one_of("outcome", AttemptOutcome),
    Index(None, "run_id", "step_no", "outcome"),
    Index(None, "provider_id"),
    Index(None, "batch_id"),
)

#: One look into a provider's records for a request whose outcome is unknown, and what it found.
inquiries = Table(
    "inquiries",
    metadata,
    Column("inquiry_id", BigId, primary_key=True, autoincrement=True),
    Column("attempt_id", String(32), ForeignKey("attempts.attempt_id"), nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("asked", SmallInteger, nullable=False),  # addresses asked for
    Column("finding", String(12), nullable=False),
    one_of("finding", Finding),
    Index(None, "attempt_id"),
)

#: How often a provider was asked what became of a request whose callbacks never arrived.
polls = Table(
    "polls",
    metadata,
    Column("attempt_id", String(32), ForeignKey("attempts.attempt_id"), primary_key=True),
    Column("asked_machine", Double, nullable=False),
    Column("count", Integer, nullable=False),
)
