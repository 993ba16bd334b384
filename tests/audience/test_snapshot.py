"""The snapshot: counted to the last row, the same however often it is taken, and taken by one process at a time."""

from __future__ import annotations

import logging
import stat
import threading
from pathlib import Path

import pytest
from sqlalchemy import insert, select

from commplan.audience import snapshot
from commplan.audience.planning import Planning
from commplan.audience.source import CHUNK
from commplan.errors import InputError, RunError
from commplan.store import Store
from commplan.store.tables import enrolments, messages, recipients
from commplan.terms import Reason
from tests.audience.conftest import NOON, Crm, Resolve, everything, fill, make_plan, new_run, people, set_run


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
