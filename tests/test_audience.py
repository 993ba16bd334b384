"""The audience: read-only, counted to the last row, the same however often it is asked for, and kept up to date."""

from __future__ import annotations

import csv
import json
import logging
import re
import stat
import threading
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import phonenumbers
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from openpyxl import Workbook
from sqlalchemy import create_engine, insert, select, text, update
from sqlalchemy.dialects import registry
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

from commplan import contacts
from commplan.audience import refresh as refreshing
from commplan.audience import snapshot
from commplan.audience.address import read_email, read_phone, validated_email, validated_phone
from commplan.audience.database import KNOWN
from commplan.audience.evidence import read_evidence
from commplan.audience.person import Reader, read_consent, read_locale, read_zone
from commplan.audience.planning import SILENCE, Planning
from commplan.audience.snapshot import with_segment
from commplan.audience.source import CHUNK, Source, as_utc
from commplan.audience.statement import Statement
from commplan.errors import InputError, RunError
from commplan.ids import Keyring, RunId
from commplan.plan import ConsentRecord, ContactColumns, Plan
from commplan.store import Store
from commplan.store.tables import attempts, batches, bundles, enrolments, messages, recipients, runs
from commplan.terms import Reason

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

# --- the snapshot ---------------------------------------------------------------------------------------------------


def test_everyone_of_the_source_is_a_recipient_or_a_counted_reject(
    store: Store, crm: Crm, resolve: Resolve, tmp_path: Path
) -> None:
    told: list[int] = []
    run_id = new_run(store)
    found = resolve(run_id, crm, progress=told.append)
    assert (found.returned, found.audience) == (7, 5)
    assert found.rejected == {"no_id": 1, "repeated_id": 1}
    assert found.unreachable == {
        Reason.INVALID_EMAIL: 1,
        Reason.INVALID_PHONE: 1,
        Reason.NO_EMAIL: 1,
        Reason.NO_PHONE: 1,
    }
    assert found.unread == {"locale": 1, "timezone": 1, "consent.sms": 1}
    assert found.segments == {"vip": 2, "new": 3}
    assert found.excluded == {}
    assert told == [7]
    rows = people(store, run_id)
    assert {row.seq: contact for contact, row in rows.items()} == {1: "6", 2: "1", 3: "2", 4: "3", 5: "4"}
    rejects = tmp_path / "home" / "rejects" / f"onboarding@{run_id}.csv"
    assert rejects == snapshot.rejects_path(tmp_path / "home", f"onboarding@{run_id}")
    assert stat.S_IMODE(rejects.stat().st_mode) == 0o600
    assert rejects.read_text().splitlines() == [
        "row,contact id,reason,SANDBOX",
        "4,3,invalid_email invalid_phone,SANDBOX",
        "6,,no_id,SANDBOX",
        "7,2,repeated_id,SANDBOX",
    ]


def test_each_person_is_kept_in_one_normal_form(store: Store, crm: Crm, resolve: Resolve) -> None:
    run_id = new_run(store)
    resolve(run_id, crm)
    rows = people(store, run_id)
    ann, bob, cai = rows["1"], rows["3"], rows["4"]
    assert (ann.email, ann.phone, ann.country, ann.locale, ann.zone) == (
        "Ann.Lee@person.example.com",
        "+12025550123",
        "US",
        "en-GB",
        "Europe/London",
    )
    assert ann.email_key == store.keyring.address_key("email", "ann.lee@person.example.com")
    assert ann.phone_key == store.keyring.address_key("sms", "+12025550123")
    assert (ann.segment, ann.email_consent, ann.sms_consent) == ("vip", None, True)
    assert (bob.email, bob.email_key, bob.email_reason) == (None, None, Reason.INVALID_EMAIL)
    assert (bob.phone, bob.phone_key, bob.phone_reason) == (None, None, Reason.INVALID_PHONE)
    assert (bob.locale, bob.zone, bob.sms_consent, bob.segment) == (None, None, None, "new")
    assert (cai.email_reason, cai.phone, cai.country, cai.sms_consent) == (
        Reason.NO_EMAIL,
        "+12025550124",
        "US",
        False,
    )
    assert '"full_name":"李雷"' in rows["2"].columns
    assert "cp_segment" not in rows["2"].columns


def test_doing_it_again_gives_the_same_rows(store: Store, sqlite_crm: Crm, resolve: Resolve) -> None:
    run_id = new_run(store)
    first = resolve(run_id, sqlite_crm)
    rows = everything(store)
    assert resolve(run_id, sqlite_crm) == first
    assert everything(store) == rows


def test_what_an_earlier_attempt_left_half_done_is_replaced(store: Store, sqlite_crm: Crm, resolve: Resolve) -> None:
    run_id = new_run(store)
    with store.write() as connection:
        connection.execute(
            insert(recipients),
            [
                {"run_id": run_id, "seq": seq, "people": "customers", "contact_id": f"left {seq}", "columns": "{}"}
                for seq in range(1, 9)
            ],
        )
        connection.execute(
            insert(enrolments).values(
                plan="onboarding", people="customers", contact_id="left 1", run_id=run_id, state="reserved", at=NOON
            )
        )
    assert resolve(run_id, sqlite_crm).audience == 5
    assert set(people(store, run_id)) == {"1", "2", "3", "4", "6"}
    with store.read() as connection:
        assert set(connection.execute(select(enrolments.c.contact_id)).scalars()) == {"1", "2", "3", "4", "6"}


