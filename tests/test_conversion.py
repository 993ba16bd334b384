"""Conversions are copied for the run's people only, the same however often, and a failed gathering is on record."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, create_engine, event, insert, select, text
from sqlalchemy.engine import make_url

from commplan import conversion
from commplan.audience.source import CHUNK
from commplan.errors import InputError
from commplan.ids import RunId
from commplan.plan import Plan
from commplan.store import Store
from commplan.store.tables import bundles, conversions, gatherings, recipients, runs

NOON = datetime(2026, 12, 1, 2, 0, tzinfo=UTC)
ACTIVATED = {
    "sql": "select customer_id, activated_at from customers where activated_at is not null",
    "contact": "customer_id",
    "at": "activated_at",
}


def make_plan(zone: str | None = "Asia/Shanghai", **named: dict[str, str]) -> Plan:
    source = {"url": "env:CRM", "sql": "select * from customers"} | ({"zone": zone} if zone else {})
    return Plan.model_validate(
        {
            "plan": "onboarding",
            "title": "Welcome",
            "purpose": "service",
            "topic": "getting-started",
            "owner": "crm",
            "team": {"crm": {}},
            "goals": [{"id": "reach", "metric": "delivered_rate", "target": "at least 95%"}],
            "audience": {
                "people": "customers",
                "source": source,
                "contact": {"id": "customer_id", "email": "email"},
            },
            "conversions": named or {"activated": ACTIVATED},
            "sequence": [{"step": "welcome", "channel": "email", "content": "welcome"}],
        }
    )


@pytest.fixture
def crm(tmp_path: Path) -> Path:
    """A sample CRM of four customers, three of them activated."""
    path = tmp_path / "crm.sqlite"
    change(path, "CREATE TABLE customers (customer_id integer, email text, activated_at text)")
    for row in ("1, NULL, '2026-12-03 09:30:00'", "2, NULL, NULL", "3, NULL, '2026-12-04'", "4, NULL, '2026-12-05'"):
        change(path, f"INSERT INTO customers VALUES ({row})")
    return path


def change(path: Path, sql: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute(sql)
    connection.commit()
    connection.close()


@pytest.fixture
def run_id(store: Store) -> RunId:
    """A run about customers 1, 2 and 3."""
    return make_run(store, "1", ["1", "2", "3"])


def make_run(store: Store, occurrence: str, contact_ids: list[str]) -> RunId:
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
                state="executing",
                people="customers",
                created_at=NOON,
                clock="{}",
                placeholder="cp-",
            )
            .returning(runs.c.run_id)
        ).scalar_one()
        connection.execute(
            insert(recipients),
            [
                {"run_id": made, "seq": seq, "people": "customers", "contact_id": contact_id, "columns": "{}"}
                for seq, contact_id in enumerate(contact_ids, 1)
            ],
        )
        return RunId(made)


def gather(
    store: Store, run_id: RunId, crm: Path | str, plan: Plan | None = None, now: datetime = NOON
) -> dict[str, int]:
    url = crm if isinstance(crm, str) else f"sqlite:///{crm}"
    return conversion.gather(store, run_id=run_id, plan=plan or make_plan(), source_url=url, now=now)


def kept(store: Store, run_id: RunId) -> list[tuple[str, int, datetime]]:
    with store.read() as connection:
        rows = connection.execute(
            select(conversions.c.name, conversions.c.seq, conversions.c.at)
            .where(conversions.c.run_id == run_id)
            .order_by(*conversions.primary_key)
        )
        return [(row.name, row.seq, row.at) for row in rows]


def noted(store: Store, run_id: RunId) -> list[tuple[str, datetime, bool]]:
    with store.read() as connection:
        rows = connection.execute(
            select(gatherings).where(gatherings.c.run_id == run_id).order_by(*gatherings.primary_key)
        )
        return [(row.name, row.at, row.succeeded) for row in rows]


def test_conversions_of_the_run_s_people_are_kept_in_utc(store: Store, run_id: RunId, crm: Path) -> None:
    assert gather(store, run_id, crm) == {"activated": 2}
    assert kept(store, run_id) == [
        ("activated", 1, datetime(2026, 12, 3, 1, 30, tzinfo=UTC)),
        ("activated", 3, datetime(2026, 12, 3, 16, 0, tzinfo=UTC)),
    ]
    assert noted(store, run_id) == [("activated", NOON, True)]


def test_gathering_again_changes_nothing(store: Store, run_id: RunId, crm: Path) -> None:
    gather(store, run_id, crm)
    before = kept(store, run_id)
    assert gather(store, run_id, crm) == {"activated": 2}
    assert gather(store, run_id, crm, now=NOON + timedelta(hours=1)) == {"activated": 2}
    assert kept(store, run_id) == before
    assert [at for _, at, _ in noted(store, run_id)] == [NOON, NOON + timedelta(hours=1)]


def test_what_the_database_takes_back_is_taken_back(store: Store, run_id: RunId, crm: Path) -> None:
    other = make_run(store, "2", ["3"])
    gather(store, run_id, crm)
    gather(store, other, crm)
    change(crm, "UPDATE customers SET activated_at = NULL WHERE customer_id = 3")
    change(crm, "UPDATE customers SET activated_at = '2026-12-06 00:00:00' WHERE customer_id = 1")
    assert gather(store, run_id, crm) == {"activated": 1}
    assert kept(store, run_id) == [("activated", 1, datetime(2026, 12, 5, 16, 0, tzinfo=UTC))]
    assert [seq for _, seq, _ in kept(store, other)] == [1]


def test_an_older_gathering_that_ends_last_takes_nothing_back(store: Store, run_id: RunId, crm: Path) -> None:
    change(crm, "PRAGMA journal_mode=WAL")
    newer: list[dict[str, int]] = []

    def meanwhile(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("SELECT s.* FROM") and not newer:
            newer.append({})
            change(crm, "UPDATE customers SET activated_at = '2026-12-06' WHERE customer_id = 2")
            newer[0] = gather(store, run_id, crm)

    event.listen(Engine, "after_cursor_execute", meanwhile)
    try:
        gather(store, run_id, crm)
    finally:
        event.remove(Engine, "after_cursor_execute", meanwhile)
    assert newer == [{"activated": 3}]
    assert [seq for _, seq, _ in kept(store, run_id)] == [1, 2, 3]
    change(crm, "UPDATE customers SET activated_at = NULL WHERE customer_id = 2")
    assert gather(store, run_id, crm) == {"activated": 2}


def test_one_person_may_convert_at_several_times_and_twice_at_one_is_once(
    store: Store, run_id: RunId, crm: Path
) -> None:
    change(crm, "INSERT INTO customers VALUES (1, NULL, '2026-12-03 09:30:00'), (1, NULL, '2026-12-09 09:30:00')")
    assert gather(store, run_id, crm) == {"activated": 3}
    assert [seq for _, seq, _ in kept(store, run_id)] == [1, 1, 3]


def test_a_failure_is_on_record_and_keeps_what_was_known(store: Store, run_id: RunId, crm: Path) -> None:
    gather(store, run_id, crm)
    before = kept(store, run_id)
    later = NOON + timedelta(days=1)
    plan = make_plan(activated=ACTIVATED, bought=ACTIVATED | {"sql": "select * from orders"})
    with pytest.raises(InputError, match=r"onboarding: conversions\.bought\.sql: the database refused") as caught:
        gather(store, run_id, crm, plan, now=later)
    assert len(caught.value.findings) == 1
    assert kept(store, run_id) == before
    assert noted(store, run_id) == [("activated", NOON, True), ("activated", later, True), ("bought", later, False)]


def test_a_database_that_is_gone_fails_every_conversion(store: Store, run_id: RunId, tmp_path: Path) -> None:
    plan = make_plan(activated=ACTIVATED, again=ACTIVATED)
    with pytest.raises(InputError) as caught:
        gather(store, run_id, tmp_path / "nowhere.sqlite", plan)
    assert len(caught.value.findings) == 2
    assert {(name, succeeded) for name, _, succeeded in noted(store, run_id)} == {
        ("activated", False),
        ("again", False),
    }


def test_a_failure_and_a_success_at_one_moment_leave_the_last(store: Store, run_id: RunId, crm: Path) -> None:
    change(crm, "ALTER TABLE customers RENAME TO away")
    with pytest.raises(InputError):
        gather(store, run_id, crm)
    change(crm, "ALTER TABLE away RENAME TO customers")
    gather(store, run_id, crm)
    assert noted(store, run_id) == [("activated", NOON, True)]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"contact": "id"}, 'returns no column "id"; it returns customer_id, activated_at'),
        ({"at": "when"}, 'returns no column "when"'),
        ({"sql": "delete from customers"}, "not one SELECT"),
        ({"sql": "select customer_id, activated_at from customers where activated_at > :since"}, "uses :since"),
        ({"sql": "select customer_id, 'soon' as activated_at from customers"}, "a value that is not an ISO 8601 time"),
        ({"sql": "select customer_id, 17 as activated_at from customers"}, "a value that is not a time"),
    ],
)
def test_a_conversion_that_cannot_be_read_says_why(
    store: Store, run_id: RunId, crm: Path, changed: dict[str, str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        gather(store, run_id, crm, make_plan(activated=ACTIVATED | changed))
    assert noted(store, run_id) == [("activated", NOON, False)]
    assert kept(store, run_id) == []


def test_a_time_without_a_zone_is_refused_unless_the_plan_says_where_it_counts(
    store: Store, run_id: RunId, crm: Path
) -> None:
    with pytest.raises(InputError, match=r"a time without a zone; return times .* audience\.source\.zone"):
        gather(store, run_id, crm, make_plan(zone=None))
    change(crm, "UPDATE customers SET activated_at = '2026-12-03T09:30:00+08:00' WHERE activated_at IS NOT NULL")
    assert gather(store, run_id, crm, make_plan(zone=None)) == {"activated": 2}


def test_rows_without_a_person_or_a_time_are_no_conversions(store: Store, run_id: RunId, crm: Path) -> None:
    change(crm, "INSERT INTO customers VALUES (NULL, NULL, '2026-12-03'), ('', NULL, '2026-12-03')")
    everything = ACTIVATED | {"sql": "select * from customers"}
    assert gather(store, run_id, crm, make_plan(activated=everything)) == {"activated": 2}


def test_many_conversions_come_in_chunks(store: Store, crm: Path) -> None:
    many = CHUNK + 10
    run_id = make_run(store, "1", [str(number) for number in range(1, many + 1)])
    change(
        crm,
        "INSERT INTO customers (customer_id, activated_at) WITH RECURSIVE n(i) AS "
        f"(SELECT 5 UNION ALL SELECT i + 1 FROM n WHERE i < {2 * CHUNK}) SELECT i, '2026-12-03' FROM n",
    )
    assert gather(store, run_id, crm) == {"activated": many - 1}
    assert len(kept(store, run_id)) == many - 1


@pytest.fixture
def postgresql_crm(postgresql: str) -> Iterator[str]:
    server = make_url(postgresql).set(drivername="postgresql+psycopg")
    name = f"crm{uuid4().hex}"
    admin = create_engine(server, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    url = server.set(database=name)
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(
            text("CREATE TABLE customers (customer_id bigint, activated_at timestamp, paid_at timestamptz, born date)")
        )
        connection.execute(
            text("INSERT INTO customers VALUES (1, '2026-12-03 09:30', '2026-12-03 09:30+08', '2026-12-03')")
        )
    engine.dispose()
    yield url.render_as_string(hide_password=False)
    with admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


def test_every_kind_of_time_of_postgresql_is_understood(store: Store, run_id: RunId, postgresql_crm: str) -> None:
    named: dict[str, Any] = {
        column.replace("_", "-"): {"sql": "select * from customers", "contact": "customer_id", "at": column}
        for column in ("activated_at", "paid_at", "born")
    }
    assert gather(store, run_id, postgresql_crm, make_plan(**named)) == {"activated-at": 1, "paid-at": 1, "born": 1}
    assert kept(store, run_id) == [
        ("activated-at", 1, datetime(2026, 12, 3, 1, 30, tzinfo=UTC)),
        ("born", 1, datetime(2026, 12, 2, 16, 0, tzinfo=UTC)),
        ("paid-at", 1, datetime(2026, 12, 3, 1, 30, tzinfo=UTC)),
    ]
