"""keep what an open or a click weighs, who may not be written to until when, and whether the way back is open."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from commplan.store import types

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name in ("agent_class", "url_key", "machine_why", "address_key"):
        op.add_column("receipts", sa.Column(name, sa.Text(), nullable=True))
    op.create_index(
        "ix_receipts_address_key",
        "receipts",
        ["address_key"],
        unique=False,
        sqlite_where=sa.text("address_key IS NOT NULL"),
        postgresql_where=sa.text("address_key IS NOT NULL"),
    )
    op.add_column("messages", sa.Column("machine_clicked_at", types.UtcDateTime(), nullable=True))
    op.add_column("suppressions", sa.Column("until", types.UtcDateTime(), nullable=True))
    op.add_column("suppressions", sa.Column("said", sa.Text(), nullable=True))
    # Who opted out of a topic did so on every channel. Of two rows the one in force stays, else the newer.
    op.execute(
        "DELETE FROM suppressions WHERE people IS NOT NULL AND reason = 'unsubscribed' AND EXISTS ("
        "SELECT 1 FROM suppressions AS other WHERE other.people = suppressions.people "
        "AND other.contact_id = suppressions.contact_id AND other.scope = suppressions.scope "
        "AND other.reason = suppressions.reason AND other.channel <> suppressions.channel "
        "AND ((suppressions.lifted_at IS NOT NULL AND other.lifted_at IS NULL) "
        "OR ((other.lifted_at IS NULL) = (suppressions.lifted_at IS NULL) AND (other.at > suppressions.at "
        "OR (other.at = suppressions.at AND other.suppression_id > suppressions.suppression_id)))))"
    )
    op.execute("UPDATE suppressions SET channel = 'all' WHERE people IS NOT NULL AND reason = 'unsubscribed'")
    op.create_table(
        "feed_beats",
        sa.Column("nonce_key", sa.String(length=64), nullable=False),
        sa.Column("channel", sa.String(length=8), nullable=False),
        sa.Column("sent_at", types.UtcDateTime(), nullable=False),
        sa.Column("heard_at", types.UtcDateTime(), nullable=True),
        sa.Column("missing", sa.Text(), nullable=True),
        sa.Column("failure", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("nonce_key", name=op.f("pk_feed_beats")),
    )
    op.create_index(op.f("ix_feed_beats_channel_sent_at"), "feed_beats", ["channel", "sent_at"], unique=False)
    op.create_table(
        "feed_decisions",
        sa.Column("run_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("step_no", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("at", types.UtcDateTime(), nullable=False),
        sa.Column("decision", sa.String(length=12), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name=op.f("fk_feed_decisions_run_id")),
        sa.PrimaryKeyConstraint("run_id", "step_no", "at", name=op.f("pk_feed_decisions")),
    )
    op.create_table(
        "polls",
        sa.Column("attempt_id", sa.String(length=32), nullable=False),
        sa.Column("asked_machine", sa.Double(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["attempt_id"], ["attempts.attempt_id"], name=op.f("fk_polls_attempt_id")),
        sa.PrimaryKeyConstraint("attempt_id", name=op.f("pk_polls")),
    )
