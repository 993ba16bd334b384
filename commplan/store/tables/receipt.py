"""What providers post and people do."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    String,
    Table,
    Text,
    false,
)

from commplan.store.tables.base import metadata, one_of
from commplan.store.types import BigId, UtcDateTime
from commplan.terms import RsvpAnswer

#: Verified posts of providers, exactly as they came; applied afterwards, kept until purged.
inbox = Table(
    "inbox",
    metadata,
    Column("inbox_id", BigId, primary_key=True, autoincrement=True),
    Column("kind", String(24), nullable=False),
    Column("query", Text, nullable=False),  # JSON: the URL's parameters
    Column("body", LargeBinary, nullable=False),
    Column("received_at", UtcDateTime, nullable=False),
    Column("applied_at", UtcDateTime),
    Column("unreadable", Integer, nullable=False, server_default="0"),  # events in it that could not be read
    Column("failures", Integer, nullable=False, server_default="0"),  # times it could not be applied
    Column("retry_machine", Double),  # set aside until then
    Index(None, "applied_at"),
    sqlite_autoincrement=True,
)

#: Facts about messages; the same fact is one row however often it is told.
receipts = Table(
    "receipts",
    metadata,
    Column("receipt_key", String(64), primary_key=True),
    Column("provider", String(12), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("run_id", BigInteger),  # None: matches nothing of ours
    Column("step_no", SmallInteger),
    Column("seq", Integer),
    Column("attempt_id", String(32)),
    Column("provider_id", Text),
    Column("code", Text),
    Column("at", UtcDateTime, nullable=False),
    Column("received_at", UtcDateTime, nullable=False),
    Column("agent_class", Text),  # kind of program that opened or clicked
    Column("url_key", Text),  # digest of the address that was clicked; of a link that we count, its name
    Column("machine_why", Text),  # why an open or a click is taken for a machine's; None: it is a person's
    Column("address_key", Text),  # of an event without any id of ours, which is placed by its address
    Index(None, "run_id", "step_no", "seq"),
    Index(
        "ix_receipts_address_key",
        "address_key",
        sqlite_where=Column("address_key").is_not(None),
        postgresql_where=Column("address_key").is_not(None),
    ),
)

#: What people wrote back, as they wrote it; never leaves the store but in a report's feedback list.
replies = Table(
    "replies",
    metadata,
    Column("reply_id", BigId, primary_key=True, autoincrement=True),
    Column("receipt_key", String(64), nullable=False, unique=True),
    Column("run_id", BigInteger),
    Column("step_no", SmallInteger),
    Column("seq", Integer),
    Column("channel", String(8), nullable=False),
    Column("text", Text, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("auto_why", String(12)),  # by what it is known as a machine's; None: a person's
    Column("inferred", Boolean, nullable=False, server_default=false()),  # placed by its sender's address alone
    Index(None, "run_id"),
)

#: Of each step, what its owner was told of what people wrote, and whether somebody is telling them now.
feedback_notices = Table(
    "feedback_notices",
    metadata,
    Column("run_id", BigInteger, ForeignKey("runs.run_id"), primary_key=True, autoincrement=False),
    Column("step_no", SmallInteger, primary_key=True, autoincrement=False),
    Column("last_reply", BigInteger, nullable=False, server_default="0"),  # newest reply that was told
    Column("answers_until", UtcDateTime),  # newest change of an answer that was told
    Column("told_machine", Double),
    Column("lease_machine", Double),  # until when somebody is telling
)

#: Survey answers: one per person and step, correctable.
answers = Table(
    "answers",
    metadata,
    Column("run_id", BigInteger, primary_key=True),
    Column("step_no", SmallInteger, primary_key=True, autoincrement=False),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("score", SmallInteger),
    Column("text", Text),
    Column("at", UtcDateTime, nullable=False),
    Column("changed_at", UtcDateTime, nullable=False),
)

#: Answers to invitations: one per person and event, correctable.
rsvps = Table(
    "rsvps",
    metadata,
    Column("plan", Text, primary_key=True),
    Column("event", Text, primary_key=True),
    Column("people", Text, primary_key=True),
    Column("contact_id", Text, primary_key=True),
    Column("answer", String(8), nullable=False),
    Column("run_id", BigInteger, nullable=False),  # of the message through which it was given
    Column("at", UtcDateTime, nullable=False),
    Column("changed_at", UtcDateTime, nullable=False),
    one_of("answer", RsvpAnswer),
    Index(None, "plan", "event", "answer"),
)

#: Proofs that the way back from a provider is open: sent through the public address, and heard or not.
feed_beats = Table(
    "feed_beats",
    metadata,
    Column("nonce_key", String(64), primary_key=True),  # digest of what was sent
    Column("channel", String(8), nullable=False),
    Column("sent_at", UtcDateTime, nullable=False),
    Column("heard_at", UtcDateTime),
    Column("missing", Text),  # JSON: kinds of events that the provider did not report then
    Column("failure", Text),  # why none could be sent; then it says nothing about the way back
    Index(None, "channel", "sent_at"),
)
