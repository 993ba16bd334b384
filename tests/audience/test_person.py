"""One row of the source, as the person that it is read as."""

from __future__ import annotations

import csv
import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import phonenumbers
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from openpyxl import Workbook

from commplan import contacts
from commplan.audience.address import read_email, read_phone, validated_email, validated_phone
from commplan.audience.evidence import read_evidence
from commplan.audience.person import Reader, read_consent, read_locale, read_zone
from commplan.audience.source import as_utc
from commplan.errors import InputError
from commplan.ids import Keyring
from commplan.plan import ConsentRecord, ContactColumns
from commplan.store import Store
from tests.audience.conftest import Crm, Resolve, make_plan, new_run, people

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