def test_an_error_half_way_leaves_nothing(store: Store, sqlite_crm: Crm, resolve: Resolve) -> None:
    sqlite_crm.write(
        "INSERT INTO customers (customer_id, signed_up_at) WITH RECURSIVE n(i) AS "
        f"(SELECT 100 UNION ALL SELECT i + 1 FROM n WHERE i < {100 + CHUNK}) SELECT i, '2026-11-20' FROM n"
    )
    run_id = new_run(store)
    with pytest.raises(InputError, match=f"returns more than {CHUNK + 2} rows"):
        resolve(run_id, sqlite_crm, make_plan(source={"row_limit": str(CHUNK + 2)}))
    assert everything(store) == ((), ())


def test_ids_are_told_apart_across_chunks(store: Store, sqlite_crm: Crm, resolve: Resolve) -> None:
    sqlite_crm.write("DELETE FROM customers")
    sqlite_crm.write(
        "INSERT INTO customers (customer_id, email, signed_up_at) WITH RECURSIVE n(i) AS "
        f"(SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {2 * CHUNK}) "
        f"SELECT i % {CHUNK + 1}, 'p' || i || '@person.example.com', '2026-11-20' FROM n"
    )
    told: list[int] = []
    plan = make_plan(source={"sql": "select * from customers"}, start=None)
    found = resolve(new_run(store), sqlite_crm, plan, progress=told.append)
    assert (found.returned, found.audience, found.rejected) == (2 * CHUNK + 1, CHUNK + 1, {"repeated_id": CHUNK})
    assert told == [CHUNK, 2 * CHUNK, 2 * CHUNK + 1]


def test_a_run_that_has_messages_keeps_its_audience(store: Store, sqlite_crm: Crm, resolve: Resolve) -> None:
    run_id = new_run(store)
    resolve(run_id, sqlite_crm)
    with store.write() as connection:
        connection.execute(insert(messages).values(run_id=run_id, step_no=1, seq=1, channel="email", state="excluded"))
    before = everything(store)
    with pytest.raises(RunError, match="cannot be resolved again"):
        resolve(run_id, sqlite_crm)
    assert everything(store) == before


def test_an_audience_of_nobody_is_an_audience(store: Store, crm: Crm, resolve: Resolve) -> None:
    crm.write("DELETE FROM customers")
    found = resolve(new_run(store), crm)
    assert (found.returned, found.audience, found.segments) == (0, 0, {})


