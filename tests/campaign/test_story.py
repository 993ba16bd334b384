"""A whole campaign of named people, held against what the sandbox saw, person by person."""

from __future__ import annotations

import re
from collections import Counter
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import select

from commplan import archive, campaign
from commplan.store.tables import answers, enrolments
from commplan.terms import Channel, MessageState
from commplan.tracking import destination
from tests.campaign.conftest import FACTS, PLAN, Customer, Rehearsal, Role, happened, noted

NEW_YORK, SHANGHAI = "America/New_York", "Asia/Shanghai"

PEOPLE = [
    Customer(name="silent", mobile="+12025550101"),
    Customer(name="opener", role=Role.OPEN, mobile="+12025550102", tz=NEW_YORK),
    Customer(name="clicker", role=Role.CLICK, texts=Role.SILENT, mobile="+12025550103"),
    Customer(name="converter", role=Role.CONVERT, texts=Role.SILENT, mobile="+12025550104", value=5_000),
    Customer(name="answerer", role=Role.ANSWER, texts=Role.SILENT, mobile="+12025550105"),
    Customer(name="replier", texts=Role.REPLY, mobile="+12025550106"),
    Customer(name="stopper", texts=Role.STOP, mobile="+8613800138001", lang="zh-CN"),
    Customer(name="traditional", mobile="+8613800138002", lang="zh-TW", value=2_000),
    Customer(name="bounced", role=Role.BOUNCE, texts=Role.SILENT, mobile="+12025550107"),
    Customer(name="phoneless"),
    Customer(name="badphone", mobile="12345"),
    Customer(name="unwilling", mobile="+12025550108", sms_opt_in=0),
    Customer(name="twin", email="Silent@Person.example.com", mobile="+12025550109"),
    Customer(name="unsubscriber", role=Role.UNSUBSCRIBE, mobile="+12025550110"),
    Customer(name="unreached", texts=Role.UNDELIVERED, mobile="+12025550111"),
    Customer(name="somewhere", mobile="+12025550112", tz=None),
    Customer(name="nowhere", mobile=None, tz=None, lang=None),
    Customer(name="scanned", role=Role.SCANNER, texts=Role.SILENT, mobile="+12025550115"),
    Customer(name="returned", role=Role.RETURN, texts=Role.SILENT, mobile="+12025550116"),
    Customer(name="badmail", email="badmail@", mobile="+12025550113"),
    Customer(name="oldtimer", signed_up_at="2025-01-01 00:00:00", mobile="+12025550114"),
]

#: What must have become of each person's welcome, nudge, survey and reminder.
EXPECTED = {
    "silent": ["delivered", "delivered", "delivered", "delivered"],
    "opener": ["delivered", "delivered", "delivered", "delivered"],
    "clicker": ["delivered", "not_needed: condition_false", "delivered", "not_needed: condition_unknown"],
    "converter": ["delivered", "not_needed: condition_false", "delivered", "not_needed: condition_unknown"],
    "answerer": ["delivered", "not_needed: condition_false", "delivered", "not_needed: condition_false"],
    "replier": ["delivered", "delivered", "delivered", "not_needed: condition_false"],
    "stopper": ["delivered", "delivered", "delivered", "suppressed: stop"],
    "traditional": ["delivered", "delivered", "delivered", "delivered"],
    "bounced": [
        "failed: bounced",
        "not_needed: condition_unknown",
        "suppressed: hard_bounce",
        "not_needed: earlier_step_not_sent",
    ],
    "phoneless": ["delivered", "excluded: no_phone", "delivered", "excluded: no_phone"],
    "badphone": ["delivered", "excluded: invalid_phone", "delivered", "excluded: invalid_phone"],
    "unwilling": ["delivered", "excluded: no_consent", "delivered", "excluded: no_consent"],
    "twin": [
        "excluded: same_address",
        "not_needed: earlier_step_not_sent",
        "excluded: same_address",
        "not_needed: earlier_step_not_sent",
    ],
    "unsubscriber": [
        "delivered",
        "suppressed: unsubscribed",
        "suppressed: unsubscribed",
        "not_needed: earlier_step_not_sent",
    ],
    "unreached": ["delivered", "failed: undelivered", "delivered", "suppressed: invalid_number"],
    "somewhere": ["delivered", "delivered", "delivered", "delivered"],
    "nowhere": ["delivered", "excluded: no_phone", "delivered", "excluded: no_phone"],
    # A scanner's clicks are no response.
    "scanned": ["delivered", "delivered", "delivered", "delivered"],
    # A bounce without ids, of a message that had been delivered.
    "returned": [
        "failed: bounced",
        "not_needed: condition_unknown",
        "suppressed: hard_bounce",
        "not_needed: earlier_step_not_sent",
    ],
    "badmail": [
        "excluded: invalid_email",
        "not_needed: earlier_step_not_sent",
        "excluded: invalid_email",
        "not_needed: earlier_step_not_sent",
    ],
}


