"""The organisation's database of a test, on each kind of server, and a plan that asks it."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import create_engine, insert, select, text, update
from sqlalchemy.dialects import registry
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

from commplan.audience import refresh as refreshing
from commplan.audience import snapshot
from commplan.ids import RunId
from commplan.plan import Plan
from commplan.store import Store
from commplan.store.tables import bundles, enrolments, recipients, runs

NOON = datetime(2026, 12, 1, 2, 0, tzinfo=UTC)
SINCE = datetime(2026, 11, 1, tzinfo=ZoneInfo("Asia/Shanghai"))
TABLE = """CREATE TABLE customers (customer_id integer, full_name text, email text, mobile text, lang text, tz text,
    signed_up_at {time}, lifetime_value integer, sms_opt_in text)"""
PEOPLE: list[tuple[object, ...]] = [
    (1, "Ann", "Ann.Lee@Person.Example.com", "+1 202-555-0123", "en_gb", "Europe/London", "2026-11-20", 1500, "1"),
    (2, "李雷", "lilei@person.example.com", "+8613800138000", "zh-cn", "Asia/Shanghai", "2026-11-21 10:00", 10, "yes"),
    (3, "Bob", "bob@", "12", "klingon", "Mars/Base", "2026-11-22 10:00:00", None, "maybe"),
    (4, "Cai", None, "2025550124", None, None, "2026-11-23 10:00:00", 1000, "0"),
    (None, "Nobody", "nobody@person.example.com", None, None, None, "2026-11-24 10:00:00", 0, None),
    (2, "Again", "again@person.example.com", None, None, None, "2026-11-25 10:00:00", 0, None),
    (5, "Old", "old@person.example.com", None, None, None, "2026-10-31 23:59:59", 0, None),
    (6, "First", "first@person.example.com", None, None, None, "2026-11-01 00:00:00", 0, None),
]  # fmt: skip


class Crm:
    """The organisation's database of a test, written to past commplan."""

    def __init__(self, url: str, time: str) -> None:
        self.url = url
        self.kind = make_url(url).get_backend_name()
        #: Its zone is that of the plan.
        session = {"init_command": "SET time_zone = '+08:00'"} if self.kind == "mysql" else {}
        self._engine = create_engine(make_url(url), poolclass=NullPool, connect_args=session)
        if self.kind == "postgresql":
            self.write(f"ALTER DATABASE {make_url(url).database} SET TimeZone = 'Asia/Shanghai'")
        self.write(TABLE.format(time=time))
        self.add(*PEOPLE)

    def write(self, sql: str, rows: list[dict[str, object]] | None = None) -> None:
        with self._engine.begin() as connection:
            if self.kind in DUCKDB:
                connection.exec_driver_sql("SET TimeZone = 'Asia/Shanghai'")
            connection.execute(text(sql), rows or {})

    def add(self, *people: tuple[object, ...]) -> None:
        names = ("a", "b", "c", "d", "e", "f", "g", "h", "i")
        is_strict = self.kind in ("postgresql", *DUCKDB)
        values = ", ".join(f"CAST(:{n} AS timestamp)" if n == "g" and is_strict else f":{n}" for n in names)
        self.write(
            f"INSERT INTO customers VALUES ({values})", [dict(zip(names, person, strict=True)) for person in people]
        )

    @property
    def endless(self) -> str:
        """A query that would take for ever."""
        if self.kind == "mysql":
            return f"select count(*) as n from {', '.join(f'customers c{i}' for i in range(12))}"
        return "with recursive n(i) as (select 1 union all select i + 1 from n) select count(*) as n from n"

    def is_quiet(self) -> bool:
        """Tell whether its server soon has nothing to do."""
        asked = "SELECT count(*) FROM information_schema.processlist WHERE command = 'Query' AND id <> connection_id()"
        until = time.monotonic() + 5
        while time.monotonic() < until:
            with self._engine.connect() as connection:
                if not connection.execute(text(asked)).scalar_one():
                    return True
        return False

    def count(self) -> int:
        with self._engine.connect() as connection:
            return int(connection.execute(text("SELECT count(*) FROM customers")).scalar_one())


DUCKDB = ("duckdb", "elsewhere")
registry.register("lost", "nowhere", "Dialect")


NewSource = Callable[[str], str]


@pytest.fixture
def sqlite_crm(new_source: NewSource) -> Crm:
    return Crm(new_source("sqlite"), "text")


#: Each kind of database with one of its kinds of time, and with the others.
SOURCES = [
    ("sqlite", "text"),
    ("postgresql", "timestamp"),
    ("postgresql", "timestamp with time zone"),
    ("mariadb", "timestamp null"),
]
MORE_SOURCES = [
    ("mariadb", "datetime"),
    ("duckdb", "timestamp"),
    ("duckdb", "timestamp with time zone"),
    ("elsewhere", "timestamp"),
]