def test_nothing_of_a_person_is_logged_or_told(
    store: Store, crm: Crm, resolve: Resolve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    found = resolve(new_run(store), crm)
    for secret in ("person.example.com", "202555", "Ann", "李雷"):
        assert secret not in caplog.text.replace("sqlite:///", "") + repr(found)


# --- two at once ----------------------------------------------------------------------------------------------------


def fill(crm: Crm, count: int) -> None:
    crm.write("DELETE FROM customers")
    crm.write(
        "INSERT INTO customers (customer_id, email, signed_up_at) WITH RECURSIVE n(i) AS "
        f"(SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) "
        "SELECT i, 'p' || i || '@person.example.com', '2026-11-20' FROM n"
    )


@pytest.mark.parametrize("of_the_same_run", [True, False], ids=["the same run", "another run of the plan"])
def test_a_stalled_process_writes_nothing_and_removes_nothing_once_another_has_taken_over(
    store: Store, sqlite_crm: Crm, resolve: Resolve, of_the_same_run: bool
) -> None:
    fill(sqlite_crm, 2 * CHUNK + 1)
    first = new_run(store, "1")
    second = first if of_the_same_run else new_run(store, "2")
    found: list[snapshot.Resolution] = []

    def stall(rows: int) -> None:
        if rows == CHUNK:
            found.append(resolve(second, sqlite_crm, progress=lambda rows: None))

    with pytest.raises(RunError, match="another process has taken over"):
        resolve(first, sqlite_crm, progress=stall)
    assert [(one.audience, dict(one.excluded)) for one in found] == [(2 * CHUNK + 1, {})]
    assert len(people(store, second)) == 2 * CHUNK + 1
    with store.read() as connection:
        assert Planning.of_complete(connection, second)[1] == 2 * CHUNK + 1
        assert set(connection.execute(select(enrolments.c.run_id)).scalars()) == {second}


def test_a_stalled_process_that_wakes_in_the_middle_of_the_other_s_work_leaves_it_alone(
    store: Store, sqlite_crm: Crm, resolve: Resolve
) -> None:
    fill(sqlite_crm, 2 * CHUNK + 1)
    run_id, asleep, wake, gone = new_run(store), threading.Event(), threading.Event(), threading.Event()
    errors: list[BaseException] = []

    def stall(rows: int) -> None:
        if rows == CHUNK:
            asleep.set()
            assert wake.wait(60)

    def stalled() -> None:
        try:
            resolve(run_id, sqlite_crm, progress=stall)
        except BaseException as error:
            errors.append(error)
        gone.set()

    thread = threading.Thread(target=stalled)
    thread.start()
    assert asleep.wait(60)

    def half_way(rows: int) -> None:
        if rows == 2 * CHUNK:
            wake.set()
            assert gone.wait(60)

    assert resolve(run_id, sqlite_crm, progress=half_way).audience == 2 * CHUNK + 1
    thread.join()
    assert [type(error) for error in errors] == [RunError]
    assert len(people(store, run_id)) == 2 * CHUNK + 1


def test_who_was_taken_over_from_does_not_blame_the_audience(store: Store, sqlite_crm: Crm, resolve: Resolve) -> None:
    fill(sqlite_crm, CHUNK + 1)
    run_id = new_run(store)
    narrow = make_plan(source={"row_limit": str(CHUNK)})

    def stall(rows: int) -> None:
        resolve(run_id, sqlite_crm)

    # An InputError would make the caller discard the run, which is the other's by now.
    with pytest.raises(RunError, match="another process has taken over"):
        resolve(run_id, sqlite_crm, narrow, progress=stall)
    assert len(people(store, run_id)) == CHUNK + 1


def test_a_run_that_may_send_is_not_resolved_again(store: Store, sqlite_crm: Crm, resolve: Resolve) -> None:
    run_id = new_run(store)
    resolve(run_id, sqlite_crm)
    set_run(store, run_id, state="executing")
    before = everything(store)
    with pytest.raises(RunError, match="planned already"):
        resolve(run_id, sqlite_crm)
    assert everything(store) == before


# --- enrolment ------------------------------------------------------------------------------------------------------


def test_once_means_once_whichever_run_comes_second(store: Store, sqlite_crm: Crm, resolve: Resolve) -> None:
    first, second = new_run(store, "1"), new_run(store, "2")
    assert resolve(first, sqlite_crm).excluded == {}
    sqlite_crm.add((9, "New", "new@person.example.com", None, None, None, "2026-11-30 10:00:00", 0, None))
    assert resolve(second, sqlite_crm).excluded == {Reason.ALREADY_ENROLLED: 5}
    assert [c for c, row in people(store, second).items() if row.excluded is None] == ["9"]
    assert resolve(first, sqlite_crm).excluded == {Reason.ALREADY_ENROLLED: 1}


@pytest.mark.parametrize("state", ["finished", "cancelled"])
def test_places_that_a_run_which_is_over_did_not_give_back_are_taken_over(
    store: Store, sqlite_crm: Crm, resolve: Resolve, state: str
) -> None:
    first, second = new_run(store, "1"), new_run(store, "2")
    resolve(first, sqlite_crm)
    send(store, first, "2", "unknown", wire_at=NOON)
    with store.write() as connection:
        connection.execute(update(enrolments).where(enrolments.c.contact_id == "1").values(state="kept"))
        connection.execute(update(runs).where(runs.c.run_id == first).values(state=state, finished_at=NOON))
    assert resolve(second, sqlite_crm).excluded == {Reason.ALREADY_ENROLLED: 2}
    assert {c for c, row in people(store, second).items() if row.excluded is not None} == {"1", "2"}


def test_a_run_that_may_still_send_keeps_its_places(store: Store, sqlite_crm: Crm, resolve: Resolve) -> None:
    first, second = new_run(store, "1"), new_run(store, "2")
    resolve(first, sqlite_crm)
    for state in ("executing", "held"):
        set_run(store, first, state=state, alive_machine=0.0)
        assert resolve(second, sqlite_crm).excluded == {Reason.ALREADY_ENROLLED: 5}


def test_a_planned_run_that_fell_silent_loses_its_places_and_must_be_planned_again(
    store: Store, sqlite_crm: Crm, resolve: Resolve
) -> None:
    first, second = new_run(store, "1"), new_run(store, "2")
    resolve(first, sqlite_crm)
    assert resolve(second, sqlite_crm).excluded == {Reason.ALREADY_ENROLLED: 5}
    set_run(store, first, alive_machine=time.time() - SILENCE - 60)
    assert resolve(second, sqlite_crm).excluded == {}
    with store.read() as connection, pytest.raises(RunError, match="not complete; start the run again"):
        Planning.of_complete(connection, first)
    assert resolve(first, sqlite_crm).excluded == {Reason.ALREADY_ENROLLED: 5}
    assert resolve(second, sqlite_crm).excluded == {}


def test_what_a_dead_planning_had_reserved_is_free_at_once(store: Store, sqlite_crm: Crm, resolve: Resolve) -> None:
    first, second = new_run(store, "1"), new_run(store, "2")
    resolve(first, sqlite_crm)
    # Killed in the middle of enrolment: everybody is reserved, and the snapshot was never complete.
    set_run(store, first, audience_size=None)
    assert resolve(second, sqlite_crm).excluded == {}


def test_unknown_messages_of_a_finished_run_hold_a_place_for_the_duration_only(
    store: Store, sqlite_crm: Crm, resolve: Resolve
) -> None:
    first, second, plan = new_run(store, "1"), new_run(store, "2"), make_plan(enroll="P90D")
    resolve(first, sqlite_crm, plan)
    for contact in people(store, first):
        send(store, first, contact, "unknown", wire_at=NOON - timedelta(days=89))
    set_run(store, first, state="finished", finished_at=NOON)
    with store.write() as connection:
        for contact, age in (("1", 90), ("2", 89)):
            connection.execute(
                update(enrolments).where(enrolments.c.contact_id == contact).values(at=NOON - timedelta(days=age))
            )
    assert resolve(second, sqlite_crm, plan).excluded == {Reason.ALREADY_ENROLLED: 4}
    assert people(store, second)["1"].excluded is None


def test_a_place_this_run_has_kept_is_still_its_own(store: Store, sqlite_crm: Crm, resolve: Resolve) -> None:
    run_id = new_run(store)
    resolve(run_id, sqlite_crm)
    with store.write() as connection:
        connection.execute(update(enrolments).values(state="kept"))
    assert resolve(run_id, sqlite_crm).excluded == {}


def test_once_in_a_duration_takes_over_what_was_kept_longer_ago(
    store: Store, sqlite_crm: Crm, resolve: Resolve
) -> None:
    first, second = new_run(store, "1"), new_run(store, "2")
    plan = make_plan(enroll="P90D")
    resolve(first, sqlite_crm, plan)
    with store.write() as connection:
        for contact, state, age in (("1", "kept", 91), ("2", "kept", 90), ("3", "kept", 89), ("4", "reserved", 91)):
            connection.execute(
                update(enrolments)
                .where(enrolments.c.contact_id == contact)
                .values(state=state, at=NOON - timedelta(days=age))
            )
    found = resolve(second, sqlite_crm, plan)
    assert found.excluded == {Reason.ALREADY_ENROLLED: 3}
    assert {c for c, row in people(store, second).items() if row.excluded is None} == {"1", "2"}
    assert resolve(second, sqlite_crm, plan) == found


def send(store: Store, run_id: RunId, contact: str, state: str, *, step_no: int = 1, **values: Any) -> None:
    """Write the message that a run has for a contact; with `wire_at`, and the attempt that carried it."""
    wire_at = values.pop("wire_at", None)
    attempt = None if wire_at is None else uuid4().hex
    with store.write() as connection:
        where = (recipients.c.run_id == run_id) & (recipients.c.contact_id == contact)
        seq = connection.execute(select(recipients.c.seq).where(where)).scalar_one()
        batch = connection.execute(
            insert(batches)
            .values(run_id=run_id, step_no=step_no, worker="w", claimed=1, lease_machine=0.0)
            .returning(batches.c.batch_id)
        ).scalar_one()
        if attempt is not None:
            connection.execute(
                insert(attempts).values(
                    attempt_id=attempt,
                    batch_id=batch,
                    run_id=run_id,
                    step_no=step_no,
                    channel="email",
                    messages=1,
                    wire_at=wire_at,
                    wire_machine=0.0,
                    outcome="unknown",
                )
            )
        connection.execute(
            insert(messages).values(
                run_id=run_id,
                step_no=step_no,
                seq=seq,
                channel="email",
                state=state,
                address_key=f"key of {contact}",
                batch_id=batch,
                attempt_id=attempt,
                **values,
            )
        )


def set_run(store: Store, run_id: RunId, **values: object) -> None:
    with store.write() as connection:
        connection.execute(update(runs).where(runs.c.run_id == run_id).values(**values))


HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("before", "recent"),
    [
        (("executing", {"state": "delivered", "wire_at": NOON - 23 * HOUR, "accepted_at": NOON - 23 * HOUR}), True),
        (("executing", {"state": "delivered", "wire_at": NOON - 25 * HOUR, "accepted_at": NOON - 25 * HOUR}), False),
        (("executing", {"state": "queued", "due_at": NOON + HOUR, "not_after": NOON + 25 * HOUR}), True),
        (("executing", {"state": "queued", "due_at": NOON - 30 * HOUR, "not_after": NOON - HOUR}), False),
        (("executing", {"state": "claimed", "due_at": NOON - HOUR, "not_after": NOON + HOUR}), True),
        (("executing", {"state": "sending", "wire_at": NOON}), True),
        (("executing", {"state": "unknown", "wire_at": NOON - 23 * HOUR}), True),
        (("executing", {"state": "unknown", "wire_at": NOON - 25 * HOUR}), False),
        (("executing", {"state": "cancelled"}), False),
        (("executing", {"state": "expired"}), False),
        (("executing", {"state": "failed"}), False),
        (("held", {"state": "queued", "due_at": NOON, "not_after": NOON + 24 * HOUR}), True),
        (("finished", {"state": "accepted", "wire_at": NOON - HOUR, "accepted_at": NOON - HOUR}), True),
        (("finished", {"state": "unknown", "wire_at": NOON - HOUR}), True),
        (("cancelled", {"state": "queued", "due_at": NOON, "not_after": NOON + HOUR}), False),
    ],
)
def test_every_run_leaves_out_whom_another_run_has_just_begun_with_or_is_about_to(
    store: Store, sqlite_crm: Crm, resolve: Resolve, before: tuple[str, dict[str, Any]], recent: bool
) -> None:
    run_state, message = before
    plan = make_plan(enroll="every_run")
    first = new_run(store, "1")
    resolve(first, sqlite_crm, plan)
    send(store, first, "1", **message)
    set_run(store, first, state=run_state, finished_at=NOON - HOUR / 2)
    second = new_run(store, "2")
    assert resolve(second, sqlite_crm, plan).excluded == ({Reason.RECENTLY_SENT: 1} if recent else {})
    assert people(store, second)["1"].excluded == (Reason.RECENTLY_SENT if recent else None)
    with store.read() as connection:
        assert connection.execute(select(enrolments)).all() == []


