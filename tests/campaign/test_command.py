"""The commands that look at runs, against a run that has been carried to its end."""

from __future__ import annotations

import json
from pathlib import Path

from tests.campaign.conftest import LETTER, PAIR, crowd
from tests.test_cli import ROOT, require, run
from tests.test_notice import hearing


def test_a_run_is_shown_proven_reported_and_cancelled(rehearse):
    here = rehearse(crowd(3))
    running = here.ready(LETTER)
    here.send_due(running)
    here.deliver_all()
    waiting = here.ready(PAIR.replace("plan: letter", "plan: pair"))
    here.send_due(waiting)

    def command(*words: object):
        return run(*words, cwd=ROOT, env=here.environment())

    listed = require(command("status"), 0, "SANDBOX: Newest runs", "letter@first", "pair@first", "executing")
    assert listed.index("pair@first") < listed.index("letter@first")
    shown = require(command("status", "pair@first"), 0, "pair@first is executing", "next message due 2026-12-02")
    assert "difference 0" in shown
    assert "a request of its own" not in shown
    alone = run("status", "pair@first", cwd=ROOT, env=here.environment() | {"COMMPLAN_EMAIL__BATCHING": "off"})
    require(alone, 0, "each email goes in a request of its own: COMMPLAN_EMAIL__BATCHING is off; unset it")
    require(command("report", "letter@first"), 2, "has not been evaluated yet", "commplan status letter@first")
    running.evaluate()
    said = require(command("report", "letter@first"), 0, "A letter", "email delivered", "100.0%", "met")
    report = Path(said.splitlines()[-1].removeprefix("report "))
    assert {file.name for file in report.parent.iterdir()} == {
        "evaluation.html",
        "evaluation.json",
        "evaluation.csv",
    }
    assert "SANDBOX" in report.read_text(encoding="utf-8")
    proof = json.loads(require(command("prove", "letter@first", "--json"), 0))
    assert proof["difference"] == 0
    assert proof["sandbox"] is True
    assert proof["steps"][0]["states"] == {"delivered": 3}
    assert any("sandbox" in check["what"] for check in proof["checks"])
    require(command("prove", "letter@first"), 0, "Books of letter@first", "difference 0")
    require(command("cancel", "pair@first"), 0, "SANDBOX: pair@first is cancelled", "3 messages will not be sent")
    require(command("status", "pair@first"), 0, "pair@first is cancelled")
    here.require_balance(waiting)


def test_the_owner_of_a_rehearsal_is_told_that_it_is_one(rehearse, monkeypatch):
    here = rehearse(crowd(1))
    with hearing() as (url, heard):
        monkeypatch.setenv("CRM_NOTIFY", url)
        running = here.ready(LETTER.replace("crm: {}", "crm: {notify: env:CRM_NOTIFY}"))
        here.send_due(running)
        running.evaluate()
    assert [told["title"] for told in heard] == ["SANDBOX: letter@first is evaluated"]


def test_unknown_outcomes_are_listed_settled_and_retried(rehearse):
    here = rehearse(crowd(2), logs_busy_share=1)
    running = here.ready(LETTER)
    here.fault("email", "accept_then_close")
    here.send_due(running)

    def command(*words: object):
        return run(*words, cwd=ROOT, env=here.environment())

    require(command("status", "letter@first"), 0, "outcome unknown: 2 for under an hour; asked about again")
    require(command("prove", "letter@first", "--no-witness"), 0, "2 messages may have been sent: nobody knows")
    proof = json.loads(require(command("prove", "letter@first", "--no-witness", "--json"), 0))
    assert (proof["doubts"]["unknown"], proof["doubts"]["since"][:10]) == (2, "2026-12-01")
    said = require(command("settle"), 0, "letter@first: asked about 1 requests, 1 without an answer", "2 still unknown")
    assert "no answer: the provider's rate limit is reached" in said
    require(command("settle", "letter@none"), 2, "there is no run")
    require(command("retry", "letter@first", "--only", "transient"), 0, "nothing to send again")
    asked = command("retry", "letter@first", "--only", "unknown")
    assert (asked.returncode, "2 messages may have been sent before" in asked.stderr) == (1, True)
    assert set(here.states(running)["person1"]) == {"unknown"}
    require(command("retry", "letter@first", "--only", "unknown", "--yes"), 0, "2 messages are queued again")
    require(command("prove", "letter@first", "--no-witness"), 0, "2 messages were sent again without evidence")
    require(command("settle"), 0, "the outcome of every message is known")
    assert here.send_due(running).accepted == 2
    running.evaluate()
    require(command("retry", "letter@first", "--only", "unknown"), 2, "is finished")


def test_a_proof_without_the_sandbox_says_how_to_do_without_it(rehearse):
    here = rehearse(crowd(1))
    here.send_due(here.ready(LETTER))
    env = here.environment() | dict.fromkeys(
        ("COMMPLAN_EMAIL__BASE_URL", "COMMPLAN_SMS__BASE_URL"), "http://127.0.0.1:9"
    )
    require(run("prove", "letter@first", cwd=ROOT, env=env), 2, "the sandbox does not answer", "--no-witness")
    require(run("prove", "letter@first", "--no-witness", cwd=ROOT, env=env), 0, "difference 0")


def test_a_store_of_other_providers_or_another_secret_is_refused(rehearse):
    here = rehearse(crowd(1))
    here.ready(LETTER)
    env = here.environment()
    real = {
        "COMMPLAN_EMAIL__BASE_URL": "https://api.sendgrid.com",
        "COMMPLAN_SMS__BASE_URL": "https://api.twilio.com",
    }
    require(run("status", cwd=ROOT, env=env | real), 2, "created for sandbox providers")
    require(run("status", cwd=ROOT, env=env | {"COMMPLAN_SECRET_KEY": "other"}), 2, "another secret")
