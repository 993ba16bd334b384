"""The kinds of database that people are read from: what each must be told, and how each complains.

Never decides what a plan may ask; and what a database says is looked at here, but passed on only where it cannot
quote people's data.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from sqlalchemy import BindParameter, Connection, DateTime, Engine, bindparam, create_engine, event, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool
from typing_extensions import override

#: Machine seconds until a server that does not answer is given up.
CONNECT_SECONDS = 10
#: What SQLite, PostgreSQL and DuckDB quote from a query that they cannot read.
_OF_QUERY = re.compile(
    r'^(?:no such (?:column|table|function): |ambiguous column name: |near )"?([^\W\d]\w{0,62})"?|"([^\W\d]\w{0,62})"'
    r"|\bwith name ([^\W\d]\w{0,62})|\b([^\W\d]\w{0,62})\("
)


class Known(NamedTuple):
    """A database that somebody may well use: sqlglot's name of it, and what adds it to SQLAlchemy."""

    grammar: str
    package: str


#: By SQLAlchemy's name.
KNOWN: Mapping[str, Known] = {
    "awsathena": Known("athena", "'PyAthena[SQLAlchemy]'"),
    "bigquery": Known("bigquery", "sqlalchemy-bigquery"),
    "clickhouse": Known("clickhouse", "clickhouse-sqlalchemy"),
    "clickhousedb": Known("clickhouse", "clickhouse-connect"),
    "cockroachdb": Known("postgres", "sqlalchemy-cockroachdb psycopg2-binary"),
    "db2": Known("", "ibm_db_sa"),
    "databricks": Known("databricks", "databricks-sqlalchemy"),
    "drill": Known("drill", "sqlalchemy-drill"),
    "druid": Known("druid", "'pydruid[sqlalchemy]'"),
    "duckdb": Known("duckdb", "duckdb-engine"),
    "exa": Known("exasol", "sqlalchemy-exasol"),
    "hana": Known("", "sqlalchemy-hana"),
    "hive": Known("hive", "'PyHive[hive]'"),
    "ibm_db_sa": Known("", "ibm_db_sa"),
    "mariadb": Known("mysql", "PyMySQL"),
    "mssql": Known("tsql", "pyodbc"),
    "mysql": Known("mysql", "PyMySQL"),
    "oracle": Known("oracle", "oracledb, and write oracle+oracledb://…"),
    "postgresql": Known("postgres", "'psycopg[binary]'"),
    "presto": Known("presto", "'PyHive[presto]'"),
    "redshift": Known("redshift", "sqlalchemy-redshift redshift_connector"),
    "risingwave": Known("risingwave", "sqlalchemy-risingwave"),
    "snowflake": Known("snowflake", "snowflake-sqlalchemy"),
    "sqlite": Known("sqlite", ""),
    "starrocks": Known("starrocks", "starrocks"),
    "teradatasql": Known("teradata", "teradatasqlalchemy"),
    "trino": Known("trino", "'trino[sqlalchemy]'"),
}


class Trouble(StrEnum):
    """What became of a query that was not answered."""

    SLOW = "slow"
    WRITES = "writes"
    UNREACHABLE = "unreachable"
    REPEATS = "repeats"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Complaint:
    """What a database complains of: its code, and the word of the query that it stumbled over, if it says so."""

    trouble: Trouble
    code: str = ""
    word: str = ""


class Database:
    """Any database that SQLAlchemy has a dialect for.

    Nothing is taken for granted: the transaction is rolled back, and commplan's own clock ends what takes too long.
    """

    #: Whether it refuses to write for us, whatever the query does.
    is_read_only = False

    def __init__(self, name: str) -> None:
        self.name = name
        #: sqlglot's name of it; empty: sqlglot's own grammar, which is common to most.
        self.grammar = KNOWN[name].grammar if name in KNOWN else ""
        #: What was found that is probably not meant: rule and remedy.
        self.advice: list[tuple[str, str]] = []
        if not self.is_read_only:
            self.advice.append(
                (f"commplan cannot make sure that {name} only reads", "give commplan a user that may only read")
            )

    def engine(self, url: URL) -> Engine:
        """Return what opens connections, none of which is used twice."""
        return self._engine(url)

    def _engine(self, url: URL | str, **more: Any) -> Engine:
        return create_engine(url, hide_parameters=True, poolclass=NullPool, **more)

    def begin(self, connection: Connection, *, limit: timedelta, zone: ZoneInfo, moment: datetime) -> None:
        """Begin a transaction that sees one state of the data and, where that can be asked for, cannot write.

        `limit` is what a query may take; `zone` is where times count, `moment` one of them that is wanted.
        """

    def since(self, moment: datetime, zone: ZoneInfo) -> BindParameter[Any]:
        """Return ``:since`` in the form that this database compares with its own times: here, as a clock shows it."""
        return bindparam("since", moment.astimezone(zone).replace(tzinfo=None, microsecond=0))

    def cancel(self, engine: Engine, driver: Any) -> None:
        """Ask a connection, from another thread, to give up what it is doing."""
        ask = getattr(driver, "interrupt", None) or getattr(driver, "cancel", None)
        if ask is not None:
            ask()

    def complaint(self, error: BaseException) -> Complaint:
        """Return what the driver's `error` means."""
        return Complaint(trouble=Trouble.REFUSED, code=type(error).__name__)