def test_the_gap_of_every_run_is_the_plan_s(store: Store, sqlite_crm: Crm, resolve: Resolve) -> None:
    first = new_run(store, "1")
    resolve(first, sqlite_crm, make_plan(enroll="every_run"))
    send(store, first, "1", "delivered", wire_at=NOON - 25 * HOUR, accepted_at=NOON - 25 * HOUR)
    set_run(store, first, state="executing")
    wide = make_plan(enroll="every_run", min_gap="P2D")
    assert resolve(new_run(store, "2"), sqlite_crm, wide).excluded == {Reason.RECENTLY_SENT: 1}


def test_who_got_the_last_step_of_an_earlier_run_an_hour_ago_may_begin_the_next(
    store: Store, sqlite_crm: Crm, resolve: Resolve
) -> None:
    plan = make_plan(enroll="every_run")
    first = new_run(store, "1")
    resolve(first, sqlite_crm, plan)
    week_ago = NOON - timedelta(days=7)
    send(store, first, "1", "delivered", wire_at=week_ago, accepted_at=week_ago)
    send(store, first, "1", "delivered", step_no=2, wire_at=NOON - HOUR, accepted_at=NOON - HOUR)
    set_run(store, first, state="executing")
    assert resolve(new_run(store, "2"), sqlite_crm, plan).excluded == {}


