"""Many rows into one table: the statement is written once, and the rows are handed over as they are stored.

SQLAlchemy's own insert looks at every value of every row; for a million people that is a minute.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, Table


def insert_rows(
    connection: Connection,
    table: Table,
    columns: Sequence[str],
    rows: Sequence[tuple[object, ...]],
    *,
    skip_conflicts: bool = False,
) -> None:
    """Insert rows of values in the order of `columns`, in the caller's transaction.

    Values are those that the database stores: a `UtcDateTime` as microseconds, a word as a str. With
    `skip_conflicts` a row that breaks a unique constraint is left out.
    """
    if not rows:
        return
    mark = "?" if connection.dialect.name == "sqlite" else "%s"
    names, marks = ", ".join(table.c[name].name for name in columns), ", ".join([mark] * len(columns))
    otherwise = " ON CONFLICT DO NOTHING" if skip_conflicts else ""
    statement = f"INSERT INTO {table.name} ({names}) VALUES ({marks}){otherwise}"
    connection.exec_driver_sql(statement, list(rows))
