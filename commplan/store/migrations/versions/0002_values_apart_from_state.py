"""Keep what a message says apart from what became of it, and index only what waits to be claimed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from commplan.store import types

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_COLUMNS = (
    "run_id", "step_no", "seq", "channel", "state", "reason", "address_key", "due_at", "not_after", "skeleton_no",
    "parts", "batch_id", "attempt_id", "provider_id", "accepted_at", "sent_at", "delivered_at", "failed_at",
    "opened_at", "machine_opened_at", "clicked_at", "replied_at", "answered_at", "opted_out_at", "complained_at",
)  # fmt: skip


def upgrade() -> None:
    op.create_table(
        "message_values",
        sa.Column("run_id", sa.BigInteger(), nullable=False),
        sa.Column("step_no", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("seq", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("slot_values", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "step_no", "seq", name=op.f("pk_message_values")),
        sqlite_with_rowid=False,
    )
    op.execute(
        "INSERT INTO message_values (run_id, step_no, seq, slot_values) "
        "SELECT run_id, step_no, seq, slot_values FROM messages WHERE slot_values IS NOT NULL"
    )
    # A new table rather than changes of the old one: SQLite can neither drop a constraint nor reorder an index.
    for name in ("address_key", "attempt_id", "batch_id", "provider_id", "run_id_step_no_state_due_at"):
        op.drop_index(f"ix_messages_{name}", table_name="messages")
    op.rename_table("messages", "messages_before")
    if op.get_bind().dialect.name == "postgresql":
        # The name of a primary key is that of an index, and those are one to a schema.
        op.drop_constraint("pk_messages", "messages_before")
    op.create_table(
        "messages",
        sa.Column("run_id", sa.BigInteger(), nullable=False),
        sa.Column("step_no", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("seq", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("channel", sa.String(length=8), nullable=False),
        sa.Column("state", sa.String(length=12), nullable=False),
        sa.Column("reason", sa.String(length=24), nullable=True),
        sa.Column("address_key", sa.String(length=32), nullable=True),
        sa.Column("due_at", types.UtcDateTime(), nullable=True),
        sa.Column("not_after", types.UtcDateTime(), nullable=True),
        sa.Column("skeleton_no", sa.Integer(), nullable=True),
        sa.Column("parts", sa.SmallInteger(), nullable=True),
        sa.Column("batch_id", sa.BigInteger(), nullable=True),
        sa.Column("attempt_id", sa.String(length=32), nullable=True),
        sa.Column("provider_id", sa.Text(), nullable=True),
        *(sa.Column(name, types.UtcDateTime(), nullable=True) for name in _COLUMNS[_COLUMNS.index("accepted_at") :]),
        sa.CheckConstraint(
            "state IN ('excluded', 'cancelled', 'not_needed', 'suppressed', 'expired') OR address_key IS NOT NULL",
            name=op.f("ck_messages_sendable"),
        ),
        sa.CheckConstraint(
            "state IN ('excluded', 'not_due', 'queued', 'claimed', 'sending', 'unknown', 'accepted', 'delivered', "
            "'failed', 'not_needed', 'suppressed', 'expired', 'cancelled')",
            name=op.f("ck_messages_state"),
        ),
        sa.CheckConstraint(
            "state NOT IN ('claimed', 'sending') OR batch_id IS NOT NULL", name=op.f("ck_messages_claimed_by_a_batch")
        ),
        sa.CheckConstraint(
            "state NOT IN ('sending', 'unknown', 'accepted', 'delivered') OR attempt_id IS NOT NULL",
            name=op.f("ck_messages_attempted"),
        ),
        sa.ForeignKeyConstraint(
            ["run_id", "seq"], ["recipients.run_id", "recipients.seq"], name=op.f("fk_messages_run_id_seq")
        ),
        sa.PrimaryKeyConstraint("run_id", "step_no", "seq", name=op.f("pk_messages")),
        sa.UniqueConstraint("address_key", "run_id", "step_no", name=op.f("uq_messages_address_key_run_id_step_no")),
        sqlite_with_rowid=False,
    )
    columns = ", ".join(_COLUMNS)
    op.execute(f"INSERT INTO messages ({columns}) SELECT {columns} FROM messages_before")
    op.drop_table("messages_before")
    op.drop_index("ix_enrolments_run_id_state", table_name="enrolments")
    op.create_index(
        "ix_enrolments_reserved",
        "enrolments",
        ["run_id"],
        sqlite_where=sa.text("state = 'reserved'"),
        postgresql_where=sa.text("state = 'reserved'"),
    )
    op.create_index("ix_messages_attempt_id", "messages", ["attempt_id"])
    op.create_index(
        "ix_messages_claimed",
        "messages",
        ["batch_id"],
        sqlite_where=sa.text("state = 'claimed'"),
        postgresql_where=sa.text("state = 'claimed'"),
    )
    op.create_index(
        "ix_messages_queued",
        "messages",
        ["run_id", "step_no", "skeleton_no", "due_at"],
        sqlite_where=sa.text("state = 'queued'"),
        postgresql_where=sa.text("state = 'queued'"),
    )


def downgrade() -> None:
    raise RuntimeError("a store goes forward only; restore the copy made before the upgrade")
