"""Links in texts, in a whole campaign: a person's click is a response, a previewer's is none, and silence is proven."""

from __future__ import annotations

import json
import re
from datetime import timedelta

import httpx
import pytest
from sqlalchemy import select

from commplan import archive, bundle, campaign
from commplan.errors import InputError
from commplan.explain import explain
from commplan.ledger import feed
from commplan.ledger.need import need_of
from commplan.plan import Plan
from commplan.planfile import parse_plan
from commplan.store.tables import feed_beats, message_values, receipts
from commplan.terms import Channel
from tests.campaign.conftest import PLAIN, TEXT, Customer, Rehearsal, Role, crowd, until
from tests.campaign.test_gate import at, beats, follow_up, texts

#: A text, and a day later another to those who have not clicked in it.
TWICE = TEXT.replace("content: nudge", "content: nudge, not_after: P30D").replace(
    "evaluation:",
    "  - {step: again, channel: sms, content: nudge, wait: P1D, not_after: P30D, window: 00:00-24:00, "
    "when: not clicked(welcome)}\nevaluation:",
)


@pytest.fixture
def plan_of_steps():
    """Return a maker of plans whose second step rests on silence after the first, `ask`."""

    def make(channel: str, when: str) -> Plan:
        asks = "ask: {scale: csat, question: How was it?}"
        text = TEXT.replace("step: welcome", "step: ask").replace("channel: sms", f"channel: {channel}, {asks}")
        return parse_plan(
            text.replace(
                "evaluation:",
                "  - {step: again, channel: sms, content: nudge, wait: P1D, window: 00:00-24:00, "
                f"when: {when}}}\nevaluation:",
            ),
            "plan.yaml",
        )

    return make


def test_who_clicked_gets_no_second_text_and_whose_telephone_only_drew_a_preview_does(rehearse):
    people = [
        Customer(name="clicker", role=Role.CLICK, mobile="+12025550101"),
        Customer(name="silent", mobile="+12025550102"),
    ]
    here: Rehearsal = rehearse(people, day=8.0, previewed_share=1.0)
    running = here.carry(here.start(TWICE))
    assert here.states(running) == {
        "clicker": ["delivered", "not_needed: condition_false"],
        "silent": ["delivered", "delivered"],
    }
    truth = {(one["to"], one["ref"].step_no): one for one in here.truth()}
    assert {who: (one["clicked"], one["machine_clicked"]) for who, one in truth.items()} == {
        ("+12025550101", 1): (True, True),
        ("+12025550102", 1): (False, True),
        ("+12025550102", 2): (False, True),
    }
    judged = archive.last_evaluation(here.store, running.run)
    assert [(link.step, link.link, link.clicked, link.machine_clicked) for link in judged.links] == [
        ("welcome", "setup_url", 1, 2),
        ("again", "setup_url", 0, 1),
    ]
    told = explain(here.store, here.settings, address="+12025550101").runs[0].messages[0].decisions
    said = {one.what for one in told if "clicked" in one.what}
    assert said == {
        "page says clicked on the link setup_url",
        "page says clicked on the link setup_url, by a machine (agent)",
        "counts as clicked",
    }
    with here.store.read() as connection:
        kept = connection.execute(
            select(receipts.c.agent_class, receipts.c.machine_why).where(receipts.c.kind == "clicked").distinct()
        ).all()
    assert {tuple(row) for row in kept} == {("browser", None), ("previewer", "agent")}
    here.require_balance(running)


def sent(rehearse, *, is_heard: bool = False):
    """Send the first text and have it delivered, where time stands."""
    here: Rehearsal = rehearse(crowd(2))
    here.is_heard = is_heard
    running = here.ready(TWICE)
    here.send_due(running)
    here.deliver_all()
    return here, running


def test_silence_after_a_text_is_proven_by_heartbeats_of_our_own_receiver_too(rehearse):
    here, running = sent(rehearse)
    beats(here, -1, 24.5, channel=Channel.SMS)
    at(here, 24.55)
    assert "the receiver has not been reached under its public address" in follow_up(here, running)
    assert texts(here) == 2
    beats(here, 24.6, 26, channel=Channel.SMS)
    beats(here, -1, 26, channel=feed.RECEIVER)
    at(here, 26.05)
    assert follow_up(here, running) is None
    assert texts(here) == 4
    here.require_balance(running)


def test_while_the_receiver_was_away_nobody_was_heard_and_nobody_would_tell_again(rehearse):
    here, running = sent(rehearse)
    beats(here, -1, 60, channel=Channel.SMS)
    beats(here, -1, 10, channel=feed.RECEIVER)
    beats(here, 10.2, 10.4, channel=feed.RECEIVER, heard=False)
    beats(here, 10.6, 60, channel=feed.RECEIVER)
    at(here, 60)
    assert "the receiver was not reached until" in follow_up(here, running)
    at(here, 60.05)
    follow_up(here, running)
    assert texts(here) == 2
    assert campaign.prove(here.store, here.settings, running.run.run_key).difference == 0


