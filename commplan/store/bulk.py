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
) -> int:
    """Insert rows of values in the order of `columns`, in the caller's transaction; return how many were inserted.

    Values are those that the database stores: a `UtcDateTime` as microseconds, a word as a str. With
    `skip_conflicts` a row that breaks a unique constraint is left out.
    """
    if not rows:
        return 0
    names = ", ".join(table.c[name].name for name in columns)
    otherwise = " ON CONFLICT DO NOTHING" if skip_conflicts else ""
    if connection.dialect.name == "sqlite":
        marks = ", ".join("?" * len(columns))
        statement = f"INSERT INTO {table.name} ({names}) VALUES ({marks}){otherwise}"
        return connection.exec_driver_sql(statement, list(rows)).rowcount
    # One statement, and a list for each column: a server would otherwise be asked for every row.
    lists = ", ".join(f"%s::{table.c[name].type.compile(connection.dialect)}[]" for name in columns)
    statement = f"INSERT INTO {table.name} ({names}) SELECT * FROM unnest({lists}){otherwise}"
    return connection.exec_driver_sql(statement, tuple(map(list, zip(*rows, strict=True)))).rowcount
