"""The organisation's own database: one checked SELECT, streamed over a read-only connection of its own.

Never writes there, never holds more than one chunk of rows, never waits longer than the plan allows, and never lets
that database's words, which may quote people's data, into an error.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from threading import Thread
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, CursorResult, Engine, TextClause, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from commplan.audience.aside import Aside, LateError
from commplan.audience.database import KNOWN, Complaint, Database, Trouble, database
from commplan.audience.statement import Statement
from commplan.errors import Finding, InputError, UnreachableError, quoted

_LOG = logging.getLogger("commplan.audience")
#: Rows asked for at a time.
CHUNK = 10_000
#: Machine seconds until a database that does not let us in is given up, and one that does not let us go.
_OPENING, _CLOSING = 30, 5
_EXAMPLE = "write sqlite:///FILE, postgresql://…, mysql://… or the URL of another database that SQLAlchemy knows"

T = TypeVar("T")


class Source:
    """An open source. What goes wrong with it is an InputError that names `place`, and `field` where the query is.

    It is an UnreachableError when the database does not answer. `timeout` is the time the database itself takes in
    all, not counting what is done with the rows in between. `advice` is what is probably not meant, but no fault: it
    is complete once the source was asked something.
    """

    def __init__(
        self, url: str, *, timeout: timedelta, row_limit: int, zone: ZoneInfo | None, place: str, field: str = ""
    ) -> None:
        self.place = place
        self.field = field
        self._url_field = field and "audience.source.url"
        self._timeout = timeout
        self._row_limit = row_limit
        self._zone = zone or ZoneInfo("UTC")
        try:
            parsed = make_url(url)
            name = parsed.get_backend_name()
            if not re.fullmatch(r"\w+(\+\w+)?", parsed.drivername):
                raise ValueError("no database is called so")
        except (ArgumentError, ValueError):
            raise self._unusable("this is not a database URL", _EXAMPLE) from None
        self._database = database(name)
        self._engine = self._open(self._database, parsed)

    def _open(self, kind: Database, url: URL) -> Engine:
        package = f"pip install {KNOWN[kind.name].package}" if kind.name in KNOWN else ""
        try:
            return kind.engine(url)
        except NoSuchModuleError:
            if package:
                raise self._unusable(f"the driver of {kind.name} is not installed", package) from None
            raise self._unusable(
                f"{quoted(kind.name)} is not a database that SQLAlchemy knows here",
                "install the package that adds it; people from anywhere else come as a CSV or XLSX file, by "
                "`commplan contacts import` and `contacts:` instead of url and sql",
            ) from None
        except ImportError as error:
            remedy = package or f"install the package that has {quoted(error.name)}"
            raise self._unusable(f"the driver of {kind.name} is not installed", remedy) from None
        except (ArgumentError, ValueError):
            raise self._unusable("this is not a database URL", _EXAMPLE) from None
        except Exception as error:
            _LOG.info("a driver refused a URL", extra={"kind": type(error).__name__, "database": kind.name})
            raise self._unusable(
                f"the driver of {kind.name} refuses the URL", "compare it with the driver's documentation"
            ) from None

    def _unusable(self, rule: str, remedy: str) -> InputError:
        return InputError.one(self.place, rule, remedy, self._url_field)

    def wrong(self, rule: str, remedy: str, *, word: str = "") -> InputError:
        """Return an error about the query; `word` is what in it is at fault."""
        return InputError.one(self.place, rule, remedy, self.field, word=word)

    @property
    def dialect(self) -> str:
        """sqlglot's name of the database; empty for one that it does not know."""
        return self._database.grammar

    @property
    def advice(self) -> tuple[Finding, ...]:
        """What is probably not meant about the database."""
        return tuple(
            Finding(place=self.place, rule=rule, remedy=remedy, field=self._url_field)
            for rule, remedy in self._database.advice
        )

    def statement(self, sql: str) -> Statement:
        """Return a query of the plan, checked in this database's dialect."""
        return Statement.check(sql, dialect=self.dialect, place=self.place, field=self.field)

    def spelt(self, columns: Sequence[str]) -> tuple[str, ...]:
        """Return how the database itself spells columns, which SQLAlchemy shows in lower case where case is nothing."""
        dialect = self._engine.dialect
        if not dialect.requires_name_normalize:
            return tuple(columns)
        return tuple(dialect.denormalize_name(column) for column in columns)

    def columns(self, statement: Statement, *, select: str = "s.*", since: datetime | None) -> tuple[str, ...]:
        """Return the names of a query's columns without reading a row; names that repeat are refused.

        `select` as in `stream`: the database refuses here what it would refuse there.
        """
        query = self._bind(statement, statement.within(select, where="1 = 0"), since)
        with self._reading(since) as reading:
            names = reading.ask(
                lambda connection: tuple(connection.execute(query).keys()), seconds=self._timeout.total_seconds()
            )
        # SQLite itself renames the second `id` of a subquery to `id:1`.
        repeated = {name for name in names if names.count(name) > 1 or name.rpartition(":")[0] in names}
        if repeated:
            raise self._repeats(", ".join(sorted(repeated)))
        return names

    def stream(
        self, statement: Statement, *, select: str = "s.*", since: datetime | None = None
    ) -> Generator[Sequence[Sequence[Any]], None, None]:
        """Yield the rows in chunks of at most `CHUNK`, none of them empty.

        `select` is what is taken from the query, which is called ``s``; it is SQL of our own making. The reading
        transaction stays open until the last chunk was taken, or the generator is closed.
        """
        query = self._bind(statement, statement.within(select), since)
        budget, rows = self._timeout.total_seconds(), 0
        answer: list[CursorResult[Any]] = []

        def read(connection: Connection) -> Sequence[Sequence[Any]]:
            if not answer:
                streaming = connection.execution_options(stream_results=True, max_row_buffer=CHUNK)
                answer.append(streaming.execute(query))
                reading.closing.callback(_leave, answer[0])
            return answer[0].fetchmany(CHUNK)

        with self._reading(since) as reading:
            while True:
                started = time.monotonic()
                chunk = reading.ask(read, seconds=budget)
                budget -= time.monotonic() - started
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

    def _bind(self, statement: Statement, sql: str, since: datetime | None) -> TextClause:
        if not statement.uses_since:
            return text(sql)
        if since is None:
            raise self.wrong("the query uses :since, and this run has none", "set audience.start", word="since")
        return text(sql).bindparams(self._database.since(since, self._zone))

    @contextmanager
    def _reading(self, since: datetime | None = None) -> Iterator[_Reading]:
        """Open a connection in a transaction that is rolled back at the end; it cannot write, where that can be had."""
        reading = _Reading(self._translated)
        try:
            reading.open(self._engine)
            reading.ask(
                lambda connection: self._database.begin(
                    connection, limit=self._timeout, zone=self._zone, moment=since or datetime.now(UTC)
                ),
                seconds=_OPENING,
            )
            yield reading
        except BaseException:
            reading.close(cancel=lambda driver: self._database.cancel(self._engine, driver))
            raise
        reading.close()

    def _translated(self, error: Exception, *, is_open: bool) -> InputError:
        """Return what to say instead of a driver's `error`, or of a LateError."""
        original = (error.orig if isinstance(error, DBAPIError) else None) or error
        if isinstance(error, LateError):
            complaint = Complaint(trouble=Trouble.SLOW)
        else:
            complaint = self._database.complaint(original)
        is_lost = isinstance(error, DBAPIError) and error.connection_invalidated
        trouble = complaint.trouble if is_open and not is_lost else Trouble.UNREACHABLE
        _LOG.info(
            "the source refused a query",
            extra={"kind": type(original).__name__, "code": complaint.code, "trouble": trouble},
        )
        query = (error.statement if isinstance(error, DBAPIError) else None) or ""
        word = complaint.word if complaint.word.casefold() in query.casefold() else ""
        match trouble:
            case Trouble.SLOW:
                return self.wrong(
                    f"the query took longer than {self._timeout.total_seconds():.0f} s",
                    "narrow it, add an index, or raise audience.source.timeout",
                )
            case Trouble.WRITES:
                return self.wrong("the query would write to the database", "write a query that only reads")
            case Trouble.UNREACHABLE:
                return UnreachableError.one(
                    self.place,
                    "the database cannot be reached",
                    "check its URL in the environment, and that it is up",
                    self._url_field,
                )
            case Trouble.REPEATS:
                return self._repeats(word or "a column")
            case Trouble.REFUSED:
                code = f" ({complaint.code})" if complaint.code else ""
                return self.wrong(
                    f"the database refused the query{code}" + (f" at {quoted(word)}" if word else ""),
                    "try it in the database's own console; its own words are not shown here, they may quote people's "
                    "data",
                    word=word,
                )

    def _repeats(self, columns: str) -> InputError:
        return self.wrong(f"the query returns {columns} twice", "give each column a name of its own with AS")

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.dispose()


