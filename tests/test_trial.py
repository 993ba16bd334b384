"""A plan against its database: what the database would refuse is named at its line, before anybody is read."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool
from typer.testing import CliRunner

import commplan
from commplan import bundle, cli
from commplan.errors import InputError, UnreachableError
from commplan.settings import Settings
from commplan.trial import Trial

ONBOARDING = Path(commplan.__file__).parent.parent / "templates" / "onboarding"
_TABLE = """
CREATE TABLE customers (
    customer_id INTEGER, first_name TEXT, email TEXT, mobile TEXT, lang TEXT, tz TEXT, signed_up_at TIMESTAMP,
    lifetime_value INTEGER, sms_opt_in INTEGER, sms_opt_in_source TEXT, sms_opt_in_at TIMESTAMP, activated_at TIMESTAMP)
"""


@pytest.fixture(params=["sqlite", "postgresql", "mariadb", "duckdb"])
def crm(request: pytest.FixtureRequest, new_source: Callable[[str], str]) -> str:
    """URL of a CRM with the onboarding plan's columns, and nobody in it."""
    return with_table(new_source(request.param))


def with_table(url: str) -> str:
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text(_TABLE))
    return url


def tried(folder: Path, crm: str, *changes: tuple[str, str]) -> tuple[Trial, list[str]]:
    """Try the onboarding plan with some of its text replaced; return its lines too."""
    shutil.copytree(ONBOARDING, folder)
    path = folder / "plan.yaml"
    plan = path.read_text(encoding="utf-8")
    for old, new in changes:
        assert old in plan
        plan = plan.replace(old, new)
    path.write_text(plan, encoding="utf-8")
    settings = Settings(home=folder / "home")
    found, files = bundle.read_files(path, settings)
    return bundle.try_source(path, found, files, settings, {"CRM_DATABASE_URL": crm}), plan.splitlines()


def pointed_at(found: Trial, lines: list[str]) -> list[tuple[str, str]]:
    """Return the field of each finding, and what stands in the file from its place on."""
    places = [finding.place.split(":") for finding in found.findings]
    return [
        (finding.field, lines[int(line) - 1][int(column) - 1 :])
        for finding, (_, line, column) in zip(found.findings, places, strict=True)
    ]


def test_a_plan_that_its_database_can_answer_has_no_findings_and_its_columns_are_known(tmp_path, crm):
    found, _ = tried(tmp_path / "plan", crm)
    assert found.findings == ()
    assert found.columns[:3] == ("customer_id", "first_name", "email")


def test_every_misspelt_column_is_named_where_it_stands_all_at_once(tmp_path, crm):
    found, lines = tried(
        tmp_path / "plan",
        crm,
        ("email: email", "email: emial"),
        ("given: sms_opt_in", "given: sms_optin"),
        ("if: lifetime_value >= 1000", "if: lang = 'en' and lifetime_vale >= 1000"),
        ("at: activated_at", "at: activatd_at"),
    )
    fields = [
        ("audience.contact.email", "emial"),
        ("audience.contact.consent.sms.given", "sms_optin"),
        ("audience.segments[0].if", "lifetime_vale >= 1000"),
        ("conversions.activated.at", "activatd_at"),
    ]
    for (field, rest), (expected, word) in zip(pointed_at(found, lines), fields, strict=True):
        assert field == expected
        assert rest.startswith(word)
    assert [finding.remedy for finding in found.findings] == [
        "did you mean email?",
        "did you mean sms_opt_in?",
        "did you mean lifetime_value?",
        "did you mean activated_at?",
    ]


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("signed_up_at >= :since", "signd_up_at >= :since", ("audience.source.sql", "signd_up_at")),
        (
            "select * from customers where signed_up_at",
            ">-\n      select *\n      from custmers\n      where signed_up_at",
            ("audience.source.sql", "custmers"),
        ),
        (
            "signed_up_at >= :since",
            "nosuchfunction(lang) > 1 and signed_up_at >= :since",
            ("audience.source.sql", "nosuch"),
        ),
        ("where activated_at is", "where activatd is", ("conversions.activated.sql", "activatd")),
        ("select customer_id, activated_at from", "delete from", ("conversions.activated.sql", "delete")),
    ],
)
def test_what_the_database_stumbles_over_in_a_query_is_named_where_it_stands(tmp_path, crm, old, new, named):
    found, lines = tried(tmp_path / "plan", crm, (old, new))
    ((field, rest),) = pointed_at(found, lines)
    assert field == named[0]
    assert rest.startswith(named[1])


def test_a_condition_that_only_the_database_can_judge_is_named_with_its_segment(tmp_path, crm):
    found, lines = tried(
        tmp_path / "plan",
        crm,
        (
            "    - {name: vip, if:",
            "    - {name: english, if: lang = 'en'}\n    - {name: late, if: lang >= 5}\n    - {name: vip, if:",
        ),
    )
    if crm.startswith(("sqlite", "mysql")):
        assert found.findings == ()  # it compares anything with anything
        return
    assert pointed_at(found, lines) == [("audience.segments[1].if", "lang >= 5}")]
    assert "refused this condition" in found.findings[0].rule


def test_nothing_is_known_of_a_database_that_does_not_answer(tmp_path):
    with pytest.raises(UnreachableError, match=r"plan\.yaml:\d+:\d+: audience\.source\.url: .* cannot be reached"):
        tried(tmp_path / "plan", "postgresql://nobody:hidden@127.0.0.1:1/x")
    with pytest.raises(UnreachableError, match="CRM_DATABASE_URL is not set"):
        tried(tmp_path / "other", "")


def test_a_database_that_is_not_known_is_refused_at_its_line(tmp_path):
    with pytest.raises(InputError, match=r"plan\.yaml:\d+:\d+: audience\.source\.url: .* not installed") as caught:
        tried(tmp_path / "plan", "snowflake://somebody:hidden@127.0.0.1/x")
    assert "hidden" not in str(caught.value)


def test_that_nobody_can_be_sure_of_a_database_is_advice_and_no_fault(tmp_path, new_source):
    found, lines = tried(tmp_path / "plan", with_table(new_source("elsewhere")))
    assert found.findings == ()
    (said,) = found.advice
    assert str(said).endswith("only reads; give commplan a user that may only read")
    assert lines[int(said.place.split(":")[1]) - 1].strip() == "url: env:CRM_DATABASE_URL"


def test_check_shows_what_is_advised_about_the_source(tmp_path, new_source, monkeypatch):
    monkeypatch.setenv("CRM_DATABASE_URL", with_table(new_source("elsewhere")))
    monkeypatch.setenv("COMMPLAN_HOME", str(tmp_path / "home"))
    said = CliRunner().invoke(cli.app, ["check", str(ONBOARDING / "plan.yaml")])
    assert said.exit_code == 0
    assert "worth a look: " in said.output
    assert "commplan cannot make sure that elsewhere only reads; give commplan a user" in said.output