class Sqlite(Database):
    """A file, opened with ``mode=ro`` and ``query_only``."""

    is_read_only = True

    @override
    def engine(self, url: URL) -> Engine:
        path = url.database
        if not path or path == ":memory:" or path.startswith("file:"):
            raise ValueError("a source is a file")
        readable = f"{Path(path).absolute().as_uri()}?mode=ro"
        engine = self._engine(
            "sqlite://", creator=lambda: sqlite3.connect(readable, uri=True, timeout=30, isolation_level=None)
        )

        @event.listens_for(engine, "connect")
        def _configure(connection: sqlite3.Connection, record: object) -> None:
            connection.execute("PRAGMA query_only=ON")

        return engine

    @override
    def begin(self, connection: Connection, *, limit: timedelta, zone: ZoneInfo, moment: datetime) -> None:
        connection.exec_driver_sql("BEGIN")

    @override
    def since(self, moment: datetime, zone: ZoneInfo) -> BindParameter[Any]:
        local = moment.astimezone(zone).replace(tzinfo=None, microsecond=0)
        return bindparam("since", local.isoformat(" "))

    @override
    def complaint(self, error: BaseException) -> Complaint:
        said = str(error)
        code = getattr(error, "sqlite_errorname", None) or ""
        if isinstance(error, sqlite3.OperationalError) and said == "interrupted":
            return Complaint(trouble=Trouble.SLOW, code=code)
        if isinstance(error, sqlite3.OperationalError) and "readonly" in said:
            return Complaint(trouble=Trouble.WRITES, code=code)
        if isinstance(error, sqlite3.Error) and ("unable to open" in said or "not a database" in said):
            return Complaint(trouble=Trouble.UNREACHABLE, code=code)
        word = _found(_OF_QUERY, said) if isinstance(error, sqlite3.OperationalError) else ""
        return Complaint(trouble=Trouble.REFUSED, code=code, word=word)


class Postgresql(Database):
    """A server, asked in a READ ONLY transaction."""

    is_read_only = True
    _TROUBLES: Mapping[str, Trouble] = {"57014": Trouble.SLOW, "25006": Trouble.WRITES}

    @override
    def engine(self, url: URL) -> Engine:
        alive = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
        return self._engine(
            url.set(drivername="postgresql+psycopg"), connect_args={"connect_timeout": CONNECT_SECONDS, **alive}
        )

    @override
    def begin(self, connection: Connection, *, limit: timedelta, zone: ZoneInfo, moment: datetime) -> None:
        connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
        connection.execute(
            text("SELECT set_config('statement_timeout', :limit, true), set_config('TimeZone', :zone, true)"),
            {"limit": str(int(limit.total_seconds() * 1000)), "zone": str(zone)},
        )

    @override
    def since(self, moment: datetime, zone: ZoneInfo) -> BindParameter[Any]:
        return bindparam("since", moment, type_=DateTime(timezone=True))

    @override
    def complaint(self, error: BaseException) -> Complaint:
        state = getattr(error, "sqlstate", None) or ""
        if state in self._TROUBLES:
            return Complaint(trouble=self._TROUBLES[state], code=state)
        if type(error).__name__ == "OperationalError" and state[:2] in ("", "08", "28", "3D", "57"):
            return Complaint(trouble=Trouble.UNREACHABLE, code=state)
        said = getattr(getattr(error, "diag", None), "message_primary", None) or str(error)
        word = _found(_OF_QUERY, said) if state.startswith("42") else ""
        return Complaint(trouble=Trouble.REFUSED, code=state, word=word)


