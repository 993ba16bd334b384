"""Rows handed to one statement as a single parameter, on SQLite and PostgreSQL alike.

Never a statement per row: a thousand receipts are one INSERT and one UPDATE, whatever the database.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import JSON, Connection, Subquery, bindparam, cast, func, select, type_coerce
from sqlalchemy.types import Text, TypeEngine


def given(connection: Connection, columns: Mapping[str, TypeEngine[Any]], rows: Iterable[Sequence[object]]) -> Subquery:
    """Return `rows` as something to select from or join with, one value for each of `columns`, in order.

    Values are those that the database stores: text, whole numbers (a `UtcDateTime` as microseconds) and None.
    """
    document = bindparam(
        None, json.dumps(list(rows), ensure_ascii=True, separators=(",", ":")), type_=Text, unique=True
    )
    if connection.dialect.name == "sqlite":
        each = func.json_each(document).table_valued("value")
        fields = [
            type_coerce(func.json_extract(each.c.value, f"$[{at}]"), kind).label(name)
            for at, (name, kind) in enumerate(columns.items())
        ]
    else:
        each = func.json_array_elements(cast(document, JSON)).table_valued("value")
        fields = [
            type_coerce(cast(each.c.value.op("->>")(at), kind), kind).label(name)
            for at, (name, kind) in enumerate(columns.items())
        ]
    return select(*fields).subquery("given")
