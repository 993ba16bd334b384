"""Follow-ups on silence: they go to those whose silence is proven, and wait for the others."""

from __future__ import annotations

import json
import threading
import time
from base64 import b64encode
from collections.abc import Iterable
from datetime import datetime, timedelta
from uuid import uuid4

import httpx
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from prefect.logging import disable_run_logger
from sqlalchemy import delete, func, insert, select, update

from commplan import campaign, pulse
from commplan.errors import InputError
from commplan.ledger import feed, hold
from commplan.ledger.decision import decide
from commplan.store.tables import attempts, audit, conversions, feed_beats, gatherings, inbox, messages, polls
from commplan.store.types import machine_now
from commplan.terms import Channel, FeedDecision
from commplan.tracking import PostKind, append
from commplan.watch import gathering, watching
from flows.campaign import wait_for_feed
from tests.campaign.conftest import PAIR, PRIVATE, PUBLIC, Customer, Rehearsal, Role, crowd, until
from tests.test_cli import ROOT, require, run
from tests.test_notice import hearing

TEN_MINUTES = timedelta(minutes=10)
#: A text to those who have not clicked, a day after the email.
SILENT = PAIR.replace(
    "wait: P1D, not_after: P2D", "wait: P1D, not_after: P3D, window: 00:00-24:00, when: not clicked(welcome)"
)
#: One to those who have not bought anything.
IDLE = PAIR.replace(
    "wait: P1D, not_after: P2D", "wait: P1D, not_after: P3D, window: 00:00-24:00, when: not converted(activated)"
).replace(
    "sequence:",
    "conversions: {activated: {sql: select * from customers where activated_at is not null, contact: customer_id, "
    "at: activated_at}}\nsequence:",
)
#: A second one, to those who have not replied to the first.
REPLY = SILENT.replace("not clicked(welcome)", "delivered(welcome)").replace(
    "evaluation:",
    "  - {step: third, channel: sms, content: nudge, wait: P1D, not_after: P3D, when: not replied(nudge)}\nevaluation:",
)


def unheard(rehearse, plan: str = SILENT, *, people: int = 2):
    """Send the first step and have it delivered, in an installation of which nobody has heard a heartbeat yet."""
    here: Rehearsal = rehearse(crowd(people))
    here.is_heard = False
    running = here.ready(plan)
    here.send_due(running)
    here.deliver_all()
    return here, running


def beats(here: Rehearsal, *hours: float, channel: Channel = Channel.EMAIL, heard: bool = True, missing: str = ""):
    """Note heartbeats every ten minutes between two moments, in hours from the beginning of the rehearsal."""
    first, last = (here.settings.clock.origin + timedelta(hours=hour) for hour in hours)
    rows = [
        {
            "nonce_key": uuid4().hex,
            "channel": channel,
            "sent_at": first + number * TEN_MINUTES,
            "heard_at": first + number * TEN_MINUTES if heard else None,
            "missing": json.dumps([missing]) if missing else None,
        }
        for number in range(int((last - first) / TEN_MINUTES) + 1)
    ]
    with here.store.write() as connection:
        connection.execute(insert(feed_beats), rows)


def at(here: Rehearsal, hours: float) -> None:
    """Let plan time stand so many hours after the beginning."""
    here.jump(seconds=(here.settings.clock.origin + timedelta(hours=hours) - here.clock.now()).total_seconds())


def follow_up(here: Rehearsal, running) -> str | None:
    """Do what the run does when it wakes; return why the step waits."""
    held = running.hold_back(2)
    here.send_due(running)
    return None if held is None else held.closed


def texts(here: Rehearsal) -> int:
    return sum(one["channel"] == "sms" for one in here.truth())


def wakes(here: Rehearsal, running, *hours: float) -> list[int]:
    """Return how many texts have gone out when the run has woken at each of these hours."""
    sent = []
    for hour in hours:
        at(here, hour)
        follow_up(here, running)
        sent.append(texts(here))
    return sent


