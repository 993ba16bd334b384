"""ask providers about unknown outcomes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from commplan.store import types

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "inquiries",
        sa.Column(
            "inquiry_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False
        ),
        sa.Column("attempt_id", sa.String(length=32), nullable=False),
        sa.Column("at", types.UtcDateTime(), nullable=False),
        sa.Column("asked", sa.SmallInteger(), nullable=False),
        sa.Column("finding", sa.String(length=12), nullable=False),
        sa.CheckConstraint(
            "finding IN ('found', 'nothing', 'ambiguous', 'no_answer')", name=op.f("ck_inquiries_finding")
        ),
        sa.ForeignKeyConstraint(["attempt_id"], ["attempts.attempt_id"], name=op.f("fk_inquiries_attempt_id")),
        sa.PrimaryKeyConstraint("inquiry_id", name=op.f("pk_inquiries")),
    )
    op.create_index(op.f("ix_inquiries_attempt_id"), "inquiries", ["attempt_id"], unique=False)
    op.add_column("attempts", sa.Column("given_up_at", types.UtcDateTime(), nullable=True))
    op.add_column("attempts", sa.Column("decision", sa.String(length=12), nullable=True))
    op.add_column("attempts", sa.Column("decided_at", types.UtcDateTime(), nullable=True))
