"""let runs be paused, countries and everything be stopped, and senders have a rate."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from commplan.store import types

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_BEFORE = ("frozen", "ready", "executing", "held", "finished", "cancelled")
_STATES = ("frozen", "ready", "executing", "paused", "held", "finished", "cancelled", "superseded")


def _state(values: tuple[str, ...]) -> str:
    allowed = ", ".join(f"'{value}'" for value in values)
    return f"state IN ({allowed})"


def _allow(values: tuple[str, ...]) -> None:
    """Change which states a run may have.

    SQLite cannot alter a constraint: there the table is copied, and would forget the number of a run that is gone.
    """
    connection = op.get_bind()
    of_runs = "FROM sqlite_sequence WHERE name = 'runs'"
    is_sqlite = connection.dialect.name == "sqlite"
    last = connection.execute(sa.text(f"SELECT seq {of_runs}")).scalar() if is_sqlite else None
    with op.batch_alter_table("runs", table_kwargs={"sqlite_autoincrement": True}) as batch_op:
        batch_op.drop_constraint(op.f("ck_runs_state"), type_="check")
        batch_op.create_check_constraint(op.f("ck_runs_state"), _state(values))
    if last is not None:
        connection.execute(sa.text(f"DELETE {of_runs}"))
        connection.execute(sa.text("INSERT INTO sqlite_sequence (name, seq) VALUES ('runs', :last)"), {"last": last})


def upgrade() -> None:
    op.add_column("runs", sa.Column("resumed_machine", sa.Double(), nullable=True))
    _allow(_STATES)
    op.create_table(
        "stops",
        sa.Column("stop_id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("at", types.UtcDateTime(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.CheckConstraint("stop_id = 1", name=op.f("ck_stops_only_one")),
        sa.PrimaryKeyConstraint("stop_id", name=op.f("pk_stops")),
    )
    op.create_table(
        "country_halts",
        sa.Column("run_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("country", sa.String(length=2), nullable=False),
        sa.Column("code", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", types.UtcDateTime(), nullable=False),
        sa.Column("holds", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name=op.f("fk_country_halts_run_id")),
        sa.PrimaryKeyConstraint("run_id", "country", name=op.f("pk_country_halts")),
    )
    op.create_table(
        "buckets",
        sa.Column("channel", sa.String(length=8), nullable=False),
        sa.Column("sender", sa.Text(), nullable=False),
        sa.Column("tokens", sa.Double(), nullable=False),
        sa.Column("filled_machine", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("channel", "sender", name=op.f("pk_buckets")),
    )


def downgrade() -> None:
    op.drop_table("buckets")
    op.drop_table("country_halts")
    op.drop_table("stops")
    _allow(_BEFORE)
    op.drop_column("runs", "resumed_machine")