def test_nobody_is_texted_for_their_silence_while_no_heartbeat_has_been_heard(rehearse):
    here, running = unheard(rehearse)
    at(here, 25)
    assert "no heartbeat of SendGrid has been heard" in follow_up(here, running)
    assert here.states(running) == {f"person{n}": ["delivered", "queued"] for n in (1, 2)}
    # Without the hold of the step, the last look says the same.
    with here.store.write() as connection:
        connection.execute(update(messages).where(messages.c.state == "queued").values(due_at=here.clock.now()))
    assert running.dispatch(2).accepted == 0
    assert here.states(running) == {f"person{n}": ["delivered", "queued"] for n in (1, 2)}
    here.require_balance(running)


def test_a_feed_that_was_heard_all_along_proves_silence_two_heartbeats_after_the_wait(rehearse):
    here, running = unheard(rehearse)
    beats(here, -1, 24.2)
    at(here, 24.25)
    assert follow_up(here, running) is None
    assert texts(here) == 0
    beats(here, 24.3, 24.5)
    assert wakes(here, running, 24.55) == [2]
    here.require_balance(running)


def test_after_a_gap_a_step_waits_25_hours_from_its_end_and_then_goes_on_by_itself(rehearse):
    here, running = unheard(rehearse)
    beats(here, -1, 5)
    beats(here, 5.1, 9, heard=False)
    beats(here, 9.1, 60)
    at(here, 25)
    why = follow_up(here, running)
    assert why == (
        "SendGrid was not heard from 2026-12-01 07:00 UTC to 2026-12-01 11:06 UTC; "
        "what that kept back may come until 2026-12-02 12:06 UTC"
    )
    assert wakes(here, running, 30, 34, 34.05) == [0, 0, 0]
    assert wakes(here, running, 35.2) == [2]
    with here.store.read() as connection:
        told = connection.execute(select(audit.c.what).where(audit.c.what.like("step %"))).scalars().all()
    assert told == ["step held", "step goes on"]
    here.require_balance(running)


def test_a_time_in_which_nobody_asked_is_a_gap_too(rehearse):
    here, running = unheard(rehearse)
    beats(here, -1, 5)
    beats(here, 5.9, 60)
    assert wakes(here, running, 25, 30, 35) == [0, 0, 2]


def test_a_heartbeat_whose_asker_ended_before_it_could_ask_is_no_gap(rehearse):
    here, running = unheard(rehearse)
    beats(here, -1, 12)
    at(here, 12.2)
    assert feed.ask(here.store, Channel.EMAIL, every=TEN_MINUTES) is not None
    beats(here, 12.3, 60)
    assert wakes(here, running, 25) == [2]


def test_a_heartbeat_that_was_asked_for_and_not_heard_is_a_gap(rehearse):
    here, running = unheard(rehearse)
    beats(here, -1, 12)
    at(here, 12.2)
    nonce = feed.ask(here.store, Channel.EMAIL, every=TEN_MINUTES)
    assert nonce is not None
    feed.asked(here.store, nonce)
    beats(here, 12.3, 60)
    assert wakes(here, running, 25) == [0]


def test_a_first_heartbeat_that_could_not_be_asked_for_is_no_gap_if_one_soon_after_it_is_heard(rehearse):
    here, running = unheard(rehearse)
    nonce = feed.ask(here.store, Channel.EMAIL, every=TEN_MINUTES)
    assert nonce is not None
    feed.asked(here.store, nonce, failure="the provider is away")
    beats(here, 0.3, 60)
    assert wakes(here, running, 25) == [2]


def test_a_first_heartbeat_long_after_the_first_message_leaves_a_gap(rehearse):
    here, running = unheard(rehearse)
    beats(here, 0.6, 60)
    assert wakes(here, running, 25, 25.7) == [0, 2]


