"""let runs come back by themselves."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("runs", sa.Column("started_machine", sa.Double(), nullable=True))
    op.add_column("flow_runs", sa.Column("deployment_id", sa.Text(), nullable=True))
    op.add_column("flow_runs", sa.Column("joined_machine", sa.Double(), nullable=True))
    op.create_table(
        "upkeep",
        sa.Column("upkeep_id", sa.SmallInteger(), nullable=False),
        sa.Column("alive_machine", sa.Double(), nullable=False),
        sa.Column("told_machine", sa.Double(), nullable=True),
        sa.CheckConstraint("upkeep_id = 1", name=op.f("ck_upkeep_only_one")),
        sa.PrimaryKeyConstraint("upkeep_id", name=op.f("pk_upkeep")),
    )
