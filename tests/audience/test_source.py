"""The organisation's database: read-only, one select, in time, and nothing of its rows in a message."""

from __future__ import annotations

import re
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from commplan.audience.database import KNOWN
from commplan.audience.snapshot import with_segment
from commplan.audience.source import CHUNK, Source
from commplan.audience.statement import Statement
from commplan.errors import InputError
from commplan.store import Store
from tests.audience.conftest import DUCKDB, NOON, PEOPLE, Crm, Resolve, make_plan, new_run


def open_crm(crm: Crm, **changes: Any) -> Source:
    known: dict[str, Any] = {
        "timeout": timedelta(seconds=20),
        "row_limit": 1_000_000,
        "zone": ZoneInfo("Asia/Shanghai"),
        "place": "plan: source",
    }
    return Source(crm.url, **(known | changes))


def ask(crm: Crm, sql: str, since: datetime | None = None, **changes: Any) -> list[tuple[Any, ...]]:
    with open_crm(crm, **changes) as source:
        statement = source.statement(sql)
        return [tuple(row) for chunk in source.stream(statement, since=since) for row in chunk]


NOT_ONE_SELECT = [
    "delete from customers",
    "update customers set email = null",
    "insert into customers (customer_id) values (1)",
    "drop table customers",
    "create table x as select * from customers",
    "select * from customers; delete from customers",
    "select * into taken from customers",
    "with gone as (delete from customers returning *) select * from gone",
    "pragma journal_mode = delete",
    "attach database 'x' as y",
    "",
    "-- nothing",
    "vacuum",
    "explain select * from customers",
]


def test_anything_but_one_select_is_refused_before_it_is_run(any_crm: Crm) -> None:
    for sql in NOT_ONE_SELECT:
        with pytest.raises(InputError, match=r"plan: source: the query (is not one SELECT|cannot be read as SQL)"):
            ask(any_crm, sql)
    assert any_crm.count() == len(PEOPLE)


@pytest.mark.parametrize("sql", ["delete from customers", "create table x (y integer)"])
def test_the_connection_itself_cannot_write(any_crm: Crm, sql: str) -> None:
    if any_crm.kind == "elsewhere":
        pytest.skip("what cannot be forbidden is taken back: another test")
    with (
        open_crm(any_crm) as source,
        pytest.raises(InputError, match="would write to the database"),
        source._reading() as reading,
    ):
        reading.ask(lambda connection: connection.execute(text(sql)), seconds=20)
    assert any_crm.count() == len(PEOPLE)


ONE_SELECT = [
    "select customer_id from customers where full_name = 'Bob' -- the end",
    "select customer_id from customers where full_name = 'Bob'; -- the end",
    "select customer_id /* ) as s; */ from customers where full_name = 'Bob';;",
    "with b as (select * from customers) select customer_id from b where full_name = 'Bob' and ':x' = ':x'",
    "select customer_id from customers where full_name = 'Bob' and 'a:b' like '%:b'",
    "select customer_id from customers where full_name = 'Bob' union select customer_id from customers where 1 = 0",
]


def test_one_select_in_any_dress_is_run_as_it_is(any_crm: Crm) -> None:
    for sql in ONE_SELECT:
        assert ask(any_crm, sql) == [(3,)]


def test_casts_with_colons_are_no_parameters(any_crm: Crm) -> None:
    if any_crm.kind == "postgresql":
        assert ask(
            any_crm, "select customer_id::text as a, '12:30'::time as b from customers where customer_id = 1"
        ) == [("1", datetime(2026, 1, 1, 12, 30).time())]
    else:
        assert ask(any_crm, "select '12:30' as a, ':since' as b") == [("12:30", ":since")]


def test_since_means_a_moment_in_the_zone_of_the_source(any_crm: Crm) -> None:
    sql = "select customer_id from customers where signed_up_at >= :since and signed_up_at < '2026-11-20'"
    midnight = datetime(2026, 10, 31, 16, 0, tzinfo=UTC)
    assert ask(any_crm, sql, midnight) == [(6,)]
    assert ask(any_crm, sql, midnight - timedelta(seconds=1)) == [(5,), (6,)]
    assert ask(any_crm, sql, midnight + timedelta(seconds=1)) == []


def test_a_query_with_since_needs_one_and_no_other_parameter(any_crm: Crm) -> None:
    with pytest.raises(InputError, match="uses :since, and this run has none"):
        ask(any_crm, "select * from customers where signed_up_at > :since")
    with pytest.raises(InputError, match="parameter other than :since"):
        ask(any_crm, "select * from customers where email = :who and signed_up_at > :since", NOON)