def test_a_heartbeat_that_could_not_be_asked_for_is_asked_for_again_at_once_and_one_that_was_when_it_is_due(rehearse):
    here, _ = unheard(rehearse)
    for failure, again in (("the provider is away", True), (None, False)):
        at(here, 1 if failure else 2)
        nonce = feed.ask(here.store, Channel.EMAIL, every=TEN_MINUTES)
        assert nonce is not None
        feed.asked(here.store, nonce, failure=failure)
        here.jump(minutes=1)
        assert (feed.ask(here.store, Channel.EMAIL, every=TEN_MINUTES) is not None) is again


def test_a_step_goes_on_as_soon_as_a_gap_is_over_and_not_only_at_the_next_hour(rehearse):
    here, running = unheard(rehearse, SILENT.replace("not_after: P3D", "not_after: PT2H"))
    beats(here, 0.6, 60)
    at(here, 25.1)
    assert "may come until 2026-12-02 03:36 UTC" in (follow_up(here, running) or "")
    due = running.next_due()
    assert due is not None
    here.jump(seconds=(due.at - here.clock.now()).total_seconds())
    assert follow_up(here, running) is None
    assert texts(here) == 2


def test_while_the_feed_is_closed_a_step_is_held_before_anybody_is_asked_about_its_people(rehearse):
    here, running = unheard(rehearse, IDLE.replace("not converted(activated)", "not responded(welcome)"))
    at(here, 25)
    held = running.hold_back(2, gathered=False)
    assert held is not None
    assert (held.waiting, held.closed is not None, running.senders(2)) == (2, True, 0)


def test_the_flow_asks_no_database_about_people_whose_feed_is_closed(rehearse):
    here, running = unheard(rehearse, IDLE.replace("not converted(activated)", "not responded(welcome)"))
    at(here, 25)
    with disable_run_logger():
        assert wait_for_feed(running, (2,))
        beats(here, -1, 60)
        at(here, 26.1)
        assert not wait_for_feed(running, (2,))
    with here.store.read() as connection:
        gathered = connection.execute(select(func.max(gatherings.c.at))).scalar_one()
    assert gathered == here.settings.clock.origin


def test_a_step_whose_feed_is_heard_is_not_held_before_conversions_are_asked_for(rehearse):
    here, running = unheard(rehearse, IDLE.replace("not converted(activated)", "not responded(welcome)"))
    beats(here, -1, 60)
    at(here, 25)
    assert running.hold_back(2, gathered=False) is None
    assert follow_up(here, running) is None
    assert texts(here) == 0
    running.gather(ask_source=False)
    assert wakes(here, running, 25.3) == [2]


def test_what_a_provider_no_longer_repeats_does_not_come_however_long_one_waits(rehearse):
    here, running = unheard(rehearse, SILENT.replace("not_after: P3D", "not_after: P9D"))
    beats(here, -1, 1)
    beats(here, 1.1, 30, heard=False)
    beats(here, 30.1, 120)
    assert wakes(here, running, 32, 56, 100) == [0, 0, 0]
    assert "longer than it repeats" in next(iter(holds(here, running))).closed


def holds(here: Rehearsal, running) -> Iterable[hold.Hold]:
    with here.store.read() as connection:
        return list(hold.standing(connection, running.run.run_id, here.clock))


def test_whose_message_went_out_after_the_gap_is_not_held_for_it(rehearse):
    here, running = unheard(rehearse)
    with here.store.write() as connection:
        later = here.settings.clock.origin + timedelta(hours=10)
        welcome = (messages.c.step_no == 1) & (messages.c.seq == 2)
        connection.execute(update(messages).where(welcome).values(accepted_at=later))
    beats(here, -1, 5)
    beats(here, 5.1, 9, heard=False)
    beats(here, 9.1, 60)
    assert wakes(here, running, 25) == [1]
    assert here.states(running) == {"person1": ["delivered", "queued"], "person2": ["delivered", "accepted"]}