class _Reading:
    """A connection at work in a thread of its own, so that nothing it does is waited for longer than allowed.

    A driver's error is translated before it is raised; so is the LateError of what takes too long.
    """

    def __init__(self, translated: Callable[..., InputError]) -> None:
        self._translated = translated
        self._aside = Aside()
        self._connection: Connection | None = None
        self._driver: object = None
        self._may_run = True
        #: What is to be closed, in that thread, the last first.
        self.closing = ExitStack()

    def open(self, engine: Engine) -> None:
        def connect() -> Connection:
            connection = self.closing.enter_context(engine.connect())
            self.closing.callback(connection.rollback)
            self._driver = connection.connection.driver_connection
            return connection

        try:
            self._connection = self._aside.do(connect, seconds=_OPENING)
        except Exception as error:
            raise self._translated(error, is_open=False) from None

    def ask(self, task: Callable[[Connection], T], *, seconds: float) -> T:
        """Return what `task` makes of the connection; InputError when it fails, or takes longer."""
        connection = self._connection
        assert connection is not None, "open it first"
        try:
            return self._aside.do(lambda: task(connection), seconds=seconds)
        except Exception as error:
            self._may_run = isinstance(error, LateError)
            raise self._translated(error, is_open=True) from None

    def close(self, *, cancel: Callable[[object], None] | None = None) -> None:
        """Roll back and disconnect; `cancel` is told the driver's connection, and ends what may still be running."""
        if cancel is not None and self._driver is not None and self._may_run:
            Thread(target=_quietly, args=(cancel, self._driver), daemon=True).start()
        with suppress(Exception):
            self._aside.do(self.closing.close, seconds=_CLOSING)
        self._aside.end()


def _quietly(task: Callable[..., None], *given: object) -> None:
    with suppress(Exception):
        task(*given)


def _leave(result: CursorResult[Any]) -> None:
    """Close an answer that may not have been read to its end; what the driver says about that is of no interest."""
    if result.cursor is not None:
        _quietly(result.cursor.close)
    result.close()


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
