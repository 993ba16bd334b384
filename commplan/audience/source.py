"""The organisation's own database: one checked SELECT, streamed over a read-only connection of its own.

Never writes there, never holds more than one chunk of rows, and never lets that database's words, which may quote
people's data, into an error.
"""

from __future__ import annotations

import logging
import re
import sqlite3
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, DateTime, Engine, TextClause, bindparam, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool
from sqlglot import exp
from sqlglot.dialects.dialect import Dialect
from sqlglot.errors import SqlglotError

from commplan.errors import InputError, UnreachableError, quoted

_LOG = logging.getLogger("commplan.audience")
#: Rows asked for at a time.
CHUNK = 5_000
#: The databases that can be read, by SQLAlchemy's name, and sqlglot's name of each: those where reading only, a
#: time-out and a row limit are known to hold.
_DIALECTS = {"sqlite": "sqlite", "postgresql": "postgres"}
#: Machine seconds until a server that does not answer is given up; and how long it may fall silent in between.
_CONNECT = {"connect_timeout": 10, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
#: What a database says of the query itself, and so quotes from it: never of the data.
_OF_QUERY = re.compile(
    r'^(?:no such (?:column|table|function): |ambiguous column name: |near )"?([^\W\d]\w{0,62})"?|"([^\W\d]\w{0,62})"'
    r"|\b([^\W\d]\w{0,62})\("
)
_WRITES = (exp.DML, exp.DDL, exp.Command, exp.Into, exp.Lock, exp.Pragma, exp.Set)


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A query that has been checked: one SELECT, with no parameter but ``:since``."""

    sql: str
    uses_since: bool

    @classmethod
    def check(cls, sql: str, *, dialect: str, place: str, field: str = "") -> Statement:
        """Return the statement written in `sql`, without what follows it; InputError unless it is one SELECT."""
        try:
            grammar = Dialect.get_or_raise(dialect)
            tokens = grammar.tokenize(sql)
            trees = [tree for tree in grammar.parse(sql) if tree is not None and not isinstance(tree, exp.Semicolon)]
        except (SqlglotError, RecursionError):
            raise InputError.one(
                place,
                "the query cannot be read as SQL",
                "try it in the database's own console, then paste it here",
                field,
            ) from None
        if len(trees) != 1 or not isinstance(trees[0], exp.Query) or trees[0].find(*_WRITES):
            raise InputError.one(
                place,
                "the query is not one SELECT",
                "write a single statement that only reads; commplan changes nothing",
                field,
            )
        holders = {node.name for node in trees[0].find_all(exp.Placeholder, exp.Parameter)}
        if holders - {"since"}:
            raise InputError.one(
                place,
                "the query has a parameter other than :since",
                "write the value itself",
                field,
                word=min(holders - {"since"}),
            )
        while tokens and tokens[-1].token_type.name == "SEMICOLON":
            tokens.pop()
        since = {
            colon.start
            for colon, name in pairwise(tokens)
            if colon.token_type.name == "COLON" and name.text == "since" and name.start == colon.end + 1
        }
        body = sql[: tokens[-1].end + 1]
        # SQLAlchemy would take any :word, even inside a string, for a parameter: every other colon is escaped.
        escaped = "".join("\\:" if sign == ":" and at not in since else sign for at, sign in enumerate(body))
        return cls(sql=escaped, uses_since="since" in holders)


class Source:
    """An open source. What goes wrong with it is an InputError that names `place`, and `field` where the query is.

    It is an UnreachableError when the database does not answer. SQLite is opened with ``mode=ro`` and ``query_only``,
    PostgreSQL in a READ ONLY transaction; other databases are refused. `timeout` is the time the database itself takes
    in all, not counting what is done with the rows in between.
    """

    def __init__(
        self, url: str, *, timeout: timedelta, row_limit: int, zone: ZoneInfo | None, place: str, field: str = ""
    ) -> None:
        self.place = place
        self.field = field
        self._url_field = field and "audience.source.url"
        self._seconds = timeout.total_seconds()
        self._row_limit = row_limit
        self._zone = zone or ZoneInfo("UTC")
        self._deadline = float("inf")
        try:
            parsed = make_url(url)
            name = parsed.get_backend_name() if re.fullmatch(r"\w+(\+\w+)?", parsed.drivername) else ""
            if name not in _DIALECTS:
                raise InputError.one(
                    place,
                    f"{quoted(name)} is not a database that this version reads",
                    "write sqlite:///FILE or postgresql://…; people from anywhere else come as a CSV or XLSX file, by "
                    "`commplan contacts import` and `contacts:` instead of url and sql",
                    self._url_field,
                )
            #: sqlglot's name of the database.
            self.dialect = _DIALECTS[name]
            self._engine = self._open(parsed)
        except (ArgumentError, ValueError):
            raise InputError.one(
                place, "this is not a database URL", "write sqlite:///FILE or postgresql://…", self._url_field
            ) from None

    def wrong(self, rule: str, remedy: str, *, word: str = "") -> InputError:
        """Return an error about the query; `word` is what in it is at fault."""
        return InputError.one(self.place, rule, remedy, self.field, word=word)

    def _open(self, url: URL) -> Engine:
        if url.get_backend_name() == "postgresql":
            url = url.set(drivername="postgresql+psycopg")
            return create_engine(url, hide_parameters=True, poolclass=NullPool, connect_args=_CONNECT)
        path = url.database
        if not path or path == ":memory:" or path.startswith("file:"):
            raise ValueError("a source is a file")
        readable = f"{Path(path).absolute().as_uri()}?mode=ro"
        engine = create_engine(
            "sqlite://",
            creator=lambda: sqlite3.connect(readable, uri=True, timeout=30, isolation_level=None),
            hide_parameters=True,
            poolclass=NullPool,
        )

        @event.listens_for(engine, "connect")
        def _configure(connection: sqlite3.Connection, record: object) -> None:
            connection.execute("PRAGMA query_only=ON")
            connection.set_progress_handler(lambda: time.monotonic() > self._deadline, 10_000)

        return engine

    def statement(self, sql: str) -> Statement:
        """Return a query of the plan, checked in this database's dialect."""
        return Statement.check(sql, dialect=self.dialect, place=self.place, field=self.field)

    def columns(self, statement: Statement, *, select: str = "s.*", since: datetime | None) -> tuple[str, ...]:
        """Return the names of a query's columns without reading a row; names that repeat are refused.

        `select` as in `stream`: the database refuses here what it would refuse there.
        """
        with self._reading() as connection, self._limited(self._seconds):
            result = connection.execute(
                *self._bind(statement, f"SELECT {select} FROM (\n{statement.sql}\n) AS s WHERE 1 = 0", since)
            )
            names = tuple(result.keys())
        # SQLite itself renames the second `id` of a subquery to `id:1`.
        repeated = {name for name in names if names.count(name) > 1 or name.rpartition(":")[0] in names}
        if repeated:
            raise self.wrong(
                f"the query returns {', '.join(sorted(repeated))} twice", "give each column a name of its own with AS"
            )
        return names

    def stream(
        self, statement: Statement, *, select: str = "s.*", since: datetime | None = None
    ) -> Generator[Sequence[Sequence[Any]], None, None]:
        """Yield the rows in chunks of at most `CHUNK`, none of them empty.

        `select` is what is taken from the query, which is called ``s``; it is SQL of our own making. The reading
        transaction stays open until the last chunk was taken, or the generator is closed.
        """
        sql = f"SELECT {select} FROM (\n{statement.sql}\n) AS s"
        budget, rows = self._seconds, 0
        with self._reading() as connection, ExitStack() as stack:
            while True:
                started = time.monotonic()
                with self._limited(budget):
                    if not rows:
                        streaming = connection.execution_options(stream_results=True, max_row_buffer=CHUNK)
                        result = stack.enter_context(streaming.execute(*self._bind(statement, sql, since)))
                    chunk = result.fetchmany(CHUNK)
                budget -= time.monotonic() - started
                if budget < 0:
                    raise self._too_slow()
                rows += len(chunk)
                if rows > self._row_limit:
                    raise self.wrong(
                        f"the query returns more than {self._row_limit} rows",
                        "narrow it, or raise audience.source.row_limit",
                    )
                if chunk:
                    yield chunk
                if len(chunk) < CHUNK:
                    return

    def _bind(
        self, statement: Statement, sql: str, since: datetime | None
    ) -> tuple[TextClause, dict[str, datetime | str]]:
        """Return what to execute; `since` in the form that this database compares with its own times."""
        if not statement.uses_since:
            return text(sql), {}
        if since is None:
            raise self.wrong("the query uses :since, and this run has none", "set audience.start", word="since")
        if self.dialect == "postgres":
            return text(sql).bindparams(bindparam("since", type_=DateTime(timezone=True))), {"since": since}
        local = since.astimezone(self._zone).replace(tzinfo=None, microsecond=0)
        return text(sql), {"since": local.isoformat(" ") if self.dialect == "sqlite" else local}

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        """Open a connection in a transaction that cannot write; rolled back at the end."""
        try:
            with self._engine.connect() as connection:
                if self.dialect == "postgres":
                    connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
                    connection.execute(
                        text(
                            "SELECT set_config('statement_timeout', :limit, true), set_config('TimeZone', :zone, true)"
                        ),
                        {"limit": str(int(self._seconds * 1000)), "zone": str(self._zone)},
                    )
                elif self.dialect == "sqlite":
                    connection.exec_driver_sql("BEGIN")
                yield connection
                connection.rollback()
        except SQLAlchemyError as error:
            raise self._translated(error) from None

    @contextmanager
    def _limited(self, seconds: float) -> Iterator[None]:
        self._deadline = time.monotonic() + seconds
        try:
            yield
        finally:
            self._deadline = float("inf")

    def _too_slow(self) -> InputError:
        return self.wrong(
            f"the query took longer than {self._seconds:.0f} s",
            "narrow it, add an index, or raise audience.source.timeout",
        )

    def _translated(self, error: SQLAlchemyError) -> InputError:
        original = error.orig if isinstance(error, DBAPIError) else None
        state = getattr(original, "sqlstate", None)
        _LOG.info("the source refused a query", extra={"kind": type(original or error).__name__, "sqlstate": state})
        if state == "57014" or (isinstance(original, sqlite3.OperationalError) and str(original) == "interrupted"):
            return self._too_slow()
        if state == "25006" or (isinstance(original, sqlite3.OperationalError) and "readonly" in str(original)):
            return self.wrong("the query would write to the database", "write a query that only reads")
        if isinstance(error, DBAPIError) and (error.connection_invalidated or _unreachable(original)):
            return UnreachableError.one(
                self.place,
                "the database cannot be reached",
                "check its URL in the environment, and that it is up",
                self._url_field,
            )
        kind = f" ({state})" if state else f" ({_name_of(original)})" if _name_of(original) else ""
        word = _word_at_fault(error, state)
        return self.wrong(
            f"the database refused the query{kind}" + (f" at {quoted(word)}" if word else ""),
            "try it in the database's own console; its own words are not shown here, they may quote people's data",
            word=word,
        )

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.dispose()


def _unreachable(original: BaseException | None) -> bool:
    if isinstance(original, sqlite3.Error):
        return "unable to open" in str(original) or "not a database" in str(original)
    state = getattr(original, "sqlstate", None)
    return type(original).__name__ == "OperationalError" and (state is None or state[:2] in ("08", "28", "3D", "57"))


def _word_at_fault(error: SQLAlchemyError, state: str | None) -> str:
    """Return the word of the query that the database stumbled over while it read it; empty when that is not known.

    Only what stands in the query is returned, and only for errors about the query: others may quote people's data.
    """
    original = error.orig if isinstance(error, DBAPIError) else None
    if not (isinstance(original, sqlite3.OperationalError) or (state is not None and state.startswith("42"))):
        return ""
    match = _OF_QUERY.search(getattr(getattr(original, "diag", None), "message_primary", None) or str(original))
    word = next((found for found in match.groups() if found), "") if match else ""
    query = error.statement if isinstance(error, DBAPIError) else None
    return word if word.casefold() in (query or "").casefold() else ""


def _name_of(original: BaseException | None) -> str | None:
    return getattr(original, "sqlite_errorname", None)


def as_utc(value: object, zone: ZoneInfo | None) -> datetime:
    """Return a time that a source returned as an aware UTC time; naive ones are of `zone`.

    Takes datetimes, dates (their midnight) and ISO 8601 text. ValueError when it is no time, or a naive one without a
    zone; the message does not contain the value.
    """
    moment: datetime
    if isinstance(value, datetime):
        moment = value
    elif hasattr(value, "isoformat") or isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value if isinstance(value, str) else value.isoformat())
        except ValueError:
            raise ValueError("a value that is not an ISO 8601 time") from None
    else:
        raise ValueError("a value that is not a time")
    if moment.tzinfo is None:
        if zone is None:
            raise ValueError("a time without a zone")
        moment = moment.replace(tzinfo=zone)
    return moment.astimezone(UTC)
