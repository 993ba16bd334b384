"""let runs come back by themselves."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0001"
branch_labels = None
depends_on = None

_BEFORE = "state IN ('frozen', 'ready', 'executing', 'held', 'finished', 'cancelled')"
_AFTER = "state IN ('frozen', 'ready', 'executing', 'held', 'finished', 'cancelled', 'superseded')"


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
    if op.get_bind().dialect.name == "sqlite":
        _rewrite_check()
    else:
        op.drop_constraint(op.f("ck_runs_state"), "runs", type_="check")
        op.create_check_constraint(op.f("ck_runs_state"), "runs", _AFTER)


def _rewrite_check() -> None:
    """Change the constraint in SQLite's schema itself, as its manual describes for changes that touch no row.

    Copying the table, the other way, needs foreign keys switched off, which is not possible inside a transaction.
    """
    connection = op.get_bind()
    version = connection.exec_driver_sql("PRAGMA schema_version").scalar_one()
    connection.exec_driver_sql("PRAGMA writable_schema = ON")
    connection.exec_driver_sql(
        "UPDATE sqlite_master SET sql = replace(sql, ?, ?) WHERE type = 'table' AND name = 'runs'", (_BEFORE, _AFTER)
    )
    connection.exec_driver_sql(f"PRAGMA schema_version = {version + 1}")
    connection.exec_driver_sql("PRAGMA writable_schema = OFF")
