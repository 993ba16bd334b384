"""What an installation is, and what holds for all of its runs."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Column, Double, SmallInteger, String, Table, Text

from commplan.store.tables.base import metadata, one_of
from commplan.store.types import UtcDateTime

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
    one_of("kind", ("sandbox", "live")),
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

#: Token buckets: what each sender may send at this moment, on the database's clock.
buckets = Table(
    "buckets",
    metadata,
    Column("channel", String(8), primary_key=True),
    Column("sender", Text, primary_key=True),  # our own address or number
    Column("tokens", Double, nullable=False),  # as of `filled_machine`
    Column("filled_machine", Double, nullable=False),
)