def test_rows_come_in_chunks_and_no_more_than_allowed(sqlite_crm: Crm) -> None:
    sql = f"with recursive n(i) as (select 1 union all select i + 1 from n where i < {CHUNK * 2 + 1}) select i from n"
    with open_crm(sqlite_crm) as source:
        sizes = [len(chunk) for chunk in source.stream(source.statement(sql))]
    assert sizes == [CHUNK, CHUNK, 1]
    assert len(ask(sqlite_crm, sql, row_limit=CHUNK * 2 + 1)) == CHUNK * 2 + 1
    with pytest.raises(
        InputError, match=rf"more than {CHUNK * 2} rows; narrow it, or raise audience\.source\.row_limit"
    ):
        ask(sqlite_crm, sql, row_limit=CHUNK * 2)


def test_a_query_that_takes_too_long_is_stopped(any_crm: Crm) -> None:
    with pytest.raises(InputError, match=r"took longer than 0 s; narrow it, add an index"):
        ask(any_crm, any_crm.endless, timeout=timedelta(seconds=0.3))


def test_what_is_done_with_the_rows_does_not_count_against_the_time_out(sqlite_crm: Crm) -> None:
    sql = f"with recursive n(i) as (select 1 union all select i + 1 from n where i < {CHUNK + 1}) select i from n"
    with open_crm(sqlite_crm, timeout=timedelta(seconds=3)) as source:
        stream = source.stream(source.statement(sql))
        next(stream)
        until = datetime.now(UTC) + timedelta(seconds=3.2)
        while datetime.now(UTC) < until:
            pass
        assert [len(chunk) for chunk in stream] == [1]