@pytest.mark.parametrize("calm", [True, pytest.param(False, marks=pytest.mark.long)], ids=["calm", "disappointing"])
def test_everybody_gets_what_their_conduct_calls_for_and_every_figure_is_the_sandbox_s(rehearse, calm):
    here: Rehearsal = rehearse(PEOPLE, day=3.0, calm=calm, scanner_clicks=True, idless_share=1.0)
    running = here.carry(here.start(PLAN))
    assert running.state == "finished"
    assert here.states(running) == EXPECTED
    here.require_balance(running)
    _require_the_same_facts(here, tolerance=timedelta(0) if calm else timedelta(minutes=4))
    _require_words(here)
    _require_hours(here)
    _require_figures(here, running)
    with here.store.read() as connection:
        kept = connection.execute(select(enrolments.c.contact_id, enrolments.c.state)).all()
    reached = {row.contact_id for row in here.rows().values() if row.accepted_at}
    assert {(number, "kept") for number in reached} == set(kept)
    _require_that_starting_again_changes_nothing(here)


def _require_the_same_facts(here: Rehearsal, *, tolerance: timedelta) -> None:
    """Compare every message the providers took with its row: who, when, and what followed."""
    rows, truth = here.rows(), {one["ref"]: one for one in here.truth()}
    assert {ref for ref, row in rows.items() if row.accepted_at is not None} == set(truth)
    for ref, one in truth.items():
        row = rows[ref]
        who = here.customers[int(row.contact_id) - 1]
        assert one["to"] == ((row.channel == "email" and who.address) or who.mobile), who.name
        assert row.provider_id == one["request_id"]
        assert noted(row) == happened(one), who.name
        for what, column in FACTS.items():
            if row.channel == "email" and what in ("delivered", "opened", "clicked"):
                _require_close(getattr(row, column), one["times"].get(what), tolerance + timedelta(seconds=1))


def _require_close(noted: datetime | None, happened: str | None, tolerance: timedelta) -> None:
    assert (noted is None) == (happened is None)
    if noted is not None and happened is not None:
        assert abs(noted - datetime.fromisoformat(happened)) <= tolerance


def _require_words(here: Rehearsal) -> None:
    """Everybody reads their own name, in their own language, and a link of their own."""
    rows = here.rows()
    for one in here.truth():
        row = rows[one["ref"]]
        who = here.customers[int(row.contact_id) - 1]
        seen = here.content(one)
        chinese = (who.lang or "en").startswith("zh")
        assert one["ref"].step_no == 3 or _leads_to(here, seen["text"], f"/setup/{row.contact_id}")
        if one["channel"] == Channel.SMS:
            assert ("退订回复STOP" in seen["text"]) is chinese
            assert ("Reply STOP to opt out" in seen["text"]) is not chinese
        else:
            assert who.name.title() in seen["subject"]
            assert ('lang="zh' in seen["html"]) is chinese
            stop = here.store.keyring.token(2, one["ref"])
            assert seen["headers"]["List-Unsubscribe"] == f"<{here.settings.public_url}/u/{stop}>"
            assert stop in seen["text"]
            if one["ref"].step_no == 1:
                for_vips = ("call of twenty minutes" if not chinese else "二十分钟") in seen["text"]
                assert for_vips is (who.value >= 1_000)


