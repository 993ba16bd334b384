"""Column types and SQL functions that mean the same on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import orjson
from sqlalchemy import BigInteger, BindParameter, Boolean, ColumnElement, Dialect, Double, Integer, Text, bindparam
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import GenericFunction
from sqlalchemy.types import TypeDecorator

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

#: A 64-bit integer that SQLite may also use as its row id.
BigId = BigInteger().with_variant(Integer, "sqlite")


def to_micros(moment: datetime) -> int:
    """Return microseconds since the epoch; ValueError for a time without a zone."""
    if moment.tzinfo is None:
        raise ValueError("a time without a zone cannot be stored")
    return (moment - _EPOCH) // _MICROSECOND


@lru_cache(maxsize=4096)
def from_micros(micros: int) -> datetime:
    """Return the aware UTC time that many microseconds after the epoch."""
    return _EPOCH + timedelta(microseconds=micros)


class UtcDateTime(TypeDecorator[datetime]):
    """An aware instant, kept as whole microseconds since the epoch.

    One representation on every database: it compares, sorts and subtracts in SQL, and comes back aware (SQLite
    gives back naive values from ``DateTime(timezone=True)``).
    """

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        """Refuse a naive time; keep the rest."""
        return None if value is None else to_micros(value)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:
        """Return an aware time in UTC."""
        return None if value is None else from_micros(int(value))


def instant(name: str) -> BindParameter[datetime]:
    """Return the parameter `name` of a statement, which is an instant."""
    return bindparam(name, type_=UtcDateTime())


class machine_now(GenericFunction[float]):  # noqa: N801 (an SQL function)
    """The database's own clock, in seconds since the epoch: leases and rate limits go by it, never by a worker's."""

    type = Double()
    inherit_cache = True


@compiles(machine_now, "sqlite")
def _sqlite_now(element: machine_now, compiler: Any, **kw: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(machine_now, "postgresql")
def _postgresql_now(element: machine_now, compiler: Any, **kw: Any) -> str:
    return "extract(epoch from clock_timestamp())::double precision"


class numbers(GenericFunction[int]):  # noqa: N801 (an SQL function)
    """The whole numbers of a JSON list, as rows: one parameter however many there are."""

    type = BigInteger()
    inherit_cache = True


@compiles(numbers, "sqlite")
def _sqlite_numbers(element: numbers, compiler: Any, **kw: Any) -> str:
    return f"(SELECT value FROM json_each({compiler.process(element.clauses, **kw)}))"


@compiles(numbers, "postgresql")
def _postgresql_numbers(element: numbers, compiler: Any, **kw: Any) -> str:
    listed = compiler.process(element.clauses, **kw)
    return f"(SELECT value::bigint FROM jsonb_array_elements_text(CAST({listed} AS jsonb)))"


class entry(GenericFunction[str]):  # noqa: N801 (an SQL function)
    """What a JSON object says of a key: a word for each of many rows, as one parameter in one statement.

    The key is a whole number or a word without quotes.
    """

    type = Text()
    inherit_cache = True


@compiles(entry, "sqlite")
def _sqlite_entry(element: entry, compiler: Any, **kw: Any) -> str:
    document, key = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"json_extract({document}, '$.\"' || {key} || '\"')"


@compiles(entry, "postgresql")
def _postgresql_entry(element: entry, compiler: Any, **kw: Any) -> str:
    document, key = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"(CAST({document} AS jsonb) ->> CAST({key} AS text))"


def listed(wanted: Collection[int]) -> str:
    """Return whole numbers as one parameter for `among`."""
    return orjson.dumps(list(wanted)).decode()


def among(column: ColumnElement[int], wanted: Collection[int] | BindParameter[Any]) -> ColumnElement[bool]:
    """Return whether a column holds one of many whole numbers: for hundreds of them, cheaper than a parameter each.

    `wanted` may be a parameter, which then gets its numbers `listed`.
    """
    if not isinstance(wanted, BindParameter):
        wanted = bindparam(None, listed(wanted), type_=Text(), unique=True)
    return column.op("IN", is_comparison=True, return_type=Boolean())(numbers(wanted))
