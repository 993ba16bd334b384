"""Runs: what they say, to whom, and what was decided and found."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from commplan.store.tables.base import metadata, one_of
from commplan.store.types import BigId, UtcDateTime
from commplan.terms import RunState

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
    one_of("state", RunState),
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
    one_of("state", ("reserved", "kept")),
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