def test_every_run_leaves_out_whom_a_run_that_is_being_rendered_will_write_to_unless_it_fell_silent(
    store: Store, sqlite_crm: Crm, resolve: Resolve
) -> None:
    plan = make_plan(enroll="every_run")
    first, second = new_run(store, "1"), new_run(store, "2")
    resolve(first, sqlite_crm, plan)
    assert resolve(second, sqlite_crm, plan).excluded == {Reason.RECENTLY_SENT: 5}
    set_run(store, first, alive_machine=time.time() - SILENCE - 60)
    assert resolve(second, sqlite_crm, plan).excluded == {}


def test_customer_17_is_not_employee_17(store: Store, sqlite_crm: Crm, resolve: Resolve) -> None:
    resolve(new_run(store, "1"), sqlite_crm)
    assert resolve(new_run(store, "2"), sqlite_crm, make_plan(people="employees")).excluded == {}


# --- the refresh ----------------------------------------------------------------------------------------------------


def test_nothing_changes_while_the_source_is_the_same(store: Store, crm: Crm, resolve: Resolve) -> None:
    run_id = new_run(store)
    resolve(run_id, crm)
    before = everything(store)
    assert refresh(store, run_id, crm) == refreshing.Refreshed(present=5, left=0, returned=0, changed=0)
    assert everything(store) == before


def test_who_is_gone_has_left_and_may_come_back(store: Store, crm: Crm, resolve: Resolve) -> None:
    run_id = new_run(store)
    resolve(run_id, crm)
    crm.write("UPDATE customers SET signed_up_at = '2026-01-01' WHERE customer_id = 1")
    found = refresh(store, run_id, crm, NOON + timedelta(days=2))
    assert found == refreshing.Refreshed(present=4, left=1, returned=0, changed=0)
    assert people(store, run_id)["1"].left_at == NOON + timedelta(days=2)
    assert refresh(store, run_id, crm, NOON + timedelta(days=3)).left == 0
    assert people(store, run_id)["1"].left_at == NOON + timedelta(days=2)
    crm.write("UPDATE customers SET signed_up_at = '2026-11-20' WHERE customer_id = 1")
    assert refresh(store, run_id, crm).returned == 1
    assert people(store, run_id)["1"].left_at is None


def test_a_new_address_or_consent_is_taken_over_and_frozen_text_is_not(
    store: Store, crm: Crm, resolve: Resolve
) -> None:
    run_id = new_run(store)
    resolve(run_id, crm)
    before = people(store, run_id)
    crm.write("UPDATE customers SET email = 'moved@person.example.com', full_name = 'X' WHERE customer_id = 1")
    crm.write("UPDATE customers SET mobile = 'none', sms_opt_in = 'no', lang = 'en' WHERE email LIKE 'lilei%'")
    crm.add((10, "Late", "late@person.example.com", None, None, None, "2026-11-30 10:00:00", 0, None))
    assert refresh(store, run_id, crm).changed == 2
    after = people(store, run_id)
    assert set(after) == set(before)
    assert (after["1"].email, after["1"].email_key) == (
        "moved@person.example.com",
        store.keyring.address_key("email", "moved@person.example.com"),
    )
    assert (after["2"].phone, after["2"].phone_key, after["2"].phone_reason) == (None, None, Reason.INVALID_PHONE)
    assert (after["2"].sms_consent, after["2"].country) == (False, None)
    for contact in ("1", "2"):
        assert (after[contact].columns, after[contact].locale, after[contact].segment, after[contact].seq) == (
            before[contact].columns,
            before[contact].locale,
            before[contact].segment,
            before[contact].seq,
        )


def test_a_source_that_breaks_marks_nobody_as_gone(store: Store, crm: Crm, resolve: Resolve) -> None:
    run_id = new_run(store)
    resolve(run_id, crm)
    before = everything(store)
    crm.write("DROP TABLE customers")
    with pytest.raises(InputError, match=r"onboarding: audience\.source\.sql: the database refused the query"):
        refresh(store, run_id, crm)
    assert everything(store) == before


def test_a_half_reloaded_source_marks_nobody_as_gone(store: Store, sqlite_crm: Crm, resolve: Resolve) -> None:
    fill(sqlite_crm, 25)
    run_id = new_run(store)
    resolve(run_id, sqlite_crm)
    before = everything(store)
    sqlite_crm.write("UPDATE customers SET signed_up_at = '2026-01-01' WHERE customer_id <= 6")
    with pytest.raises(InputError, match=r"lacks 6 of the 25 people .* being reloaded; .* raise COMMPLAN_MAX_LEAVING"):
        refresh(store, run_id, sqlite_crm)
    assert everything(store) == before
    assert refresh(store, run_id, sqlite_crm, max_leaving=0.24).left == 6


