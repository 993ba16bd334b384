"""A plan against the columns that its source has."""

from __future__ import annotations

from pathlib import Path

import pytest

from commplan import contacts
from commplan.audience import snapshot
from commplan.errors import InputError
from commplan.store import Store
from tests.audience.conftest import NOON, Crm, Resolve, everything, make_plan, new_run, people


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