def test_a_heartbeat_that_is_missing_now_closes_the_feed_at_once(rehearse):
    here, running = unheard(rehearse)
    beats(here, -1, 24.5)
    beats(here, 24.6, 24.7, heard=False)
    at(here, 25)
    assert "what SendGrid posts has not been heard since 2026-12-02 02:30 UTC" in follow_up(here, running)
    assert texts(here) == 0


def test_a_post_that_could_not_be_applied_holds_whoever_it_may_be_about(rehearse):
    here, running = unheard(rehearse)
    beats(here, -1, 60)
    at(here, 20)
    append(here.store, kind=PostKind.SENDGRID_EVENTS, query={}, body=b"[]")
    with here.store.write() as connection:
        # Set aside, as after a failure.
        connection.execute(update(inbox).where(inbox.c.applied_at.is_(None)).values(failures=1, retry_machine=1e12))
    at(here, 25)
    assert "received at 2026-12-01 22:00 UTC is not applied yet" in follow_up(here, running)
    assert texts(here) == 0
    with here.store.write() as connection:
        connection.execute(update(inbox).values(retry_machine=None))
    campaign.apply_receipts(here.store)
    assert wakes(here, running, 26) == [2]


def test_events_that_were_switched_off_are_never_told_and_the_step_ends_at_its_deadline(rehearse):
    here, running = unheard(rehearse)
    beats(here, -1, 5)
    beats(here, 5.1, 6, missing="click")
    beats(here, 6.1, 110)
    at(here, 25)
    assert "click events were switched off at SendGrid from" in follow_up(here, running)
    assert wakes(here, running, 40, 60, 95) == [0, 0, 0]
    assert wakes(here, running, 97) == [0]
    assert here.states(running) == {f"person{n}": ["delivered", "expired: silence_unproven"] for n in (1, 2)}
    here.require_balance(running)


def test_deliveries_that_are_not_reported_prove_no_silence(rehearse):
    here, running = unheard(rehearse)
    beats(here, -1, 60, missing="delivered")
    assert wakes(here, running, 25, 40) == [0, 0]


def test_silence_on_texts_is_proven_by_twilios_list_and_not_by_what_sendgrid_posts(rehearse):
    here, running = unheard(rehearse, REPLY)
    beats(here, -1, 60)
    at(here, 24.1)
    here.send_due(running)
    here.deliver_all()
    at(here, 49)
    held = running.hold_back(3)
    assert held is not None
    assert "no heartbeat of Twilio has been heard" in (held.closed or "")
    here.send_due(running)
    assert texts(here) == 2
    beats(here, 49.5, 50, channel=Channel.SMS)
    at(here, 50.1)
    assert running.hold_back(3) is None
    here.send_due(running)
    assert texts(here) == 4


def test_events_that_the_condition_does_not_need_may_be_off(rehearse):
    here, running = unheard(rehearse)
    beats(here, -1, 60, missing="open")
    assert wakes(here, running, 25) == [2]


def test_a_query_of_conversions_that_fails_holds_the_step_until_it_is_answered(rehearse):
    here, running = unheard(rehearse, IDLE)
    at(here, 25)
    here.update_crm("alter table customers rename column activated_at to somewhere")
    with pytest.raises(InputError):
        running.gather(ask_source=False)
    assert "the query of conversions.activated is not answered since 2026-12-01 02:00" in follow_up(here, running)
    assert texts(here) == 0
    here.update_crm("alter table customers rename column somewhere to activated_at")
    here.update_crm("update customers set activated_at = '2026-12-01 12:00:00' where customer_id = 1")
    at(here, 25.5)
    running.gather(ask_source=False)
    assert follow_up(here, running) is None
    states = here.states(running)
    assert states == {"person1": ["delivered", "not_needed: condition_false"], "person2": ["delivered", "accepted"]}