def test_as_many_as_a_fifth_may_leave_at_a_time_and_again(store: Store, sqlite_crm: Crm, resolve: Resolve) -> None:
    fill(sqlite_crm, 25)
    run_id = new_run(store)
    resolve(run_id, sqlite_crm)
    sqlite_crm.write("UPDATE customers SET signed_up_at = '2026-01-01' WHERE customer_id <= 5")
    assert refresh(store, run_id, sqlite_crm).left == 5
    # Four more are a fifth of the twenty who were still there.
    sqlite_crm.write("UPDATE customers SET signed_up_at = '2026-01-01' WHERE customer_id <= 9")
    assert refresh(store, run_id, sqlite_crm).left == 4
    sqlite_crm.write("UPDATE customers SET signed_up_at = '2026-01-01' WHERE customer_id <= 14")
    with pytest.raises(InputError, match="lacks 5 of the 16 people"):
        refresh(store, run_id, sqlite_crm)


def test_a_few_people_may_all_but_leave(store: Store, sqlite_crm: Crm, resolve: Resolve) -> None:
    fill(sqlite_crm, 5)
    run_id = new_run(store)
    resolve(run_id, sqlite_crm)
    sqlite_crm.write("UPDATE customers SET signed_up_at = '2026-01-01' WHERE customer_id <= 4")
    assert refresh(store, run_id, sqlite_crm).left == 4
    sqlite_crm.write("UPDATE customers SET signed_up_at = '2026-01-01'")
    with pytest.raises(InputError, match="lacks 1 of the 1 people"):
        refresh(store, run_id, sqlite_crm)


# --- the source -----------------------------------------------------------------------------------------------------


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


# --- the plan against the source ------------------------------------------------------------------------------------


def test_every_column_the_plan_names_and_the_source_lacks_is_named(
    store: Store, sqlite_crm: Crm, resolve: Resolve
) -> None:
    plan = make_plan(contact={"id": "kundennummer", "email": "mail", "phone": "mobile"})
    with pytest.raises(InputError) as caught:
        resolve(new_run(store), sqlite_crm, plan)
    assert [finding.field for finding in caught.value.findings] == ["audience.contact.id", "audience.contact.email"]
    assert "it returns customer_id, full_name, email" in str(caught.value)


def test_a_bad_segment_stops_the_run_before_anything_is_written(
    store: Store, sqlite_crm: Crm, resolve: Resolve
) -> None:
    plan = make_plan(segments=[{"name": "vip", "if": "lifetime_vale > 1"}])
    with pytest.raises(InputError, match="did you mean lifetime_value"):
        resolve(new_run(store), sqlite_crm, plan)
    assert everything(store) == ((), ())


def test_columns_that_no_text_can_hold_are_named(store: Store, sqlite_crm: Crm, resolve: Resolve) -> None:
    plan = make_plan(source={"sql": "select *, x'00ff' as photo from customers"}, start=None)
    with pytest.raises(InputError, match=r"column 'photo' holds values that cannot stand in a text \(bytes\)"):
        resolve(new_run(store), sqlite_crm, plan)
    assert everything(store) == ((), ())