def test_the_campaign_visits_its_own_receiver_as_it_is_reached_from_outside(rehearse):
    here: Rehearsal = rehearse(crowd(1), day=60.0)
    here.ready(TWICE)
    campaign.prove_feeds(here.store, here.settings)
    with here.store.read() as connection:
        heard = select(feed_beats.c.channel, feed_beats.c.heard_at.is_not(None)).order_by(feed_beats.c.channel)
        assert connection.execute(heard).all() == [("receiver", True), ("sms", True)]
    here.receiver.stop()


def test_a_visit_that_came_to_nothing_is_a_gap_however_short(rehearse):
    here: Rehearsal = rehearse(crowd(1), day=60.0)
    here.ready(TWICE)
    started = here.clock.now()

    def told() -> list[tuple[bool, str | None]]:
        campaign.prove_feeds(here.store, here.settings)
        with here.store.read() as connection:
            rows = connection.execute(
                select(feed_beats.c.heard_at.is_not(None), feed_beats.c.failure)
                .where(feed_beats.c.channel == feed.RECEIVER)
                .order_by(feed_beats.c.sent_at)
            ).all()
        return [(row[0], row[1]) for row in rows]

    assert told() == [(True, None)]
    here.receiver.stop()
    until(lambda: len(told()) == 2, why="that the receiver is visited once more")
    assert told()[1] == (False, None)
    here.receiver.start()
    until(lambda: told()[-1][0], why="that the receiver is reached again")
    rhythm = feed.rhythm(timedelta(days=1), here.clock)
    later = here.clock.now() + timedelta(hours=12)
    with here.store.read() as connection:
        found = feed.read(connection, feed.RECEIVER, since=started, events=(), rhythm=rhythm, now=later)
    assert found.gaps
    here.receiver.stop()


@pytest.mark.parametrize(
    ("channel", "when", "visits"),
    [
        ("email", "not answered(ask)", True),
        ("email", "not responded(ask)", False),
        ("sms", "not answered(ask)", True),
        ("sms", "not clicked(ask)", True),
        ("sms", "not replied(ask)", False),
    ],
)
def test_silence_on_a_page_of_ours_rests_on_our_receiver_whatever_the_channel(plan_of_steps, channel, when, visits):
    need = need_of(plan_of_steps(channel, when), 2)
    assert need is not None
    assert need.visits is visits


@pytest.mark.parametrize("part", [False, True])
def test_a_plan_that_asks_for_clicks_of_texts_without_counted_links_is_refused_at_its_line(rehearse, part):
    here: Rehearsal = rehearse(crowd(1))
    plan = TWICE.replace("metric: reach, target: at least 95%", "metric: click_rate, target: at least 5%")
    path = here.write(plan)
    for language in ("en", "zh"):
        (path.parent / f"nudge.sms.{language}.txt.j2").write_text("See {{ setup_url }}{% include 'part.txt.j2' %}")
    (path.parent / "part.txt.j2").write_text("{{ 'https://shop.example/' | short }}" if part else "Thanks!")
    if part:
        bundle.read_files(path, here.settings)
        return
    with pytest.raises(InputError) as refused:
        bundle.read_files(path, here.settings)
    assert [(finding.field, finding.rule.partition(":")[0]) for finding in refused.value.findings] == [
        ("sequence[1].when", "clicked(welcome)"),
        ("goals[0].metric", "click_rate"),
    ]
    assert all(re.search(r"plan\.yaml:\d+:\d+$", finding.place) for finding in refused.value.findings)


def test_everybody_reads_a_link_of_their_own_that_leads_to_their_own_page(rehearse):
    here: Rehearsal = rehearse(crowd(3))
    here.receiver.start()
    running = here.ready(TWICE)
    here.send_due(running)
    seen = {one["ref"].seq: here.content(one)["text"] for one in here.truth()}
    links = {seq: re.findall(r"http://\S+/l/[0-9A-Za-z]{16}\b", text) for seq, text in seen.items()}
    assert {seq: len(found) for seq, found in links.items()} == {1: 1, 2: 1, 3: 1}
    for seq, (link,) in links.items():
        answer = httpx.get(link, **PLAIN)
        assert (answer.status_code, answer.headers["location"]) == (302, f"{here.sandbox}/site/setup/{seq}")
    with here.store.read() as connection:
        targets = connection.execute(select(message_values.c.targets).where(message_values.c.step_no == 1)).scalars()
        assert {json.loads(each)[0] for each in targets} == {f"{here.sandbox}/site/setup/{seq}" for seq in (1, 2, 3)}