def test_conversions_gathered_before_the_wait_ended_or_long_ago_prove_nothing(rehearse):
    here, running = unheard(rehearse, IDLE)
    at(here, 23)
    running.gather(ask_source=False)
    assert wakes(here, running, 24.5) == [0]
    running.gather(ask_source=False)
    at(here, 26)
    assert wakes(here, running, 26.5) == [0]
    running.gather(ask_source=False)
    assert wakes(here, running, 27) == [2]


def test_who_converts_while_the_step_is_sent_is_not_written_to_in_the_rest_of_it(rehearse):
    here, running = unheard(rehearse, IDLE)
    at(here, 25)
    running.gather(ask_source=False)
    with gathering(running, 2, every=0.05):
        here.update_crm("update customers set activated_at = '2026-12-01 12:00:00' where customer_id = 1")

        def known() -> bool:
            with here.store.read() as connection:
                return connection.execute(select(conversions)).first() is not None

        until(known, why="that the conversion is known")
        here.send_due(running)
    assert here.states(running)["person1"] == ["delivered", "not_needed: condition_false"]
    assert texts(here) == 1


def test_a_step_is_held_and_never_the_run(rehearse):
    plan = SILENT.replace(
        "evaluation:", "  - {step: third, channel: email, content: welcome, after: welcome, wait: P1D}\nevaluation:"
    )
    here, running = unheard(rehearse, plan)
    at(here, 24.1)
    assert follow_up(here, running) is not None
    assert here.states(running) == {f"person{n}": ["delivered", "queued", "accepted"] for n in (1, 2)}
    assert running.state == "executing"


def test_an_operator_lets_on_who_has_waited_until_now_and_nobody_else(rehearse):
    here, running = unheard(rehearse)
    (row,) = (row for ref, row in here.rows().items() if (ref.step_no, ref.seq) == (2, 2))
    with here.store.write() as connection:
        two_hours = timedelta(hours=2)
        connection.execute(
            update(messages)
            .where(messages.c.step_no == 2, messages.c.seq == 2)
            .values(due_at=row.due_at + two_hours, not_after=row.not_after + two_hours)
        )
    at(here, 25)
    assert follow_up(here, running) is not None
    assert decide(here.store, running.run.run_id, 2, FeedDecision.GO, by="ops", reason="we looked") == 1
    assert follow_up(here, running) is None
    assert here.states(running) == {"person1": ["delivered", "accepted"], "person2": ["delivered", "queued"]}
    assert wakes(here, running, 27) == [1]
    with here.store.read() as connection:
        said = connection.execute(select(audit.c.detail).where(audit.c.what == "feed decided")).scalar_one()
    assert json.loads(said) == {"by": "ops", "decision": "go", "reason": "we looked", "step": "nudge"}


def test_a_decision_counts_nobody_who_has_answered_or_whom_it_is_too_late_to_write_to(rehearse):
    here, running = unheard(rehearse, people=4)
    late = here.settings.clock.origin + timedelta(hours=24.5)
    with here.store.write() as connection:
        second = messages.c.step_no == 2
        connection.execute(update(messages).where(second, messages.c.seq == 1).values(not_after=late))
        # Already due, and not looked at yet.
        connection.execute(update(messages).where(second, messages.c.seq == 2).values(due_at=here.clock.now()))
    at(here, 25)
    here.tell(next(one for one in here.truth() if one["to"].startswith("person3")), "click", url="https://example.com/")
    assert decide(here.store, running.run.run_id, 2, FeedDecision.GO, by="ops") == 2
    assert decide(here.store, running.run.run_id, 2, FeedDecision.HOLD, by="ops") == 0
    assert decide(here.store, running.run.run_id, 2, FeedDecision.GO, by="ops") == 2
    here.send_due(running)
    assert texts(here) == 2


