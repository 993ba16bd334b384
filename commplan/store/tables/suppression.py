"""Whom nobody may write to, and how that stands at the email provider."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    Index,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from commplan.store.tables.base import metadata
from commplan.store.types import BigId, UtcDateTime

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
