"""keep of an answer whether a machine wrote it, and of each step what its owner was told of answers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from commplan.store import types

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("replies", sa.Column("auto_why", sa.String(length=12), nullable=True))
    op.add_column("replies", sa.Column("inferred", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.create_table(
        "feedback_notices",
        sa.Column("run_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("step_no", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("last_reply", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("answers_until", types.UtcDateTime(), nullable=True),
        sa.Column("told_machine", sa.Double(), nullable=True),
        sa.Column("lease_machine", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name=op.f("fk_feedback_notices_run_id")),
        sa.PrimaryKeyConstraint("run_id", "step_no", name=op.f("pk_feedback_notices")),
    )