def test_an_operator_holds_a_step_whatever_the_feed_says_and_gives_it_back(rehearse):
    here, running = unheard(rehearse)
    beats(here, -1, 60)
    decide(here.store, running.run.run_id, 2, FeedDecision.HOLD, by="ops")
    at(here, 25)
    assert follow_up(here, running) == "ops holds it since 2026-12-01 02:00 UTC"
    decide(here.store, running.run.run_id, 2, FeedDecision.AUTO, by="ops")
    assert wakes(here, running, 25) == [2]


def test_why_a_step_waits_is_shown_told_once_and_decided_on_by_command(rehearse, monkeypatch):
    with hearing() as (url, heard):
        monkeypatch.setenv("CRM_NOTIFY", url)
        here, running = unheard(rehearse, SILENT.replace("crm: {}", "crm: {notify: env:CRM_NOTIFY}"))
        for hours in (25, 26, 27):
            at(here, hours)
            assert follow_up(here, running)
    assert [told["title"] for told in heard] == ["SANDBOX: letter@first: nudge waits"]
    assert "commplan feed letter@first nudge go" in heard[0]["message"]

    def command(*words: object):
        return run(*words, cwd=ROOT, env=here.environment())

    shown = " ".join(require(command("status", "letter@first"), 0).split())
    assert "nudge: 2 messages to people who are silent wait: no heartbeat of SendGrid has been heard" in shown
    assert json.loads(require(command("status", "letter@first", "--json"), 0))["holds"][0]["waiting"] == 2
    require(command("feed", "letter@first", "nudge", "go", "--by", "ops"), 0, "2 messages")
    require(command("feed", "letter@first", "nobody", "go"), 2, "has no step 'nobody'; write one of welcome, nudge")
    require(command("feed", "letter@first", "welcome", "go"), 2, "does not rest on silence")


def test_a_plan_that_rests_on_silence_is_refused_where_providers_cannot_reach_us(rehearse):
    here = rehearse(crowd(1))
    path = here.write(SILENT)
    line = next(number for number, text in enumerate(path.read_text().splitlines(), 1) if "when:" in text)
    live = here.environment() | {
        "COMMPLAN_EMAIL__BASE_URL": "https://api.sendgrid.com",
        "COMMPLAN_SMS__BASE_URL": "https://api.twilio.com",
    }
    refused = run("check", path, "--no-source", cwd=ROOT, env=live)
    require(refused, 2, f"plan.yaml:{line}:", "sequence[1].when: rests on silence, and http://127.0.0.1", "https")
    require(run("check", path, "--no-source", cwd=ROOT, env=here.environment()), 0)
    public = live | {"COMMPLAN_PUBLIC_URL": "https://mail.example.com"}
    require(run("check", path, "--no-source", cwd=ROOT, env=public), 0)
    path = here.write(PAIR)
    require(run("check", path, "--no-source", cwd=ROOT, env=live), 0)


