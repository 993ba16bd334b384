"""The command line: what each command prints, what bad input gets, and that help costs nothing."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

import jsonschema
import pytest

import commplan
from tests.conftest import PERSONAL

ROOT = Path(commplan.__file__).parent.parent
ONBOARDING = ROOT / "templates" / "onboarding"

Done = subprocess.CompletedProcess[str]


def run(*words: object, cwd: Path, env: Mapping[str, str] | None = None, locale: str = "C.UTF-8") -> Done:
    """Run a command in a folder, in an environment of its own; it never shows a traceback, nor where a person is."""
    done = subprocess.run(
        [sys.executable, "-m", "commplan", *map(str, words)],
        capture_output=True,
        check=False,
        cwd=cwd,
        env={"PATH": os.environ["PATH"], "HOME": str(cwd), "LANG": locale, "PYTHONPATH": str(ROOT), **(env or {})},
        timeout=120,
        encoding="utf-8",
    )
    assert "Traceback" not in done.stdout + done.stderr
    assert PERSONAL.search(done.stdout + done.stderr) is None
    return done


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., Done]:
    """Run a command in an empty folder; COMMPLAN_HOME is below it."""
    return lambda *words, **env: run(*words, cwd=tmp_path, env={"COMMPLAN_HOME": str(tmp_path / "home"), **env})


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """A copy of the onboarding plan, to be spoilt."""
    shutil.copytree(ONBOARDING, tmp_path / "mine")
    return tmp_path / "mine" / "plan.yaml"


#: What a run needs besides its database; nothing is sent with them.
KEYS = {
    "COMMPLAN_EMAIL__API_KEY": "SG.of-the-tests",
    "COMMPLAN_SMS__ACCOUNT_SID": "AC" + "1" * 32,
    "COMMPLAN_SMS__AUTH_TOKEN": "an-auth-token",
}


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def require(done: Done, code: int, *words: str) -> str:
    """Assert how a command ended and what it said where: a success on standard output, a refusal on standard error."""
    assert done.returncode == code, done.stderr + done.stdout
    said = done.stdout if code == 0 else done.stderr
    for word in words:
        assert word in said
    if code:
        assert done.stdout == ""
    return said


def test_help_imports_no_prefect_and_nothing_else_that_is_slow():
    script = (
        "import sys; from commplan.cli import app; from typer.testing import CliRunner;"
        "result = CliRunner().invoke(app, ['--help']); assert result.exit_code == 0;"
        "slow = {'prefect', 'sqlalchemy', 'scipy', 'jinja2', 'sendgrid', 'twilio', 'pydantic', 'sqlglot'};"
        "print(result.output); print('slow:', sorted(slow & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.endswith("slow: []\n")
    for name in (
        "demo",
        "new",
        "check",
        "schema",
        "db",
        "contacts",
        "preview",
        "run",
        "status",
        "prove",
        "report",
        "explain",
        "stop",
    ):
        assert f"  {name} " in done.stdout


def test_no_command_shows_help_and_an_unknown_one_is_an_error(command):
    assert "Usage" in command().stdout + command().stderr
    done = command("chekc")
    assert done.returncode == 2
    assert "chekc" in done.stderr


def test_check_says_that_all_is_right_and_what_is_missing_before_it_can_run(command):
    said = require(command("check", ONBOARDING / "plan.yaml"), 0, "all right", "3 steps", "5 goals")
    assert "before it can run" in said
    assert "CRM_DATABASE_URL" in said
    assert "the source was not asked: " in said
    assert "the source" not in require(command("check", "--no-source", ONBOARDING / "plan.yaml"), 0)
    away = require(command("check", ONBOARDING / "plan.yaml", CRM_DATABASE_URL="sqlite:///x"), 0)
    assert "before it can run" not in away
    assert "the source was not asked: " in away


def test_check_and_run_refuse_what_the_database_would_refuse_by_line_and_write_nothing(command, plan, tmp_path):
    with closing(sqlite3.connect(tmp_path / "crm.sqlite")) as crm:
        columns = "customer_id, email, lang, tz, sms_opt_in, sms_opt_in_at, signed_up_at, lifetime_value"
        crm.execute(f"create table customers ({columns})")
    replace(plan, "given: sms_opt_in", "given: sms_optin")
    given = {"CRM_DATABASE_URL": f"sqlite:///{tmp_path / 'crm.sqlite'}", **KEYS}
    said = require(command("check", plan, **given), 2)
    assert [line.split(": ")[1] for line in said.splitlines()] == [
        "audience.contact.phone",
        "audience.contact.consent.sms.given",
        "audience.contact.consent.sms.source",
        "conversions.activated.sql",
    ]
    assert all(line.startswith(f"{plan}:") for line in said.splitlines())
    assert require(command("run", plan, **given), 2) == said
    listed = require(command("status", **given), 0)
    assert "onboarding" not in listed


def test_check_names_every_fault_of_a_plan_by_line(command, plan):
    replace(plan, "wait: P2D", "wait: 2 days")
    replace(plan, "purpose: service ", "purpose: fun ")
    replace(plan, "when: not responded(welcome)", "when: not responded(hello)")
    lines = require(command("check", plan), 2).splitlines()
    assert len(lines) == 3
    for line, field in zip(lines, ("purpose", "wait", "when"), strict=True):
        assert line.startswith(f"{plan}:")
        assert field in line
        assert int(line.removeprefix(f"{plan}:").split(":")[0]) > 1


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("welcome.email.en.txt.j2", "Hello {{ first_nam }}", "welcome.email.en.txt.j2:1"),
        ("welcome.email.en.txt.j2", "Hello {{", "welcome.email.en.txt.j2:1"),
        ("welcome.email.en.mjml.j2", "---\nsubject: x\n---\n<mj-texte>x</mj-texte>", "mj-texte"),
        ("nudge.sms.en.txt.j2", "", "nudge.sms.en"),
        ("sample.yaml", "- a list", "sample.yaml"),
    ],
)
def test_check_and_preview_name_a_fault_of_a_template(command, plan, file, text, said):
    (plan.parent / file).write_text(text, encoding="utf-8")
    require(command("check", plan), 2, said)
    require(command("preview", plan), 2, said)


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"\xff\xfe\x00binary\x00",
        b"plan: [",
        b"just a text",
        b"a: 1\na: 2\n",
        b"plan: &a x\nb: *a\n",
        b"[" * 60,
    ],
)
def test_what_is_no_plan_at_all_is_one_message_with_the_place(command, tmp_path, content):
    path = tmp_path / "plan.yaml"
    if content is not None:
        path.write_bytes(content)
    said = require(command("check", path), 2)
    assert said.startswith(str(path))


def test_a_folder_is_not_a_plan(command, tmp_path):
    require(command("check", tmp_path), 2, str(tmp_path))


def test_preview_shows_every_message_in_every_language_and_writes_the_html(command, tmp_path):
    plan = ONBOARDING / "plan.yaml"
    said = require(command("preview", plan, "--to", tmp_path / "html"), 0)
    for words in ("Welcome to Kite, Ada", "欢迎使用纸鸢", "SMS part", "How was your first week"):
        assert words in said
    written = sorted(path.name for path in (tmp_path / "html").iterdir())
    assert "welcome.welcome.en.html" in written
    assert len(written) == 6
    assert "Ada" in (tmp_path / "html" / "welcome.welcome.en.html").read_text(encoding="utf-8")
    only = require(command("preview", plan, "--step", "nudge", "--locale", "zh"), 0)
    assert "退订" in only
    assert "Welcome" not in only


def test_preview_of_a_step_or_language_that_does_not_exist_says_so(command):
    plan = ONBOARDING / "plan.yaml"
    require(command("preview", plan, "--step", "nugde"), 2, "nugde", "nudge")
    require(command("preview", plan, "--locale", "fr"), 2, "fr")


def test_new_makes_a_plan_that_checks_and_refuses_to_write_over_it(command, tmp_path):
    templates = tmp_path / "templates"
    shutil.copytree(ROOT / "templates", templates)
    env = {"COMMPLAN_TEMPLATES": str(templates)}
    said = require(command("new", "onboarding", "spring", **env), 0, "spring")
    path = Path(said.splitlines()[0])
    assert "plan: spring" in path.read_text(encoding="utf-8")
    require(command("check", path, **env), 0, "all right")
    require(command("new", "onboarding", "spring", **env), 2, "spring")
    require(command("new", "onbording", "summer", **env), 2, "onboarding")
    require(command("new", "onboarding", "../outside", **env), 2)
    assert not (tmp_path / "outside").exists()


def test_schema_is_a_json_schema(command):
    schema = json.loads(require(command("schema"), 0))
    jsonschema.Draft202012Validator.check_schema(schema)
    assert {"plan", "goals", "sequence"} <= set(schema["properties"])


def test_db_upgrade_makes_a_store_and_may_be_repeated(command, tmp_path):
    for _ in range(2):
        require(command("db", "upgrade"), 0, "up to date")
    assert (tmp_path / "home" / "store.sqlite").exists()
    require(command("status"), 0, "Newest runs")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://nobody:hidden@127.0.0.1:1/x", "cannot be reached"),
        ("sqlite:////proc/none/store.sqlite", "COMMPLAN_STORE_URL"),
        ("mysql://user:hidden@localhost/x", "not supported"),
        ("rubbish", "is not a database URL"),
    ],
)
def test_a_store_that_cannot_be_used_is_said_plainly(command, url, said):
    done = command("db", "upgrade", COMMPLAN_STORE_URL=url)
    assert "hidden" not in require(done, 2, said)


@pytest.mark.parametrize(
    "words",
    [
        ["status"],
        ["stop", "--all"],
        ["explain", "--contact", "customers:1"],
        ["suppress", "a@person.example.com"],
        ["unsuppress", "a@person.example.com"],
        ["suppressions", "export", "list.csv"],
        *([name, "a@b"] for name in ("prove", "report", "cancel", "pause", "resume")),
    ],
)
def test_asking_where_there_is_no_store_says_so_and_makes_none(command, tmp_path, words):
    require(command(*words), 2, "there is no store here yet", "commplan db upgrade")
    assert list(tmp_path.iterdir()) == []
    elsewhere = tmp_path / "elsewhere.sqlite"
    require(command(*words, COMMPLAN_STORE_URL=f"sqlite:///{elsewhere}"), 2, "there is no store here yet")
    assert not elsewhere.exists()


@pytest.mark.parametrize(
    "words",
    [
        ["explain", "a@b", "--contact", "customers:1"],
        *([name, "a@b"] for name in ("status", "prove", "report", "cancel", "pause", "resume")),
    ],
)
def test_an_unknown_run_is_named(command, words):
    require(command("db", "upgrade"), 0)
    require(command(*words), 2, "there is no run 'a@b'")


def test_people_are_opted_out_and_in_and_the_list_goes_into_a_file_and_back_without_an_address_being_shown(
    command, tmp_path
):
    address = "ann@person.example.com"
    require(command("db", "upgrade"), 0)
    require(command("suppress", address, "--note", "asked by phone"), 0, "the address is suppressed (never_contact")
    require(command("suppress", "+12025550123", "--reason", "stop"), 0, "the address is suppressed (stop")
    require(command("suppress", address), 0, "was already suppressed")
    require(command("suppress", address, "--reason", "paused", "--until", "soon"), 2, "no time with a zone")
    require(command("suppressions", "export", "list.csv"), 0, "lines written: 2")
    require(command("unsuppress", address), 0, "lifted: email, the address: never_contact")
    require(command("unsuppress", "+1 202-555-0123"), 0, "stays: sms, the address: stop; only a START")
    require(command("unsuppress", address), 0, "nothing is in force about this address")
    (tmp_path / "theirs.csv").write_text(f"address\n{address}\nnobody\n", encoding="utf-8")
    require(command("suppressions", "import", "theirs.csv"), 2, "theirs.csv:3: it is neither an email address nor")
    require(command("unsuppress", address), 0, "nothing is in force")
    (tmp_path / "theirs.csv").write_text(f"address\n{address}\n", encoding="utf-8")
    require(command("suppressions", "import", "theirs.csv"), 0, "lines read: 1, new: 1")
    require(command("unsuppress", address), 0, "lifted: email, the address: never_contact")


def test_a_wrong_setting_is_named_and_its_value_is_not_shown(command):
    done = command("status", COMMPLAN_EMAIL__BATCH="5000secret", COMMPLAN_MAX_RECIPIENTS="0")
    said = require(done, 2, "COMMPLAN_EMAIL__BATCH", "COMMPLAN_MAX_RECIPIENTS")
    assert "secret" not in said
    assert len(said.splitlines()) == 2


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("COMMPLAN_ALOW_LIST", "COMMPLAN_ALLOW_LIST"),
        ("COMMPLAN_STORE", "COMMPLAN_STORE_URL"),
        ("COMMPLAN_EMAIL__API_KY", "COMMPLAN_EMAIL__API_KEY"),
        ("COMMPLAN_EMAIL_API_KEY", "COMMPLAN_EMAIL__API_KEY"),
    ],
)
def test_a_misspelt_setting_is_refused_with_the_one_that_was_meant(command, written, meant):
    said = require(command("check", ONBOARDING / "plan.yaml", **{written: "hidden"}), 2)
    assert said == f"{written}: there is no such setting; did you mean {meant}?\n"


def test_what_is_only_called_like_a_setting_is_not_ours(command):
    require(command("check", ONBOARDING / "plan.yaml", COMMPLAN_REQUIRE_BROWSER="1", COMMPLAN_SPECS="x"), 0)


def test_run_names_every_variable_that_is_missing_and_writes_nothing(command, tmp_path):
    done = command("run", ONBOARDING / "plan.yaml", "--run-key", "x")
    require(
        done,
        2,
        "CRM_DATABASE_URL",
        "COMMPLAN_EMAIL__API_KEY",
        "COMMPLAN_SMS__ACCOUNT_SID",
        "COMMPLAN_SMS__AUTH_TOKEN",
    )
    assert not (tmp_path / "home").exists()


def test_a_server_of_the_orchestrator_that_does_not_come_up_is_one_sentence(command, plan, tmp_path):
    columns = (
        "customer_id, email, mobile, lang, tz, sms_opt_in, sms_opt_in_source, sms_opt_in_at, signed_up_at, "
        "lifetime_value, activated_at"
    )
    with closing(sqlite3.connect(tmp_path / "crm.sqlite")) as crm:
        crm.execute(f"create table customers ({columns})")
    impatient = {"PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "0"}
    given = {"CRM_DATABASE_URL": f"sqlite:///{tmp_path / 'crm.sqlite'}", **KEYS, **impatient}
    said = require(command("run", plan, **given), 2, "temporary server did not come up, and nothing was sent")
    assert len(said.splitlines()) == 1
    alone = command("run", plan, **given, COMMPLAN_EMAIL__BATCHING="off")
    assert alone.stdout.startswith("each email goes in a request of its own: COMMPLAN_EMAIL__BATCHING is off; unset it")


def test_a_run_key_that_is_no_name_is_refused_before_anything_is_read(command, tmp_path):
    require(command("run", ONBOARDING / "plan.yaml", "--run-key", "a/b c", **KEYS), 2, "run key: it is not a name")
    assert not (tmp_path / "home").exists()


CSV = "id,email,phone\n1,ada@person.example.com,+12025550123\n2,not an address,\n2,again@person.example.com,\n"


def test_contacts_import_counts_and_writes_nothing_when_it_is_only_tried(command, tmp_path):
    (tmp_path / "people.csv").write_text(CSV, encoding="utf-8")
    tried = require(command("contacts", "import", "people.csv", "--people", "partners", "--dry-run"), 0)
    assert not list((tmp_path / "home").glob("*contacts*"))
    done = require(command("contacts", "import", "people.csv", "--people", "partners"), 0)
    assert list((tmp_path / "home").glob("*contacts*"))
    assert "3 of 3 rows" in tried
    assert "3 of 3 rows" in done


@pytest.mark.parametrize("content", [None, b"", b"\x00\x01\x02", b"one column only\n"])
def test_a_file_that_holds_no_people_is_refused_with_its_name(command, tmp_path, content):
    if content is not None:
        (tmp_path / "people.csv").write_bytes(content)
    require(command("contacts", "import", "people.csv", "--people", "partners"), 2, "people.csv")


def test_everything_works_in_a_folder_with_spaces_and_chinese_characters_and_in_a_plain_locale(tmp_path):
    folder = tmp_path / "活动 计划"
    folder.mkdir()
    shutil.copytree(ONBOARDING, folder / "欢迎 plan")
    for locale in ("C", "C.UTF-8"):
        done = run("preview", folder / "欢迎 plan" / "plan.yaml", cwd=folder, locale=locale)
        require(done, 0, "欢迎使用纸鸢")
    require(run("db", "upgrade", cwd=folder, env={"COMMPLAN_HOME": "家 里"}), 0)
    assert (folder / "家 里" / "store.sqlite").exists()