def _leads_to(here: Rehearsal, text: str, page: str) -> bool:
    """Tell whether a text links to a page, by its address or by a short link."""
    if page in text:
        return True
    [token] = re.findall(rf"{re.escape(here.settings.public_url)}/l/(\w+)", text)
    found = destination(here.store, here.store.keyring.open_link(token))
    return found is not None and found.target.endswith(page)


def _require_hours(here: Rehearsal) -> None:
    """Texts are written to the wire between 9 and 20, surveys between 9 and 18, on the clock of whoever gets them."""
    american = [ZoneInfo(name) for name in (NEW_YORK, "America/Los_Angeles", "Pacific/Honolulu")]
    for ref, row in here.rows().items():
        if ref.step_no == 1 or row.wire_at is None:
            continue
        who = here.customers[int(row.contact_id) - 1]
        unknown = american if who.mobile else [ZoneInfo(SHANGHAI)]
        for zone in [ZoneInfo(who.tz)] if who.tz else unknown:
            local = row.wire_at.astimezone(zone)
            assert 9 <= local.hour < (18 if row.channel == Channel.EMAIL else 20), (who.name, ref.step_no, local)


def _require_figures(here: Rehearsal, running: campaign.Campaign) -> None:
    """The evaluation counts what the sandbox counts."""
    judged = archive.last_evaluation(here.store, running.run)
    truth = here.truth()
    assert judged.audience == len(EXPECTED)
    assert judged.balanced
    for step in judged.steps:
        mine = [one for one in truth if one["ref"].step_no == step.step_no]
        delivered = [one for one in mine if one["delivered"] and not one["bounced"]]
        assert step.counts.accepted == len(mine)
        assert step.counts.delivered == len(delivered)
        assert step.counts.failed == sum(one["bounced"] or one["undelivered"] for one in mine)
        assert step.counts.opened == sum(one["opened"] for one in delivered)
        assert step.counts.clicked == sum(one["clicked"] for one in delivered)
        assert step.counts.machine_clicked == sum(one["machine_clicked"] for one in delivered)
        assert step.counts.answered == sum(one["answered"] for one in delivered)
        assert step.counts.opted_out == sum(one["unsubscribed"] or one["opted_out"] for one in delivered)
        expected = Counter(states[step.step_no - 1].partition(":")[0] for states in EXPECTED.values())
        assert {state.value: count for state, count in step.states.items() if count} == dict(expected)
    assert judged.replies == 1
    goals = {goal.id: goal for goal in judged.goals}
    converted = {int(one["to"].startswith("converter")) for one in truth if one["converted"]}
    assert converted == {1}
    assert goals["activate"].numerator == 1
    assert goals["arrive"].numerator == sum(
        one["delivered"] and not one["bounced"] for one in truth if one["ref"].step_no == 1
    )
    scores = [one["score"] for one in truth if one["answered"]]
    (survey,) = judged.surveys
    assert survey.scores == {scores[0]: 1}
    with here.store.read() as connection:
        assert connection.execute(select(answers.c.score)).scalars().all() == scores
    assert sum(line.quantity for line in judged.cost.lines if line.channel is Channel.EMAIL) == sum(
        one["channel"] == Channel.EMAIL for one in truth
    )


def _require_that_starting_again_changes_nothing(here: Rehearsal) -> None:
    before, seen = here.rows(), len(here.truth())
    again = here.start(PLAN)
    assert again.state == "finished"
    assert again.next_due() is None
    assert here.send_due(again).accepted == 0
    versions = archive.last_evaluation(here.store, again.run)
    assert again.evaluate().digest == versions.digest
    assert (here.rows(), len(here.truth())) == (before, seen)
    assert {row.state for row in before.values()} <= {state.value for state in MessageState}