def post_as_sendgrid(here: Rehearsal, events: list[dict[str, object]]) -> None:
    """Post events to the receiver, signed."""
    key = serialization.load_pem_private_key(PRIVATE.encode(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    body, stamp = json.dumps(events).encode(), str(int(time.time()))
    named = "X-Twilio-Email-Event-Webhook"
    signed = b64encode(key.sign(stamp.encode() + body, ec.ECDSA(hashes.SHA256()))).decode()
    headers = {f"{named}-Signature": signed, f"{named}-Timestamp": stamp}
    url = f"{here.settings.public_url}/hooks/sendgrid/events"
    assert httpx.post(url, content=body, headers=headers, trust_env=False).is_success


def test_with_the_receiver_down_during_the_wait_nobody_is_texted_who_clicked_and_the_step_goes_on_later(rehearse):
    here: Rehearsal = rehearse([*crowd(1), Customer(name="clicker", mobile="+12025550199")], day=6.0)
    running = here.ready(SILENT.replace("not_after: P3D", "not_after: P90D"))

    def carry() -> None:
        with watching(running):
            while (due := running.next_due()) is not None:
                time.sleep(here.clock.seconds_until(due.at))
                running.gather()
                for step_no in due.steps:
                    running.hold_back(step_no)
                    with gathering(running, step_no):
                        here.send_due(running)

    thread = threading.Thread(target=carry)
    thread.start()
    until(lambda: [states[0] for states in here.states(running).values()] == ["delivered"] * 2, why="the welcome")
    wait_over = max(row.accepted_at for row in here.rows().values() if row.accepted_at) + timedelta(days=1)
    until(lambda: here.clock.now() > wait_over - timedelta(hours=6), why="the last quarter of the wait")
    here.receiver.stop()
    (clicker,) = (one for one in here.truth() if one["to"].startswith("clicker"))
    clicked = here.clock.now()
    until(lambda: here.clock.now() > wait_over + timedelta(hours=2), why="the end of the wait")
    assert texts(here) == 0
    here.receiver.start()
    # What SendGrid could not post meanwhile.
    event = {"email": clicker["to"], "event": "click", "url": "https://example.com/", "sg_event_id": uuid4().hex}
    about = {"timestamp": int(clicked.timestamp()), "sg_message_id": clicker["provider_id"], **clicker["args"]}
    post_as_sendgrid(here, [event | about])
    thread.join(120)
    assert not thread.is_alive()
    found = here.states(running)
    assert found["clicker"] == ["delivered", "not_needed: condition_false"]
    assert found["person1"][1] in ("accepted", "delivered")
    with here.store.read() as connection:
        beat = feed_beats.c
        missing = connection.execute(select(beat.sent_at).where(beat.heard_at.is_(None))).scalars().all()
        back: datetime = (
            connection.execute(
                select(beat.sent_at)
                .where(beat.heard_at.is_not(None), beat.sent_at > min(missing))
                .order_by(beat.sent_at)
            )
            .scalars()
            .first()
        )
    (text,) = (row for ref, row in here.rows().items() if ref.step_no == 2 and row.wire_at is not None)
    assert text.wire_at >= back + timedelta(hours=25)
    here.require_balance(running)


def test_a_heartbeat_is_asked_of_sendgrid_signed_heard_by_the_receiver_and_says_what_is_off(rehearse):
    here: Rehearsal = rehearse(crowd(1), day=60.0, events_off=("click",))
    running = here.ready(SILENT)
    pulse.beat(here.store, here.settings, lambda: running.gateways)

    def heard():
        with here.store.read() as connection:
            return connection.execute(select(feed_beats).where(feed_beats.c.heard_at.is_not(None))).one_or_none()

    until(heard, why="that the heartbeat is heard")
    assert (heard().channel, heard().missing, heard().failure) == ("email", '["click"]', None)
    with here.store.read() as connection:
        assert connection.execute(select(inbox.c.unreadable)).scalars().all() == [0]
    assert running.gateways.email.event_hooks()[0].public_key == PUBLIC


def test_texts_whose_callbacks_are_all_lost_are_known_by_asking_and_so_are_their_answers(rehearse):
    people = [
        Customer(name="silent", mobile="+12025550101"),
        Customer(name="replier", texts=Role.REPLY, mobile="+12025550102"),
    ]
    here: Rehearsal = rehearse(people, day=4.0, callbacks_lost=1.0)
    running = here.ready(REPLY.replace("not_after: P3D", "not_after: P30D"))
    with watching(running):
        while (due := running.next_due()) is not None:
            time.sleep(here.clock.seconds_until(due.at))
            with here.store.write() as connection:
                # As if each had gone out two minutes ago.
                connection.execute(update(attempts).values(wire_machine=machine_now() - 120))
                connection.execute(delete(polls))
            running.gather()
            for step_no in due.steps:
                running.hold_back(step_no)
                here.send_due(running)
    found = here.states(running)
    assert found["silent"] == ["delivered", "delivered", "accepted"]
    assert found["replier"] == ["delivered", "delivered", "not_needed: condition_false"]
    here.require_balance(running)
