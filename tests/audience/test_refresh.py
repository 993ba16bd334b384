"""The audience of a run under way: who has left, come back, or has another address by now."""

from __future__ import annotations

from datetime import timedelta

import pytest

from commplan.audience import refresh as refreshing
from commplan.errors import InputError
from commplan.store import Store
from commplan.terms import Reason
from tests.audience.conftest import NOON, Crm, Resolve, everything, fill, new_run, people, refresh


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
