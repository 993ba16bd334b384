"""The tables. Rules that must hold are constraints here, not only care in Python.

Plan times are `UtcDateTime`; columns called ``…_machine`` are seconds of the database's own clock.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ColumnElement,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    FromClause,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    and_,
    false,
)

from commplan.store.types import BigId, UtcDateTime
from commplan.terms import AttemptOutcome, Finding, MessageState, RsvpAnswer, RunState

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _one_of(column: str, values: Iterable[str]) -> CheckConstraint:
    """Return a constraint of the table: Alembic does not see those that stand in a column."""
    allowed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({allowed})", name=column)


#: One row, written when the store is created: what it is for ever.
store_info = Table(
    "store_info",
    metadata,
    Column("store_info_id", SmallInteger, primary_key=True),
    Column("kind", String(10), nullable=False),
    Column("environment", Text),
    Column("key_fingerprint", String(16), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    CheckConstraint("store_info_id = 1", name="only_one"),
    _one_of("kind", ("sandbox", "live")),
)

#: Requests with awkward values that were sent to see whether a provider fills substitutions as they are meant.
batch_proofs = Table(
    "batch_proofs",
    metadata,
    Column("attempt_id", String(32), primary_key=True),
    Column("base_url", Text, nullable=False),  # of the provider
    Column("placeholder", String(24), nullable=False),  # prefix of its placeholders
    Column("address_keys", Text, nullable=False),  # JSON: who got it, in order
    Column("sent_at", UtcDateTime, nullable=False),
    Column("sent_by", Text, nullable=False),
    Column("passed_at", UtcDateTime),  # when everything was found to have arrived as meant
    Column("passed_by", Text),
    CheckConstraint("(passed_at IS NULL) = (passed_by IS NULL)", name="passed_by_somebody"),
)

#: Plan, templates and the settings that shape content, as they were when a run first started.
bundles = Table(
    "bundles",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("files", Text, nullable=False),  # JSON: path -> text
)

runs = Table(
    "runs",
    metadata,
    Column("run_id", BigId, primary_key=True, autoincrement=True),
    Column("run_key", Text, nullable=False, unique=True),  # plan@occurrence
    Column("plan", Text, nullable=False),
    Column("occurrence", Text, nullable=False),
    Column("digest", String(64), ForeignKey("bundles.digest"), nullable=False),
    Column("state", String(12), nullable=False),
    Column("reason", Text),
    Column("people", Text, nullable=False),
    Column("since", UtcDateTime),
    Column("snapshot_at", UtcDateTime),
    Column("planner", String(32)),  # who resolves the audience, or did; None: must begin anew
    Column("audience_size", Integer),  # people of the snapshot; None: not complete
    Column("gathering", Integer, nullable=False, server_default="0"),  # number of the last gathering of conversions
    Column("created_at", UtcDateTime, nullable=False),
    Column("first_accepted_at", UtcDateTime),
    Column("finished_at", UtcDateTime),
    Column("clock", Text, nullable=False),  # JSON: origin, anchor, factor
    Column("placeholder", String(24), nullable=False),  # prefix of this run's placeholders
    Column("starts", Integer, nullable=False, server_default="0"),  # since a batch was last closed
    Column("started_machine", Double),  # when the last of them was
    Column("allow_list_only", Boolean, nullable=False, default=False),
    Column("alive_machine", Double),  # when a process last worked on it
    Column("resumed_machine", Double),  # when a person last let it go on: older refusals count no more
    UniqueConstraint("plan", "occurrence"),
    _one_of("state", RunState),
    sqlite_autoincrement=True,
)

#: Which flow runs of Prefect carry a run: the first, and those that joined it.
flow_runs = Table(
    "flow_runs",
    metadata,
    Column("flow_run_id", Text, primary_key=True),
    Column("run_id", BigInteger, ForeignKey("runs.run_id"), nullable=False, index=True),
    Column("deployment_id", Text),  # None: in the foreground, where nothing brings it back
    Column("joined_machine", Double),
)

#: One row: when upkeep was last at work, and since when somebody has been told that it is not.
upkeep = Table(
    "upkeep",
    metadata,
    Column("upkeep_id", SmallInteger, primary_key=True),
    Column("alive_machine", Double, nullable=False),
    Column("told_machine", Double),
    CheckConstraint("upkeep_id = 1", name="only_one"),
)

#: One row while nothing may be sent by anybody, whatever the runs' states are.
stops = Table(
    "stops",
    metadata,
    Column("stop_id", SmallInteger, primary_key=True, autoincrement=False),
    Column("at", UtcDateTime, nullable=False),
    Column("by", Text, nullable=False),  # name of the person at the terminal
    Column("reason", Text),
    CheckConstraint("stop_id = 1", name="only_one"),
)

#: Countries that a run does not text until a person lets it go on.
country_halts = Table(
    "country_halts",
    metadata,
    Column("run_id", BigInteger, ForeignKey("runs.run_id"), primary_key=True, autoincrement=False),
    Column("country", String(2), primary_key=True),  # of the number; ZZ: of no country
    Column("code", Text),
    Column("reason", Text, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("holds", Boolean, nullable=False, default=False),  # the run is held because nothing else is left
)

#: Token buckets: what each sender may send at this moment, on the database's clock.
buckets = Table(
    "buckets",
    metadata,
    Column("channel", String(8), primary_key=True),
    Column("sender", Text, primary_key=True),  # our own address or number
    Column("tokens", Double, nullable=False),  # as of `filled_machine`
    Column("filled_machine", Double, nullable=False),
)

#: A plan's audience is resolved by one process at a time; the lease is on the database's clock.
plan_locks = Table(
    "plan_locks",
    metadata,
    Column("plan", Text, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("lease_machine", Double, nullable=False),
)

#: Who went through a plan: reserved in the snapshot, kept at the first acceptance.
enrolments = Table(
    "enrolments",
    metadata,
    Column("plan", Text, primary_key=True),
    Column("people", Text, primary_key=True),
    Column("contact_id", Text, primary_key=True),
    Column("run_id", BigInteger, ForeignKey("runs.run_id"), nullable=False),
    Column("state", String(8), nullable=False),
    Column("at", UtcDateTime, nullable=False),
    _one_of("state", ("reserved", "kept")),
    Index(
        "ix_enrolments_reserved",
        "run_id",
        sqlite_where=Column("state") == "reserved",
        postgresql_where=Column("state") == "reserved",
    ),
)

#: A run's snapshot: everyone the source returned, excluded people included.
recipients = Table(
    "recipients",
    metadata,
    Column("run_id", BigInteger, ForeignKey("runs.run_id"), primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),  # position in the snapshot, from 1
    Column("people", Text, nullable=False),
    Column("contact_id", Text, nullable=False),
    Column("email", Text),
    Column("email_key", String(32)),
    Column("email_reason", String(24)),  # why there is no usable address
    Column("phone", Text),  # E.164
    Column("phone_key", String(32)),
    Column("phone_reason", String(24)),
    Column("country", String(2)),  # of the phone number
    Column("locale", Text),
    Column("zone", Text),
    Column("segment", Text),
    Column("email_consent", Boolean),  # None: nothing on record
    Column("sms_consent", Boolean),
    Column("columns", Text, nullable=False),  # JSON: the source's columns, for the templates
    Column("excluded", String(24)),  # reason that holds for every step
    Column("left_at", UtcDateTime),  # when the source no longer returned this person
    UniqueConstraint("run_id", "contact_id"),
    Index(None, "run_id", "email_key"),
    Index(None, "run_id", "phone_key"),
    sqlite_with_rowid=False,
)

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
    _one_of("state", MessageState),
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
    _one_of("outcome", AttemptOutcome),
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
    _one_of("finding", Finding),
    Index(None, "attempt_id"),
)

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

#: Reasons never to write: to an address, whoever has it (`people` is None), or to a person, whatever their address.
suppressions = Table(
    "suppressions",
    metadata,
    Column("suppression_id", BigId, primary_key=True, autoincrement=True),
    Column("channel", String(8), nullable=False),  # all: of a person, on every channel
    Column("address_key", String(32), nullable=False),  # of a person: the address they said it from
    Column("people", Text),
    Column("contact_id", Text),
    Column("scope", Text, nullable=False),  # all | marketing | a topic
    Column("reason", String(24), nullable=False),
    Column("source", Text, nullable=False),  # which receipt, page or person said so
    Column("at", UtcDateTime, nullable=False),
    Column("lifted_at", UtcDateTime),
    Column("until", UtcDateTime),  # when it ends by itself; None: never
    Column("said", Text),  # what the person said, or who put it here on whose word
    CheckConstraint("(people IS NULL) = (contact_id IS NULL)", name="whole_person"),
    UniqueConstraint("people", "contact_id", "channel", "scope", "reason"),
    Index(
        "uq_suppressions_address",
        "channel",
        "address_key",
        "scope",
        "reason",
        unique=True,
        sqlite_where=Column("people").is_(None),
        postgresql_where=Column("people").is_(None),
    ),
    Index(None, "address_key"),
)

#: Every change of the list above, as it was said; a row is never written again.
suppression_changes = Table(
    "suppression_changes",
    metadata,
    Column("change_id", BigId, primary_key=True, autoincrement=True),
    Column("channel", String(8), nullable=False),
    Column("address_key", String(32), nullable=False),
    Column("people", Text),
    Column("contact_id", Text),
    Column("scope", Text, nullable=False),
    Column("reason", String(24), nullable=False),
    Column("listed", Boolean, nullable=False),  # put on the list, or lifted
    Column("source", Text, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("until", UtcDateTime),
    Column("said", Text),
    Index(None, "address_key"),
    Index(None, "people", "contact_id"),
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
    _one_of("answer", RsvpAnswer),
    Index(None, "plan", "event", "answer"),
)

#: How far each suppression list of the email provider has been read; its times are the provider's own seconds.
provider_lists = Table(
    "provider_lists",
    metadata,
    Column("name", Text, primary_key=True),
    Column("since", BigInteger, nullable=False, server_default="0"),  # of the reading that goes on, or comes next
    Column("newest", BigInteger, nullable=False, server_default="0"),  # entry of this reading
    Column("done", Integer, nullable=False, server_default="0"),  # entries of this reading that are done
    Column("pulled_at", UtcDateTime),  # when it was last read to its end
    Column("next_machine", Double, nullable=False, server_default="0"),  # not asked before
    Column("failure", Text),  # of the last question, and what to do
    Column("placed", BigInteger, nullable=False, server_default="0"),  # entries about addresses of ours
    Column("strangers", BigInteger, nullable=False, server_default="0"),  # entries about others, which are not kept
)

#: Addresses that stand in an unsubscribe group of the email provider, or stood there.
group_entries = Table(
    "group_entries",
    metadata,
    Column("group_id", BigInteger, primary_key=True, autoincrement=False),
    Column("address_key", String(32), primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    Column("removed_at", UtcDateTime),
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

#: What a person decided about a step that waits for the feed; the newest counts.
feed_decisions = Table(
    "feed_decisions",
    metadata,
    Column("run_id", BigInteger, ForeignKey("runs.run_id"), primary_key=True, autoincrement=False),
    Column("step_no", SmallInteger, primary_key=True, autoincrement=False),
    Column("at", UtcDateTime, primary_key=True),
    Column("decision", String(12), nullable=False),
    Column("by", Text, nullable=False),  # name of the person at the terminal
)

#: How often a provider was asked what became of a request whose callbacks never arrived.
polls = Table(
    "polls",
    metadata,
    Column("attempt_id", String(32), ForeignKey("attempts.attempt_id"), primary_key=True),
    Column("asked_machine", Double, nullable=False),
    Column("count", Integer, nullable=False),
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

#: Copied from the organisation's database at each gathering, for the run's people only.
conversions = Table(
    "conversions",
    metadata,
    Column("run_id", BigInteger, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("at", UtcDateTime, primary_key=True),
    Column("gathering", Integer, nullable=False, server_default="0"),  # number of the newest one that found it
)

#: When conversions were last asked for, and whether the organisation's database answered.
gatherings = Table(
    "gatherings",
    metadata,
    Column("run_id", BigInteger, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("at", UtcDateTime, primary_key=True),
    Column("succeeded", Boolean, nullable=False),
)

#: Every version of a run's evaluation; a new one only when its inputs changed.
evaluations = Table(
    "evaluations",
    metadata,
    Column("run_id", BigInteger, ForeignKey("runs.run_id"), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("digest", String(64), nullable=False),
    Column("document", Text, nullable=False),  # the evaluation as JSON
    Column("made_at", UtcDateTime, nullable=False),
)

#: Who decided what, and what happened to a run, in order.
audit = Table(
    "audit",
    metadata,
    Column("audit_id", BigId, primary_key=True, autoincrement=True),
    Column("run_id", BigInteger),
    Column("at", UtcDateTime, nullable=False),
    Column("what", Text, nullable=False),
    Column("detail", Text, nullable=False),  # JSON: ids and counts
    Index(None, "run_id"),
)