def test_columns_are_known_without_reading_and_must_differ(any_crm: Crm) -> None:
    with open_crm(any_crm) as source:
        assert source.columns(source.statement("select customer_id, email from customers"), since=None) == (
            "customer_id",
            "email",
        )
        twice = source.statement("select a.email, b.email from customers a, customers b")
        if any_crm.kind in DUCKDB:
            assert source.columns(twice, since=None) == ("email", "email_1")  # it tells them apart by itself
            return
        with pytest.raises(InputError, match=r"returns email.* twice; give each column a name of its own"):
            source.columns(twice, since=None)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite:////nowhere/crm.sqlite", "the database cannot be reached"),
        ("sqlite://", "not a database URL"),
        ("not a url", "not a database URL"),
        ("duckdb://", "not a database URL"),
        ("nosuch://secret:word@host/db", '"nosuch" is not a database that SQLAlchemy knows .* CSV or XLSX file'),
        ("snowflake://secret:word@host/db", "driver of snowflake is not installed; pip install snowflake-sqlalchemy"),
        ("mssql://secret:word@host/db", "the driver of mssql is not installed; pip install pyodbc"),
        ("oracle://secret:word@host/db", "pip install oracledb, and write oracle"),
        ("lost://secret:word@host/db", 'driver of lost is not installed; install the package that has "nowhere"'),
        ("postgresql://nobody:hidden@127.0.0.1:1/x", "the database cannot be reached"),
        ("mysql://nobody:hidden@127.0.0.1:1/x", "the database cannot be reached"),
        ("mariadb+mysqldb://nobody:hidden@127.0.0.1:1/x", "the database cannot be reached"),
        ("elsewhere:////nowhere/secret/word.duckdb", "the database cannot be reached"),
    ],
)
def test_a_source_that_cannot_be_opened_is_said_plainly(url: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        source = Source(url, timeout=timedelta(seconds=5), row_limit=1, zone=None, place="p")
        source.columns(source.statement("select 1 as x"), since=None)
    assert not any(secret in str(caught.value) for secret in ("hidden", "secret", "word"))


def test_the_database_s_own_words_are_not_passed_on(any_crm: Crm) -> None:
    with pytest.raises(InputError, match="the database refused the query") as caught:
        ask(any_crm, "select nothing_of_the_kind as x, 'bob@person.example.com' as y from customers")
    # The word is the planner's own; nothing else of what the database says is.
    at = "" if any_crm.kind == "elsewhere" else ' at "nothing_of_the_kind"'
    assert re.search(rf"refused the query \(\w+\){at}; try it", str(caught.value))
    assert "column" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert "bob" not in str(caught.value)


def test_what_cannot_be_forbidden_is_taken_back(elsewhere: Crm) -> None:
    with open_crm(elsewhere) as source:
        assert [(finding.rule, finding.remedy) for finding in source.advice] == [
            ("commplan cannot make sure that elsewhere only reads", "give commplan a user that may only read")
        ]
        with source._reading() as reading:
            reading.ask(lambda connection: connection.execute(text("delete from customers")), seconds=20)
    assert elsewhere.count() == len(PEOPLE)


def test_nothing_is_advised_about_a_database_that_cannot_write(any_crm: Crm) -> None:
    with open_crm(any_crm) as source:
        source.columns(source.statement("select 1 as x"), since=None)
        assert bool(source.advice) == (any_crm.kind == "elsewhere")


def test_a_comment_that_mariadb_would_run_is_no_comment(mariadb_crm: Crm) -> None:
    for sql in (
        "/*! x */ select 1 as y",
        "select 1 as x /*! into outfile 'people.txt' */",
        "select /*M!100000 sleep(9), */ 1 as x",
    ):
        with pytest.raises(InputError, match="a comment that the server would run"):
            ask(mariadb_crm, sql)
    assert ask(mariadb_crm, "select '/*! x */' as x /* an ordinary one */ # and another") == [("/*! x */",)]


def test_mariadb_reads_a_query_as_it_was_checked(mariadb_crm: Crm) -> None:
    mariadb_crm.write("SET GLOBAL sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES'")
    try:
        assert ask(mariadb_crm, "select \"it's\" as `a b`, 'x\\' or ''y' as c, 5 % 3 as d") == [("it's", "x' or 'y", 2)]
    finally:
        mariadb_crm.write("SET GLOBAL sql_mode = DEFAULT")


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("select c.emial from customers c", r'\(1054\) at "emial"'),
        ("select * from custmers", r'\(1146\) at "custmers"'),
        ("select nosuch(email) from customers", r'\(1305\) at "nosuch"'),
        ("select a.email from customers a where a.email regexp '('", r"\(1139\); try it"),
        ("select email, lang as email from customers", "returns email twice"),
        ("select email from mysql.nothing where x in (select y from z)", r'\(1146\) at "(nothing|z)"'),
    ],
)
def test_mariadb_names_the_word_at_fault_and_nothing_else(mariadb_crm: Crm, sql: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        ask(mariadb_crm, sql)
    assert "person.example.com" not in str(caught.value)


def test_mariadb_shows_its_times_in_the_zone_of_the_source(mariadb_crm: Crm) -> None:
    mariadb_crm.write("CREATE TABLE moments (written datetime, kept timestamp)")
    mariadb_crm.write("INSERT INTO moments VALUES ('2026-07-01 08:00:00', '2026-07-01 08:00:00')")
    for name in ("time_zone", "time_zone_name", "time_zone_transition_type"):
        mariadb_crm.write(f"DELETE FROM mysql.{name}")
    sql = "select written, kept from moments"
    tokyo = ZoneInfo("Asia/Tokyo")
    shown = [(datetime(2026, 7, 1, 8), datetime(2026, 7, 1, 9))]
    # Without the server's own tables of zones, then with them.
    assert ask(mariadb_crm, sql, zone=tokyo) == shown
    mariadb_crm.write("INSERT INTO mysql.time_zone (Time_zone_id, Use_leap_seconds) VALUES (1, 'N')")
    mariadb_crm.write("INSERT INTO mysql.time_zone_name (Name, Time_zone_id) VALUES ('Asia/Tokyo', 1)")
    mariadb_crm.write("INSERT INTO mysql.time_zone_transition_type VALUES (1, 0, 32400, 0, 'JST')")
    assert ask(mariadb_crm, sql, zone=tokyo) == shown
    with open_crm(mariadb_crm, zone=tokyo) as source, source._reading() as reading:
        read = reading.ask(lambda connection: connection.execute(text("select @@time_zone")).scalar(), seconds=20)
    assert read == "Asia/Tokyo"


@pytest.mark.parametrize(("zone", "is_said"), [("Europe/Berlin", True), ("Asia/Shanghai", False), ("UTC", False)])
def test_a_zone_whose_hour_mariadb_will_miss_is_said(mariadb_crm: Crm, zone: str, is_said: bool) -> None:
    with open_crm(mariadb_crm, zone=ZoneInfo(zone), field="audience.source.sql") as source:
        source.columns(source.statement("select 1 as x"), since=None)
        said = [str(finding) for finding in source.advice]
    assert bool(said) == is_said
    assert all("audience.source.url: the server has no time zones" in line for line in said)


def test_rows_left_unread_are_not_waited_for(mariadb_crm: Crm) -> None:
    big = f"select a.* from {', '.join(f'customers {name}' for name in 'abcdefghij')}"
    started = time.monotonic()
    with pytest.raises(InputError, match="more than 7 rows"):
        ask(mariadb_crm, big, row_limit=7)
    assert time.monotonic() - started < 5
    assert mariadb_crm.is_quiet()


def test_a_query_given_up_runs_no_longer(mariadb_crm: Crm) -> None:
    with pytest.raises(InputError, match="took longer"):
        ask(mariadb_crm, mariadb_crm.endless, timeout=timedelta(seconds=0.2))
    assert mariadb_crm.is_quiet()


def test_a_driver_that_never_answers_is_left_behind(elsewhere: Crm) -> None:
    awake = threading.Event()
    with (
        open_crm(elsewhere) as source,
        pytest.raises(InputError, match="took longer than 20 s"),
        source._reading() as reading,
    ):
        reading.ask(lambda connection: awake.wait(60), seconds=0.1)
    awake.set()


@pytest.mark.parametrize(
    ("dialect", "expected"),
    [
        ("oracle", "SELECT s.* FROM (\nwith b as (select 1 as x from c) select x from b order by x\n) s WHERE 1 = 0"),
        (
            "tsql",
            "with b as (select 1 as x from c) SELECT s.* FROM (\nselect x from b order by x\nOFFSET 0 ROWS\n) s "
            "WHERE 1 = 0",
        ),
    ],
)
def test_a_query_is_put_where_the_database_allows_it(dialect: str, expected: str) -> None:
    statement = Statement.check(
        "with b as (select 1 as x from c) select x from b order by x; -- end", dialect=dialect, place="p"
    )
    assert statement.within("s.*", where="1 = 0") == expected


def test_only_what_is_defined_in_front_stays_in_front() -> None:
    def put(sql: str) -> str:
        return Statement.check(sql, dialect="tsql", place="p").within("s.*")

    front = "with a(x) as (select 1 as x), b as (select (2) as x from a) "
    query = "(select x from a) union (select x from b)"
    assert put(front + query) == f"{front}SELECT s.* FROM (\n{query}\n) s"
    assert put("(select 1 as x) union select 2 as x").startswith("SELECT s.* FROM (\n(select 1")


def test_mariadb_itself_ends_what_commplan_could_not(mariadb_crm: Crm) -> None:
    with open_crm(mariadb_crm) as source, source._reading() as reading:
        asked = text("SELECT @@max_statement_time, @@tx_read_only, @@tx_isolation")
        told = reading.ask(lambda connection: connection.execute(asked).one(), seconds=20)
    assert tuple(told) == (20 + 3600, 1, "REPEATABLE-READ")


def test_columns_are_spelt_as_a_database_of_capitals_spells_them(elsewhere: Crm) -> None:
    with open_crm(elsewhere) as source:
        assert source.spelt(("customer_id", "Mixed")) == ("customer_id", "Mixed")
        source._engine.dialect.requires_name_normalize = True
        assert source.spelt(("customer_id", "Mixed")) == ("CUSTOMER_ID", "Mixed")
        selected = with_segment(make_plan().audience, ("lifetime_value", "full_name"), source)
        assert 's."LIFETIME_VALUE" >= 1000' in selected


@pytest.mark.parametrize("grammar", sorted({known.grammar for known in KNOWN.values()}))
def test_every_grammar_takes_since_and_refuses_a_second_statement(grammar: str) -> None:
    sql = "select a, 'x:y' as b from t where c >= :since"
    checked = Statement.check(sql, dialect=grammar, place="p")
    assert checked.uses_since
    assert "'x\\:y'" in checked.sql
    for other in (f"{sql}; delete from t", "delete from t", "select a from t where c > :other"):
        with pytest.raises(InputError):
            Statement.check(other, dialect=grammar, place="p")


def test_the_source_is_opened_read_only_and_left_as_it_was(sqlite_crm: Crm, store: Store, resolve: Resolve) -> None:
    path = Path(make_url(sqlite_crm.url).database or "")
    before = path.read_bytes()
    path.chmod(0o400)
    resolve(new_run(store), sqlite_crm)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.glob("sample crm.sqlite*")] == ["sample crm.sqlite"]
