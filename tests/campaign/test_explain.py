"""Everything about one person: complete, with rule and time, shown at a terminal and kept nowhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import timedelta

import pytest

from commplan.errors import InputError, RunError
from commplan.explain import RULES, explain
from commplan.terms import Channel, Reason
from tests.campaign.conftest import PAIR, TEXT, crowd
from tests.campaign.test_failure import change_address
from tests.campaign.test_last_look import block
from tests.test_cli import ROOT

SEGMENTED = PAIR.replace("sequence:", "  segments:\n    - {name: vip, if: lifetime_value >= 1000}\nsequence:").replace(
    "content: nudge,", "content: nudge, when: not clicked(welcome),"
)


def test_every_reason_has_its_rule_in_words():
    assert set(RULES) == set(Reason)


def test_a_person_s_whole_story_is_told_by_address_and_by_id(rehearse):
    here = rehearse(crowd(2))
    here.update_crm("update customers set lifetime_value = 2000 where customer_id = 1")
    running = here.ready(SEGMENTED)
    here.fault("email", "429")
    here.send_due(running)
    here.deliver_all()
    here.jump(days=1)
    running.gather()
    here.send_due(running)
    here.tell(next(one for one in here.truth() if one["channel"] == "sms" and one["to"].endswith("1")), "delivered")
    found = explain(here.store, here.settings, address="Person1@PERSON.example.com")
    by_id = explain(here.store, here.settings, contact="customers:1", key="letter@first")
    by_phone = explain(here.store, here.settings, address="(202) 555-0001")
    assert found == by_id == by_phone
    (part,) = found.runs
    assert (part.run_key, part.people, part.contact_id) == ("letter@first", "customers", "1")
    said = [(one.what, one.rule) for one in part.decisions]
    assert ("segment vip", "if: lifetime_value >= 1000") in said
    assert ("consent to sms: yes (column sms_opt_in)", "a service message by sms needs no recorded no") in said
    assert ("place in the plan kept for this run", "audience.enroll: once") in said
    email, text = part.messages
    assert (email.step, email.channel, email.state) == ("welcome", Channel.EMAIL, "delivered")
    assert email.subject is not None
    assert "Person1" in (email.text or "")
    # The links in the text are the very ones that stop it.
    assert email.stop.split()[0] in (email.text or "")
    happened = [one.what for one in email.decisions]
    assert happened.index("due") < next(at for at, what in enumerate(happened) if what.startswith("request "))
    assert any("sendgrid says delivered" in what for what in happened)
    assert happened[-1] == "is delivered"
    assert ("only if not clicked(welcome)", "when") in [(one.what, one.rule) for one in text.decisions]
    assert ("may arrive 09:00-20:00 in Asia/Shanghai", "window; zone: their own") in [
        (one.what, one.rule) for one in text.decisions
    ]
    due = next(one for one in text.decisions if one.what == "due")
    assert due.rule == "wait after welcome, moved into the window"
    accepted = next(row.accepted_at for ref, row in here.rows().items() if ref.step_no == 1 and ref.seq == 1)
    assert due.at == accepted + timedelta(days=1)
    assert "STOP" in text.stop


def test_the_evidence_of_a_consent_is_told_as_the_snapshot_kept_it(rehearse):
    here = rehearse(crowd(4))
    for column in ("form", "words", "agreed"):
        here.update_crm(f"alter table customers add column {column} text")
    here.update_crm("update customers set form = 'the web form', words = 'Yes, text me', agreed = '2026-01-05 09:30'")
    here.update_crm("update customers set words = null, agreed = '2026-01-05' where customer_id = 2")
    here.update_crm("update customers set form = '', words = null, agreed = 'in May' where customer_id = 3")
    running = here.ready(
        TEXT.replace("{sms: sms_opt_in}", "{sms: {given: sms_opt_in, source: form, text: words, at: agreed}}")
    )
    here.update_crm("update customers set sms_opt_in = 0, form = 'a call', agreed = '2026-11-30' where customer_id = 4")
    running.gather()

    def told(number: int) -> str:
        (part,) = explain(here.store, here.settings, contact=f"customers:{number}").runs
        return next(one.what for one in part.decisions if one.what.startswith("consent to sms"))

    assert told(1) == (
        "consent to sms: yes, from the web form on 2026-01-05 09:30 Asia/Shanghai: 'Yes, text me' (column sms_opt_in)"
    )
    assert told(2) == "consent to sms: yes, from the web form on 2026-01-05 (column sms_opt_in)"
    assert told(3) == "consent to sms: yes, at a time that cannot be read, 'in May' (column sms_opt_in)"
    assert told(4) == "consent to sms: no, changed since the snapshot, which had yes (column sms_opt_in)"


def test_why_somebody_was_not_written_to_is_told_with_the_rule(rehearse):
    here = rehearse([*crowd(3)])
    block(here, Channel.SMS, "+12025550002", reason=Reason.STOP)
    running = here.ready(TEXT)
    change_address(here, 3, phone="+15005550009")
    here.send_due(running)

    def end(number: int):
        found = explain(here.store, here.settings, contact=f"customers:{number}")
        (message,) = found.runs[0].messages
        return found, message.decisions[-1]

    assert end(1)[1].what == "is accepted"
    stopped, why = end(2)
    assert (why.what, why.rule) == ("is excluded", f"{RULES[Reason.STOP]}; in force now: stop")
    refused, why = end(3)
    assert (why.what, why.rule) == ("is failed", RULES[Reason.REJECTED])
    assert any("code 21614" in one.what for one in refused.runs[0].messages[0].decisions)
    assert [one.rule for one in refused.suppressions] == [
        f"{RULES[Reason.INVALID_NUMBER]}; said by refused with code 21614"
    ]
    by_number = explain(here.store, here.settings, address="+12025550002")
    assert ["stop" in one.what for one in by_number.suppressions] == [True]
    assert by_number.suppressions[0].rule.endswith("said by a test")
    assert stopped.runs == by_number.runs


def test_who_is_unknown_or_misspelt_is_said_without_repeating_it(rehearse):
    here = rehearse(crowd(1))
    here.ready()
    for words in ({"address": "nobody@person.example.com"}, {"contact": "customers:9"}, {"contact": "employees:1"}):
        with pytest.raises(RunError, match="nothing is on record about this person") as caught:
            explain(here.store, here.settings, **words)
        assert "nobody" not in str(caught.value)
    for words in ({"address": "person1@"}, {"contact": "17"}):
        with pytest.raises(InputError) as bad:
            explain(here.store, here.settings, **words)
        assert "person1" not in str(bad.value)


def test_the_command_shows_it_to_a_person_and_to_a_program(rehearse):
    here = rehearse(crowd(1))
    here.send_due(here.ready())

    def command(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "commplan", "explain", *words],
            capture_output=True,
            check=False,
            text=True,
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **here.environment()},
        )

    shown = command("letter@first", "--address", "person1@person.example.com")
    assert shown.returncode == 0, shown.stderr
    for words in ("SANDBOX: letter@first", "customers 1, person1@person.example.com", "is accepted", "to stop: "):
        assert words in shown.stdout
    told = json.loads(command("--contact", "customers:1", "--json").stdout)
    assert told["runs"][0]["messages"][0]["state"] == "accepted"
    for words in ((), ("--address", "a", "--contact", "b"), ("x@y", "--contact", "customers:1")):
        done = command(*words)
        assert (done.returncode, done.stdout) == (2, "")
