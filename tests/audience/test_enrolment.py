"""Who has been through a plan, or is on their way, by whichever run."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import insert, select, update

from commplan.audience.planning import SILENCE, Planning
from commplan.errors import RunError
from commplan.ids import RunId
from commplan.store import Store
from commplan.store.tables import attempts, batches, enrolments, messages, recipients, runs
from commplan.terms import Reason
from tests.audience.conftest import NOON, Crm, Resolve, make_plan, new_run, people, set_run


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
