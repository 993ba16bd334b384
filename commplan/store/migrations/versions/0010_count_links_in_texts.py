"""keep where the counted links of a text lead, and what its template calls them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("skeletons", sa.Column("links", sa.Text(), nullable=True))
    op.add_column("message_values", sa.Column("targets", sa.Text(), nullable=True))
