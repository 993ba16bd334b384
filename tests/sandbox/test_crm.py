"""The sample CRM: the same customers every time, as untidy as announced."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from datetime import UTC, datetime

import phonenumbers
import pytest
from email_validator import EmailNotValidError, validate_email

from commplan.sandbox import crm

NOW = datetime(2026, 12, 1, 2, tzinfo=UTC)


def customers(path, contacts=1_000, seed=1):
    crm.create(path, contacts=contacts, seed=seed, now=NOW, site="http://127.0.0.1:8026/site")
    connection = sqlite3.connect(path)
    connection.row_factory = sqlite3.Row
    rows = connection.execute("SELECT * FROM customers ORDER BY customer_id").fetchall()
    connection.close()
    return [dict(row) for row in rows]


def is_email(text):
    try:
        validate_email(text, check_deliverability=False, allow_smtputf8=False)
    except EmailNotValidError:
        return False
    return True


def is_phone(text):
    try:
        return phonenumbers.is_valid_number(phonenumbers.parse(text, "US"))
    except phonenumbers.NumberParseException:
        return False


def test_the_same_arguments_give_the_same_customers(tmp_path):
    assert customers(tmp_path / "a") == customers(tmp_path / "b")
    assert customers(tmp_path / "c", seed=2) != customers(tmp_path / "d", seed=3)


def test_a_crm_is_never_overwritten(tmp_path):
    customers(tmp_path / "crm", contacts=1)
    with pytest.raises(FileExistsError):
        customers(tmp_path / "crm", contacts=1)


def test_customers_are_as_untidy_as_announced(tmp_path):
    rows = customers(tmp_path / "crm")
    langs = Counter(row["lang"] for row in rows)
    english = langs["en"] + langs["en-GB"]
    assert 0.50 < english / 1_000 < 0.60
    assert set(langs) == {"en", "en-GB", "zh-CN", "zh-TW", None}
    assert 20 <= sum(not is_email(row["email"] or "") for row in rows) <= 50
    phones = [row["mobile"] for row in rows if row["mobile"]]
    assert 50 <= 1_000 - len(phones) <= 110
    assert 20 <= sum(not is_phone(phone) for phone in phones) <= 50
    shared = Counter((row["email"] or str(row["customer_id"])).casefold() for row in rows)
    assert 5 <= sum(count > 1 for count in shared.values()) <= 25
    assert 100 <= sum(not row["sms_opt_in"] for row in rows) <= 200
    assert all(bool(row["sms_opt_in_source"]) == bool(row["sms_opt_in"]) for row in rows)
    assert all(row["sms_opt_in_at"] == (row["signed_up_at"] if row["sms_opt_in"] else None) for row in rows)
    assert 90 <= sum(row["lifetime_value"] >= 1_000 for row in rows) <= 150
    old = [row for row in rows if row["signed_up_at"] < "2026-11-01"]
    assert 70 <= len(old) <= 130
    assert all("2026-11-16" < row["signed_up_at"] < "2026-12-01 10:00:00" for row in rows if row not in old)
    assert all(row["signed_up_at"] < row["activated_at"] for row in rows if row["activated_at"])
    assert all(row["setup_url"] == f"http://127.0.0.1:8026/site/setup/{row['customer_id']}" for row in rows)


def test_valid_numbers_are_valid_for_everybody_and_valid_mailboxes_are_nobodys(tmp_path):
    rows = customers(tmp_path / "crm", contacts=20_000)
    phones = [row["mobile"] for row in rows if row["mobile"]]
    assert 0.025 < sum(not is_phone(phone) for phone in phones) / len(phones) < 0.04
    assert len(set(phones)) > 0.95 * len(phones)
    assert all(row["email"].lower().endswith("@person.example.com") for row in rows if is_email(row["email"] or ""))


def test_twenty_thousand_customers_take_seconds(tmp_path):
    began = time.process_time()
    customers(tmp_path / "crm", contacts=20_000)
    assert time.process_time() - began < 10
