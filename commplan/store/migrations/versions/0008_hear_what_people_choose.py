"""keep every change of the suppression list, and answers to invitations."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from commplan.store import types

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_COPIED = "channel, address_key, people, contact_id, scope, reason"


def upgrade() -> None:
    op.create_table(
        "suppression_changes",
        sa.Column("change_id", types.BigId, autoincrement=True, nullable=False),
        sa.Column("channel", sa.String(length=8), nullable=False),
        sa.Column("address_key", sa.String(length=32), nullable=False),
        sa.Column("people", sa.Text(), nullable=True),
        sa.Column("contact_id", sa.Text(), nullable=True),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("reason", sa.String(length=24), nullable=False),
        sa.Column("listed", sa.Boolean(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("at", types.UtcDateTime(), nullable=False),
        sa.Column("until", types.UtcDateTime(), nullable=True),
        sa.Column("said", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("change_id", name=op.f("pk_suppression_changes")),
    )
    op.create_index(op.f("ix_suppression_changes_address_key"), "suppression_changes", ["address_key"], unique=False)
    op.create_index(
        op.f("ix_suppression_changes_people_contact_id"), "suppression_changes", ["people", "contact_id"], unique=False
    )
    # What earlier versions kept of each entry is its last word; a lift that came before its opt-out changed nothing.
    for listed, at, of in (
        ("true", "at", "lifted_at IS NULL OR lifted_at > at"),
        ("false", "lifted_at", "lifted_at > at"),
    ):
        op.execute(
            f"INSERT INTO suppression_changes ({_COPIED}, listed, source, at, until, said) "
            f"SELECT {_COPIED}, {listed}, source, {at}, until, said FROM suppressions WHERE {of} "
            "ORDER BY suppression_id"
        )
    op.create_table(
        "rsvps",
        sa.Column("plan", sa.Text(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("people", sa.Text(), nullable=False),
        sa.Column("contact_id", sa.Text(), nullable=False),
        sa.Column("answer", sa.String(length=8), nullable=False),
        sa.Column("run_id", sa.BigInteger(), nullable=False),
        sa.Column("at", types.UtcDateTime(), nullable=False),
        sa.Column("changed_at", types.UtcDateTime(), nullable=False),
        sa.CheckConstraint("answer IN ('yes', 'no', 'maybe', 'waiting')", name=op.f("ck_rsvps_answer")),
        sa.PrimaryKeyConstraint("plan", "event", "people", "contact_id", name=op.f("pk_rsvps")),
    )
    op.create_index(op.f("ix_rsvps_plan_event_answer"), "rsvps", ["plan", "event", "answer"], unique=False)