@pytest.fixture(params=SOURCES, ids=" ".join)
def crm(request: pytest.FixtureRequest, new_source: NewSource) -> Crm:
    kind, time = request.param
    return Crm(new_source(kind), time)


@pytest.fixture(params=[*SOURCES, *MORE_SOURCES], ids=" ".join)
def any_crm(request: pytest.FixtureRequest, new_source: NewSource) -> Crm:
    kind, time = request.param
    return Crm(new_source(kind), time)


@pytest.fixture
def mariadb_crm(new_source: NewSource) -> Crm:
    return Crm(new_source("mariadb"), "datetime")


@pytest.fixture
def elsewhere(new_source: NewSource) -> Crm:
    return Crm(new_source("elsewhere"), "timestamp")


def make_plan(*, steps: str = "email sms", **changes: Any) -> Plan:
    sql = "select * from customers where signed_up_at >= :since order by signed_up_at"
    source = {"url": "env:CRM", "zone": "Asia/Shanghai", "sql": sql}
    columns = {"id": "customer_id", "email": "email", "phone": "mobile", "locale": "lang", "timezone": "tz"}
    described: dict[str, Any] = {
        "people": "customers",
        "source": source | changes.pop("source", {}),
        "start": "2026-11-01",
        "contact": columns | {"consent": {"sms": "sms_opt_in"}},
        "segments": [{"name": "vip", "if": "lifetime_value >= 1000 and full_name not like 'x%:y'"}, {"name": "new"}],
    } | changes
    described["source"] = {name: value for name, value in described["source"].items() if value is not None}
    return Plan.model_validate(
        {
            "plan": "onboarding",
            "title": "Welcome",
            "purpose": "service",
            "topic": "getting-started",
            "owner": "crm",
            "team": {"crm": {}},
            "goals": [{"id": "reach", "metric": "delivered_rate", "target": "at least 95%"}],
            "audience": described,
            "sequence": [{"step": f"by-{channel}", "channel": channel, "content": "x"} for channel in steps.split()],
        }
    )


def new_run(store: Store, occurrence: str = "1", **values: object) -> RunId:
    with store.write() as connection:
        if connection.execute(select(bundles)).first() is None:
            connection.execute(insert(bundles).values(digest="d", files="{}"))
        made = connection.execute(
            insert(runs)
            .values(
                run_key=f"onboarding@{occurrence}",
                plan="onboarding",
                occurrence=occurrence,
                digest="d",
                state="frozen",
                people="customers",
                created_at=NOON,
                clock="{}",
                placeholder="cp-",
                **values,
            )
            .returning(runs.c.run_id)
        )
        return RunId(made.scalar_one())


@pytest.fixture
def resolve(store: Store, tmp_path: Path) -> Callable[..., snapshot.Resolution]:
    def run(run_id: RunId, crm: Crm, plan: Plan | None = None, **more: Any) -> snapshot.Resolution:
        return snapshot.resolve(
            store,
            **{
                "run_id": run_id,
                "plan": plan or make_plan(),
                "since": SINCE,
                "source_url": crm.url,
                "default_region": "US",
                "now": NOON,
                "home": tmp_path / "home",
                "run_key": f"onboarding@{run_id}",
            }
            | more,
        )

    return run


def refresh(
    store: Store, run_id: RunId, crm: Crm, now: datetime = NOON, max_leaving: float = 0.2
) -> refreshing.Refreshed:
    return refreshing.refresh(
        store,
        run_id=run_id,
        plan=make_plan(),
        since=SINCE,
        source_url=crm.url,
        default_region="US",
        now=now,
        max_leaving=max_leaving,
    )


def people(store: Store, run_id: RunId) -> dict[str, Any]:
    with store.read() as connection:
        rows = connection.execute(select(recipients).where(recipients.c.run_id == run_id).order_by(recipients.c.seq))
        return {row.contact_id: row for row in rows}


def everything(store: Store) -> tuple[object, ...]:
    with store.read() as connection:
        return tuple(
            tuple(connection.execute(select(table).order_by(*table.primary_key)).all())
            for table in (recipients, enrolments)
        )


Resolve = Callable[..., snapshot.Resolution]


def fill(crm: Crm, count: int) -> None:
    crm.write("DELETE FROM customers")
    crm.write(
        "INSERT INTO customers (customer_id, email, signed_up_at) WITH RECURSIVE n(i) AS "
        f"(SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) "
        "SELECT i, 'p' || i || '@person.example.com', '2026-11-20' FROM n"
    )


def set_run(store: Store, run_id: RunId, **values: object) -> None:
    with store.write() as connection:
        connection.execute(update(runs).where(runs.c.run_id == run_id).values(**values))
