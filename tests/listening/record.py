"""Everything that a store holds, to be compared with what it holds at another time, or in another world."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import select

from commplan.store import Store
from commplan.store.tables import metadata


def record(
    store: Store, *, only: Collection[str] = (), without: Collection[str] = (), leave: Collection[str] = ()
) -> dict[str, list[tuple[Any, ...]]]:
    """Return the rows of every table, in an order of their own; `leave` out some columns, whatever table has them."""
    with store.read() as connection:
        return {
            table.name: sorted(
                (tuple(row) for row in connection.execute(select(*(one for one in table.c if one.name not in leave)))),
                key=repr,
            )
            for table in metadata.sorted_tables
            if table.name not in without and (not only or table.name in only)
        }