def test_imported_contacts_are_an_audience_too(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "people.csv"
    file.write_text("id,email,value\n1,a@person.example.com,500\n2,b@person.example.com,1500\n", encoding="utf-8")
    contacts.import_file(file, people="customers", home=tmp_path / "home")
    plan = make_plan(
        steps="email",
        source={"contacts": "customers", "url": None, "sql": None},
        contact={"id": "id", "email": "email"},
        segments=[{"name": "vip", "if": "value >= 1000"}],
        start=None,
    )
    run_id = new_run(store)
    found = snapshot.resolve(
        store,
        run_id=run_id,
        plan=plan,
        since=None,
        source_url=contacts.source_url(tmp_path / "home"),
        default_region="US",
        now=NOON,
        home=tmp_path / "home",
        run_key="onboarding@1",
    )
    assert found.segments == {None: 1, "vip": 1}
    assert people(store, run_id)["2"].columns == '{"id":2,"email":"b@person.example.com","value":1500}'


# --- one person -----------------------------------------------------------------------------------------------------

_READER = Reader(
    ("id", "x"), ContactColumns.model_validate({"id": "id"}), default_region="US", keyring=Keyring("k"), place="p"
)


_AGREED = ConsentRecord(given="may_text", source="form", text="words", at="agreed")


@pytest.mark.parametrize(
    ("value", "at"),
    [
        ("2026-01-05 09:30", datetime(2026, 1, 5, 9, 30)),
        ("2026-01-05T01:30:00Z", datetime(2026, 1, 5, 9, 30)),
        ("2026-01-05T01:30:00+00:00", datetime(2026, 1, 5, 9, 30)),
        ("2026-01-05", datetime(2026, 1, 5)),
        ("05/01/2026", None),
        ("0001-01-01", None),
        (1767576600, None),
        (None, None),
        ("", None),
    ],
)
def test_the_time_of_a_consent_is_read_in_the_plans_zone_or_said_to_be_unreadable(value: object, at: Any) -> None:
    columns = {"may_text": "yes", "form": " web form ", "words": "", "agreed": value}
    found = read_evidence(_AGREED, columns, ZoneInfo("Asia/Shanghai"))
    assert (found.given, found.source, found.text) == (True, "web form", None)
    assert (found.at and found.at.replace(tzinfo=None)) == at
    assert found.unread == (str(value) if value and at is None else None)


def test_a_time_of_consent_that_cannot_be_read_is_counted_and_leaves_the_consent_as_it_is() -> None:
    mapping = ContactColumns.model_validate({"id": "id", "consent": {"sms": {"given": "may_text", "at": "agreed"}}})
    reader = Reader(("id", "may_text", "agreed"), mapping, default_region="US", keyring=Keyring("k"), place="p")

    def read(*row: object) -> tuple[bool | None, tuple[str, ...]]:
        person = reader.read(row, "1")
        return person.sms_consent, person.unread

    assert read("1", "yes", "2026-01-05") == (True, ())
    assert read("1", "yes", date(2026, 1, 5)) == (True, ())
    assert read("1", "yes", datetime(2026, 1, 5, tzinfo=UTC)) == (True, ())
    assert read("1", "yes", None) == (True, ())
    assert read("1", "yes", "some time in May") == (True, ("consent.sms.at",))
    assert read("1", "perhaps", "x") == (None, ("consent.sms.at", "consent.sms.given"))


def test_every_column_of_the_evidence_must_be_there() -> None:
    record = {"given": "may_text", "source": "frm", "text": "words", "at": "agreed"}
    mapping = ContactColumns.model_validate({"id": "id", "consent": {"email": "may_mail", "sms": record}})
    with pytest.raises(InputError) as caught:
        Reader(("id", "form", "agreed"), mapping, default_region="US", keyring=Keyring("k"), place="p")
    assert [(finding.field.removeprefix("audience.contact."), finding.remedy) for finding in caught.value.findings] == [
        ("consent.email", "it returns id, form, agreed"),
        ("consent.sms.given", "it returns id, form, agreed"),
        ("consent.sms.source", "did you mean form?"),
        ("consent.sms.text", "it returns id, form, agreed"),
    ]


@pytest.mark.parametrize("kind", ["csv", "xlsx"])
def test_an_imported_file_brings_the_evidence_of_a_consent_along(
    store: Store, sqlite_crm: Crm, resolve: Resolve, tmp_path: Path, kind: str
) -> None:
    rows: list[list[Any]] = [["id", "mobile", "may_text", "form", "words", "agreed"]]
    if kind == "csv":
        file = tmp_path / "people.csv"
        rows.append(["1", "+12025550123", "yes", "web form", "Yes, text me", "2026-01-05 09:30:00"])
        with file.open("w", encoding="utf-8", newline="") as handle:
            csv.writer(handle).writerows(rows)
    else:
        file = tmp_path / "people.xlsx"
        rows.append([1, "+12025550123", True, "web form", "Yes, text me", datetime(2026, 1, 5, 9, 30)])
        book = Workbook()
        for row in rows:
            book.worksheets[0].append(row)
        book.save(file)
    contacts.import_file(file, people="customers", home=tmp_path / "home")
    record = {"given": "may_text", "source": "form", "text": "words", "at": "agreed"}
    plan = make_plan(
        steps="sms",
        source={"contacts": "customers", "url": None, "sql": None},
        contact={"id": "id", "phone": "mobile", "consent": {"sms": record}},
        segments=[],
    )
    run_id = new_run(store)
    found = resolve(run_id, sqlite_crm, plan, source_url=contacts.source_url(tmp_path / "home"))
    assert (found.audience, found.unread) == (1, {})
    row = people(store, run_id)["1"]
    assert row.sms_consent is True
    evidence = read_evidence(ConsentRecord.model_validate(record), json.loads(row.columns), ZoneInfo("Asia/Shanghai"))
    assert (evidence.source, evidence.text) == ("web form", "Yes, text me")
    assert evidence.at == datetime(2026, 1, 5, 9, 30, tzinfo=ZoneInfo("Asia/Shanghai"))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (17, "17"),
        (17.0, "17"),
        (" A-17 ", "A-17"),
        (UUID(int=1), str(UUID(int=1))),
        (Decimal(17), "17"),
        (None, None),
        ("", None),
        ("  ", None),
        ("x" * 200, "x" * 200),
        ("x" * 201, None),
        ("a\x00b", None),
        ("a\nb", None),
        (b"17", None),
        (True, None),
    ],
)
def test_an_id_is_short_printable_text_or_none(value: object, expected: str | None) -> None:
    assert _READER.contact_id([value, None]) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "null"),
        (1, "1"),
        (1.5, "1.5"),
        (float("nan"), "null"),
        (True, "true"),
        ('a"李\x00', '"a\\"李\\u0000"'),
        (Decimal("12.30"), '"12.30"'),
        (date(2026, 12, 1), '"2026-12-01"'),
        (datetime(2026, 12, 1, 9, 30), '"2026-12-01T09:30:00"'),
        (timedelta(days=2), '"P2D"'),
        (UUID(int=1), f'"{UUID(int=1)}"'),
        (["a", {"b": Decimal(1)}], '["a",{"b":"1"}]'),
    ],
)
def test_columns_are_kept_as_json(value: object, expected: str) -> None:
    assert _READER.as_json([7, value]) == f'{{"id":7,"x":{expected}}}'


