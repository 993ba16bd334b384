"""prove batching before it is trusted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from commplan.store import types

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "batch_proofs",
        sa.Column("attempt_id", sa.String(length=32), nullable=False),
        sa.Column("base_url", sa.Text(), nullable=False),
        sa.Column("placeholder", sa.String(length=24), nullable=False),
        sa.Column("address_keys", sa.Text(), nullable=False),
        sa.Column("sent_at", types.UtcDateTime(), nullable=False),
        sa.Column("sent_by", sa.Text(), nullable=False),
        sa.Column("passed_at", types.UtcDateTime(), nullable=True),
        sa.Column("passed_by", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "(passed_at IS NULL) = (passed_by IS NULL)", name=op.f("ck_batch_proofs_passed_by_somebody")
        ),
        sa.PrimaryKeyConstraint("attempt_id", name=op.f("pk_batch_proofs")),
    )