class Mysql(Database):
    """A MySQL or MariaDB server, asked in a READ ONLY transaction with a consistent snapshot."""

    is_read_only = True
    #: Its own time-out also counts what we do with the rows between two reads, so it gets so much more: it ends what
    #: commplan, which counts only the database's time, could not end itself.
    _BETWEEN = timedelta(hours=1)
    _UNKNOWN_ZONE = 1298
    _TROUBLES: Mapping[int, Trouble] = {
        **dict.fromkeys((1317, 1969, 3024), Trouble.SLOW),
        **dict.fromkeys((1290, 1792), Trouble.WRITES),
        **dict.fromkeys((1040, 1044, 1045, 1049, 1053, 1927, 2003, 2006, 2013), Trouble.UNREACHABLE),
        1060: Trouble.REPEATS,
    }
    #: These speak of the query alone.
    _ABOUT_QUERY = (1052, 1054, 1060, 1064, 1109, 1128, 1146, 1305, 1582, 1630)
    _WORD = re.compile(
        r"near '\W*([^\W\d]\w{0,62})|^(?:Unknown column|Table|Column|Duplicate column name|Unknown table|Function) "
        r"'(?:[^'.]*\.)*([^\W\d]\w{0,62})'|FUNCTION (?:[^\s.]+\.)?([^\W\d]\w{0,62}) |native function '(\w{1,63})'"
    )

    @override
    def engine(self, url: URL) -> Engine:
        return self._engine(
            url.set(drivername=f"{self.name}+pymysql"), connect_args={"connect_timeout": CONNECT_SECONDS}
        )

    @override
    def begin(self, connection: Connection, *, limit: timedelta, zone: ZoneInfo, moment: datetime) -> None:
        seconds = (limit + self._BETWEEN).total_seconds()
        is_mariadb = getattr(connection.dialect, "is_mariadb", False)
        own = f"max_statement_time = {seconds}" if is_mariadb else f"max_execution_time = {int(seconds * 1000)}"
        connection.exec_driver_sql("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        # The mode of sqlglot's grammar: with another, quotes and backslashes would not mean what was checked.
        connection.exec_driver_sql(f"SET SESSION sql_mode = '', net_write_timeout = 600, {own}")
        self._set_zone(connection, zone, moment)
        connection.exec_driver_sql("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")

    def _set_zone(self, connection: Connection, zone: ZoneInfo, moment: datetime) -> None:
        try:
            connection.execute(text("SET SESSION time_zone = :zone"), {"zone": str(zone)})
        except DBAPIError as error:
            if _errno(error.orig) != self._UNKNOWN_ZONE:
                raise
            local = moment.astimezone(zone)
            connection.execute(text("SET SESSION time_zone = :zone"), {"zone": local.isoformat()[-6:]})
            if any((local + timedelta(days=days)).utcoffset() != local.utcoffset() for days in range(0, 365, 15)):
                self.advice = [
                    (
                        f"the server has no time zones, so that TIMESTAMP columns are off by an hour for part of the "
                        f"year in {zone}",
                        "let its administrator load them with mysql_tzinfo_to_sql",
                    )
                ]

    @override
    def cancel(self, engine: Engine, driver: Any) -> None:
        # What is left of an unbuffered answer cannot be skipped, only cut off at its source.
        with engine.connect() as other:
            other.exec_driver_sql(f"KILL QUERY {int(driver.thread_id())}")

    @override
    def complaint(self, error: BaseException) -> Complaint:
        code = _errno(error)
        said = str(error.args[1]) if len(error.args) > 1 and code in self._ABOUT_QUERY else ""
        return Complaint(
            trouble=self._TROUBLES.get(code, Trouble.REFUSED),
            code=str(code) if code else type(error).__name__,
            word=_found(self._WORD, said),
        )


class Duckdb(Database):
    """A file, opened with ``read_only``; another process may not have it open for writing."""

    is_read_only = True

    @override
    def engine(self, url: URL) -> Engine:
        if not url.database or url.database == ":memory:":
            raise ValueError("a source is a file")
        return self._engine(url, connect_args={"read_only": True})

    @override
    def begin(self, connection: Connection, *, limit: timedelta, zone: ZoneInfo, moment: datetime) -> None:
        connection.exec_driver_sql(f"SET TimeZone = '{zone}'")

    @override
    def complaint(self, error: BaseException) -> Complaint:
        kind, said = type(error).__name__, str(error)
        if "read-only mode" in said:
            return Complaint(trouble=Trouble.WRITES, code=kind)
        about_query = kind in ("BinderException", "CatalogException", "ParserException")
        return Complaint(
            trouble=Trouble.SLOW if kind == "InterruptException" else Trouble.REFUSED,
            code=kind,
            word=_found(_OF_QUERY, said) if about_query else "",
        )


_KINDS: Mapping[str, type[Database]] = {
    "duckdb": Duckdb,
    "mariadb": Mysql,
    "mysql": Mysql,
    "postgresql": Postgresql,
    "sqlite": Sqlite,
}


def database(name: str) -> Database:
    """Return the database that SQLAlchemy calls so."""
    return _KINDS.get(name, Database)(name)


def _found(pattern: re.Pattern[str], said: str) -> str:
    match = pattern.search(said)
    return next((word for word in match.groups() if word), "") if match else ""


def _errno(error: BaseException | None) -> int:
    code = error.args[0] if error is not None and error.args else 0
    return code if isinstance(code, int) else 0