def test_a_list_that_holds_no_number_where_one_should_be_is_refused() -> None:
    with pytest.raises(InputError, match="cannot stand in a text"):
        _READER.as_json([7, [1.0, float("nan")]])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((word, True) for word in (1, "1", True, "TRUE", " yes ", "Y", "是")),
        *((word, True) for word in (date(2026, 1, 1), "2026-01-01", "2026-01-01 10:00:00")),
        *((word, False) for word in (0, "0", False, "False", "no", "N", "否")),
        *((word, None) for word in ("maybe", 2, "20260101", "x", "unknown")),
    ],
)
def test_consent_is_yes_no_or_unknown(value: object, expected: bool | None) -> None:
    assert read_consent(value) is expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("zh_cn", "zh-CN"),
        ("ZH-hans-cn", "zh-Hans-CN"),
        ("en", "en"),
        ("en_US.UTF-8", "en-US"),
        ("es-419", "es-419"),
        ("English", None),
        ("e", None),
        ("zh CN", None),
    ],
)
def test_a_locale_has_one_spelling(value: str, expected: str | None) -> None:
    assert read_locale(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [("Asia/Shanghai", "Asia/Shanghai"), (" UTC ", "UTC"), ("America", None), ("../etc/passwd", None), ("CST-8", None)],
)
def test_a_zone_is_one_of_the_iana_list(value: str, expected: str | None) -> None:
    assert read_zone(value) == expected


@pytest.mark.parametrize(
    ("value", "zone", "expected"),
    [
        ("2026-12-01 09:30:00", "Asia/Shanghai", datetime(2026, 12, 1, 1, 30, tzinfo=UTC)),
        ("2026-12-01T09:30:00+01:00", None, datetime(2026, 12, 1, 8, 30, tzinfo=UTC)),
        (datetime(2026, 12, 1, 9, 30), "Asia/Shanghai", datetime(2026, 12, 1, 1, 30, tzinfo=UTC)),
        (date(2026, 12, 1), "Asia/Shanghai", datetime(2026, 11, 30, 16, 0, tzinfo=UTC)),
    ],
)
def test_times_of_a_source_become_utc(value: object, zone: str | None, expected: datetime) -> None:
    assert as_utc(value, zone and ZoneInfo(zone)) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["yesterday", 1733000000, "2026-12-01 09:30:00", datetime(2026, 12, 1).time()])
def test_a_time_that_means_nothing_certain_is_refused_without_quoting_it(value: object) -> None:
    with pytest.raises(ValueError, match="a ") as caught:
        as_utc(value, None)
    assert str(value) not in str(caught.value)


_LOCAL = st.text(alphabet="abzAZ09._+-'\" @(é李", min_size=0, max_size=70)
_DOMAIN = st.sampled_from(
    ["person.example.com", "Person.EXAMPLE.com", "例え.jp", "xn--r8jz45g.jp", "localhost", "a..b", "x.test", "-a.c"]
) | st.text(alphabet="abA1-._李", max_size=70)


@hypothesis_settings(max_examples=600, deadline=None)
@given(_LOCAL, _DOMAIN)
def test_the_quick_verdict_on_an_email_is_the_library_s(local: str, domain: str) -> None:
    address = f"{local}@{domain}".strip()
    assert read_email(address) == validated_email(address)


@st.composite
def _numbers(draw: st.DrawFn) -> str:
    region = draw(st.sampled_from(sorted(phonenumbers.SUPPORTED_REGIONS)))
    kind = draw(st.sampled_from([0, 1, 2, 3, 4, 6]))
    example = phonenumbers.example_number_for_type(region, kind) or phonenumbers.parse("+12025550123")
    digits = list(phonenumbers.format_number(example, draw(st.sampled_from([0, 0, 1, 2]))))
    for _ in range(draw(st.integers(0, 3))):
        digits[draw(st.integers(0, len(digits) - 1))] = draw(st.sampled_from("0123456789 -+"))
    return "".join(digits)


@hypothesis_settings(max_examples=1500, deadline=None)
@given(_numbers(), st.sampled_from(["US", "CN", "GB", "IT"]))
def test_the_quick_verdict_on_a_number_is_the_library_s(number: str, region: str) -> None:
    assert read_phone(number, region) == validated_phone(number, region)


@pytest.mark.parametrize(
    ("text_", "region", "expected"),
    [
        ("+8613800138000", "US", ("+8613800138000", "CN")),
        ("13800138000", "CN", ("+8613800138000", "CN")),
        ("(202) 555-0123", "US", ("+12025550123", "US")),
        ("+800 1234 5678", "US", ("+80012345678", None)),
        ("+12025550123 ext. 7", "US", None),
        ("+15551234567", "US", None),
        ("110", "CN", None),
        ("hello", "US", None),
        ("+" + "1" * 300, "US", None),
    ],
)
def test_a_number_is_e164_with_its_country_or_nothing(
    text_: str, region: str, expected: tuple[str, str | None] | None
) -> None:
    assert read_phone(text_, region) == expected


def test_a_person_s_repr_shows_no_address() -> None:
    reader = Reader(
        ("id", "email", "mobile"),
        ContactColumns.model_validate({"id": "id", "email": "email", "phone": "mobile"}),
        default_region="US",
        keyring=Keyring("k"),
        place="p",
    )
    shown = repr(reader.read([1, "ann@person.example.com", "+12025550123"], "1"))
    assert "ann" not in shown
    assert "2025550123" not in shown


def test_the_source_is_opened_read_only_and_left_as_it_was(sqlite_crm: Crm, store: Store, resolve: Resolve) -> None:
    path = Path(make_url(sqlite_crm.url).database or "")
    before = path.read_bytes()
    path.chmod(0o400)
    resolve(new_run(store), sqlite_crm)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.glob("sample crm.sqlite*")] == ["sample crm.sqlite"]
