"""Unknown outcomes are settled by evidence: what the providers' records prove, leave open, and what is decided then."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select, update

from commplan import campaign
from commplan.envelope import Listing
from commplan.errors import RunError
from commplan.ledger import settlement, unsettled
from commplan.settle import settle
from commplan.store.tables import attempts, audit, batches, inquiries, recipients
from commplan.terms import Retry
from tests.campaign.conftest import BOTH, LETTER, PAIR, TEXT, Customer, crowd

CHANNELS = pytest.mark.parametrize("plan", [LETTER, TEXT], ids=["email", "sms"])


def channel(plan: str) -> str:
    return "email" if "channel: email" in plan else "sms"


def doubtful(here, plan, fault, *, occurrence="first"):
    """Send a step of which no request gets an answer; its outcome is unknown and its time of evidence has begun."""
    running = here.ready(plan, occurrence)
    here.fault(channel(plan), fault, 1 if channel(plan) == "email" else len(here.customers))
    here.send_due(running)
    settled = running.gather().settled
    assert (settled.asked, settled.unknown) == (0, len(here.customers))
    return running


def look_twice(here, running):
    """Let the time pass that proves a loss, asking twice."""
    for _ in range(2):
        here.jump(minutes=16)
        settled = running.gather().settled
    return settled


def states(here, running) -> set[str]:
    return {found[0] for found in here.states(running).values()}


def doubts(here, running):
    with here.store.read() as connection:
        return settlement.doubts(connection, running.run.run_id)


@pytest.mark.parametrize("clock", [0, 180, -180])
@pytest.mark.parametrize("fault", ["accept_then_close", "accept_then_500"])
@CHANNELS
def test_what_the_providers_records_show_is_accepted_with_their_id_as_of_the_moment_it_was_written(
    rehearse, plan, fault, clock
):
    here = rehearse(crowd(4), clock_offset=clock)
    running = doubtful(here, plan, fault)
    here.jump(minutes=16)
    assert running.gather().settled.accepted == 4
    truth = {one["ref"]: one for one in here.truth()}
    assert len(truth) == 4
    for ref, row in here.rows().items():
        assert (row.state, row.accepted_at, row.provider_id) == ("accepted", row.wire_at, truth[ref]["request_id"])
    here.require_balance(running)


@pytest.mark.parametrize("lowercase", [True, False])
def test_an_address_in_mixed_case_is_found_however_the_logs_keep_it(rehearse, lowercase):
    here = rehearse([Customer(name="Ann.Mixed", mobile=None)], logs_lowercase=lowercase)
    running = doubtful(here, LETTER, "accept_then_close")
    here.jump(minutes=16)
    assert running.gather().settled.accepted == 1
    here.require_balance(running)


@CHANNELS
def test_what_they_do_not_show_when_asked_twice_is_lost_and_goes_out_again_once(rehearse, plan):
    here = rehearse(crowd(4))
    running = doubtful(here, plan, "close_unprocessed")
    here.jump(minutes=16)
    assert running.gather().settled.lost == 0
    assert states(here, running) == {"unknown"}
    assert here.send_due(running).batches == 0
    here.jump(minutes=10)
    assert running.gather().settled.lost == 4
    assert states(here, running) == {"queued"}
    assert here.send_due(running).accepted == 4
    assert doubts(here, running).lost == 4
    here.require_balance(running)


@pytest.mark.parametrize(("plan", "first"), [(LETTER, 15), (TEXT, 1)], ids=["email", "sms"])
def test_a_look_that_comes_too_early_proves_no_loss(rehearse, plan, first):
    here = rehearse(crowd(1))
    running = doubtful(here, plan, "close_unprocessed")
    for _ in range(3):
        here.jump(seconds=first * 60 / 4)
        assert running.settle(force=True).lost == 0
    assert states(here, running) == {"unknown"}


def test_three_addresses_of_a_mail_request_are_asked_for_and_a_text_has_one(rehearse):
    here = rehearse(crowd(5))
    for plan, asked in ((LETTER, 3), (TEXT.replace("plan: letter", "plan: text"), 1)):
        running = doubtful(here, plan, "close_unprocessed")
        here.jump(minutes=16)
        running.gather()
        with here.store.read() as connection:
            query = (
                select(inquiries.c.asked, inquiries.c.finding)
                .join(attempts)
                .where(attempts.c.run_id == running.run.run_id)
            )
            assert set(connection.execute(query)) == {(asked, "nothing")}


def test_busy_logs_are_no_answer_and_prove_nothing_however_long(rehearse):
    here = rehearse(crowd(2), logs_busy_share=1)
    running = doubtful(here, LETTER, "close_unprocessed")
    for _ in range(30):
        here.jump(hours=1)
        settled = running.gather().settled
    assert (settled.lost, states(here, running), here.truth()) == (0, {"unknown"}, [])
    assert running.next_due() is None
    assert running.settle(force=True).why == {
        "the provider's rate limit is reached; the request was not processed (HTTP 429)"
    }


@CHANNELS
def test_an_address_that_changed_cannot_be_asked_for_so_nothing_is_proven(rehearse, plan):
    here = rehearse(crowd(2))
    running = doubtful(here, plan, "close_unprocessed")
    with here.store.write() as connection:
        connection.execute(update(recipients).values(email_key="0" * 32, phone_key="0" * 32))
    for _ in range(3):
        here.jump(hours=1)
        settled = running.settle()
        assert (settled.lost, settled.unanswered) == (0, settled.asked)
    assert states(here, running) == {"unknown"}


class _Behind:
    """An email gateway whose provider's clock is two hours behind: a search by its time may not reach far enough."""

    def find(self, address, *, since, known=()):
        return Listing(sightings=(), provider_time=datetime.now(UTC) - timedelta(hours=2))


def test_a_search_that_may_not_reach_back_to_the_request_proves_nothing(rehearse):
    here = rehearse(crowd(1))
    running = doubtful(here, LETTER, "close_unprocessed")
    gateways = replace(running.gateways, email=_Behind())
    for _ in range(3):
        here.jump(hours=1)
        settled = settle(here.store, gateways, here.settings, running.run.run_id)
        assert (settled.lost, settled.unanswered) == (0, settled.asked)
    assert "clock" in settled.why.pop()


@CHANNELS
def test_silence_of_the_webhook_alone_proves_nothing(rehearse, plan):
    here = rehearse(crowd(2))
    running = doubtful(here, plan, "accept_then_close")
    here.jump(hours=30)
    campaign.apply_receipts(here.store)
    assert states(here, running) == {"unknown"}


@CHANNELS
def test_a_receipt_settles_it_whatever_the_records_say(rehearse, plan):
    here = rehearse(crowd(2), logs_busy_share=1, list_lag=3000)
    running = doubtful(here, plan, "accept_then_close")
    for one in here.truth():
        here.tell(one, "delivered")
    assert states(here, running) == {"delivered"}
    here.require_balance(running)


@CHANNELS
def test_nothing_is_lost_while_the_worker_may_still_write_it(rehearse, plan):
    here = rehearse(crowd(1))
    running = doubtful(here, plan, "close_unprocessed")
    with here.store.write() as connection:
        connection.execute(update(batches).values(closed_machine=None, lease_machine=1e12))
    look_twice(here, running)
    assert states(here, running) == {"unknown"}
    with here.store.write() as connection:
        connection.execute(update(batches).values(lease_machine=0))
    here.jump(hours=1)
    assert running.gather().settled.lost == 1


def test_a_text_with_two_possible_rows_stays_unknown(rehearse):
    here = rehearse(crowd(1))
    running = doubtful(here, TEXT, "accept_then_close")
    body = here.content(here.truth()[0])["text"]
    running.gateways.sms._messages.create(to="+12025550001", from_=here.settings.sms.from_number, body=body)
    settled = look_twice(here, running)
    assert (settled.accepted, settled.lost, states(here, running)) == (0, 0, {"unknown"})


def test_a_row_that_belongs_to_another_request_is_no_evidence(rehearse):
    here = rehearse(crowd(1))
    earlier = here.ready(TEXT.replace("plan: letter", "plan: earlier"))
    assert here.send_due(earlier).accepted == 1
    running = doubtful(here, TEXT, "close_unprocessed")
    look_twice(here, running)
    assert states(here, running) == {"queued"}


def test_two_texts_in_doubt_to_one_number_stay_unknown_both(rehearse):
    here = rehearse(crowd(1))
    running = [here.ready(TEXT.replace("plan: letter", f"plan: {name}")) for name in ("one", "two")]
    here.fault("sms", "accept_then_close", 2)
    here.send_due(running[0])
    with here.store.write() as connection:
        # The rule that keeps a second text back is switched off for a moment.
        connection.execute(update(attempts).values(decision="assume_sent"))
    here.send_due(running[1])
    with here.store.write() as connection:
        connection.execute(update(attempts).values(decision=None))
    for one in running:
        one.gather()
    here.jump(minutes=16)
    for one in running:
        one.gather()
        assert states(here, one) == {"unknown"}


def test_a_number_gets_no_second_text_while_one_is_in_doubt(rehearse):
    here = rehearse(crowd(1))
    first = doubtful(here, TEXT, "accept_then_close")
    second = here.ready(TEXT.replace("plan: letter", "plan: other"))
    assert here.send_due(second).accepted == 0
    assert states(here, second) == {"queued"}
    here.jump(minutes=16)
    assert first.gather().settled.accepted == 1
    assert here.send_due(second).accepted == 1
    here.require_balance(first)
    here.require_balance(second)


def test_a_text_in_doubt_for_a_day_and_an_hour_keeps_the_number_no_longer(rehearse):
    here = rehearse(crowd(1), list_lag=3000)
    first = here.ready(TEXT)
    here.fault("sms", "accept_then_close")
    here.send_due(first)
    second = here.ready(
        TEXT.replace("plan: letter", "plan: other").replace("content: nudge", "content: nudge, not_after: P3D")
    )
    here.jump(hours=24)
    assert here.send_due(second).accepted == 0
    here.jump(hours=2)
    assert here.send_due(second).accepted == 1


def test_records_that_lag_longer_than_they_are_asked_make_a_duplicate_that_is_confirmed_and_shown(rehearse):
    here = rehearse(crowd(2), logs_lag=120)
    running = doubtful(here, PAIR, "accept_then_close")
    look_twice(here, running)
    assert here.send_due(running).accepted == 2
    first = here.truth()[0]
    assert here.prove(running).difference == 2 + 1 + 1  # twice at the sandbox, which has four where the books have two
    here.tell(first, "delivered")
    found = campaign.prove(here.store, here.settings, running.run.run_key, witness=False)
    off = {check.what: check.found for check in found.checks if check.difference}
    assert off == {
        "requests judged lost that the provider had taken": 1,
        "messages that receipts show to have arrived twice": 1,
    }
    assert (found.doubts.lost, found.doubts.duplicates) == (2, 1)


def test_after_a_confirmed_duplicate_nothing_of_the_run_is_sent_again_by_itself(rehearse):
    here = rehearse(crowd(2), logs_lag=120)
    running = doubtful(here, BOTH, "accept_then_close")
    look_twice(here, running)
    here.fault("sms", "close_unprocessed", 2)
    here.send_until_quiet(running)
    here.tell(here.truth()[0], "delivered")
    running.gather()
    for _ in range(4):
        here.jump(minutes=5)
        running.gather()
    assert [found[1] for found in here.states(running).values()] == ["unknown", "unknown"]
    # A person may still decide to.
    assert settlement.retry(here.store, running.run.run_id, Retry.UNKNOWN) == 2
    assert here.send_due(running).accepted == 2


def test_a_receipt_before_it_goes_out_again_takes_the_judgement_back(rehearse):
    here = rehearse(crowd(3), logs_lag=120)
    running = doubtful(here, LETTER, "accept_then_close")
    look_twice(here, running)
    assert states(here, running) == {"queued"}
    here.tell(here.truth()[0], "delivered")
    assert sorted(found[0] for found in here.states(running).values()) == ["accepted", "accepted", "delivered"]
    assert here.send_due(running).batches == 0
    here.require_balance(running)


def test_a_late_answer_before_it_goes_out_again_takes_the_judgement_back(rehearse):
    from commplan.ledger import close

    here = rehearse(crowd(2), logs_lag=120)
    running = doubtful(here, LETTER, "accept_then_close")
    look_twice(here, running)
    one = here.truth()[0]
    close.accept(here.store, {one["args"]["cp_a"]: one["request_id"]}, now=here.clock.now())
    assert states(here, running) == {"accepted"}
    here.require_balance(running)


def policy(plan: str, name: str) -> str:
    return re.sub(r"(content: (?:welcome|nudge))", rf"\1, on_unknown: {name}", plan, count=1)


def wait_for_evidence(here, running) -> None:
    for _ in range(27):
        here.jump(hours=1)
        running.gather()


def test_by_default_what_stays_unknown_is_held_and_listed(rehearse):
    here = rehearse(crowd(2), logs_busy_share=1)
    running = doubtful(here, PAIR, "accept_then_close")
    wait_for_evidence(here, running)
    assert list(here.states(running).values()) == [["unknown", "not_due"]] * 2
    assert running.next_due() is None
    judged = running.evaluate()
    assert judged.steps[0].counts.unknown == 2
    assert judged.doubts.unknown == 2
    assert "Of 2 messages nobody knows whether they were sent, the first since 2026-12-01 10:00." in judged.notes
    found = campaign.prove(here.store, here.settings, running.run.run_key, witness=False)
    assert (found.difference, found.doubts.unknown, found.doubts.assumed) == (0, 2, 0)


def test_assumed_sent_lets_the_sequence_go_on_and_is_no_proof_of_acceptance(rehearse):
    here = rehearse(crowd(2), logs_busy_share=1)
    running = doubtful(here, policy(PAIR, "assume_sent"), "accept_then_close")
    wait_for_evidence(here, running)
    assert [found[0] for found in here.states(running).values()] == ["unknown", "unknown"]
    wire = next(row.wire_at for row in here.rows().values() if row.step_no == 1)
    assert {row.due_at for row in here.rows().values() if row.step_no == 2} == {wire + timedelta(days=1)}
    assert here.send_due(running).accepted == 2
    found = campaign.prove(here.store, here.settings, running.run.run_key, witness=False)
    assert (found.difference, found.doubts.unknown, found.doubts.assumed) == (0, 2, 2)
    assert found.steps[0].states == {"unknown": 2}
    # Evidence is still welcome.
    here.deliver_all()
    assert [found[0] for found in here.states(running).values()] == ["delivered", "delivered"]
    here.require_balance(running)


def test_resend_sends_again_in_time_and_counts_what_arrived_twice(rehearse):
    here = rehearse(crowd(2), logs_busy_share=1)
    running = doubtful(here, policy(LETTER, "resend"), "accept_then_close")
    here.jump(hours=23)
    running.gather()
    assert states(here, running) == {"unknown"}
    here.jump(minutes=51)  # ten minutes before it would be too late
    assert running.gather().settled.resent == 2
    assert here.send_due(running).accepted == 2
    here.deliver_all()
    found = here.prove(running)
    assert (found.difference, found.doubts.resent, found.doubts.repeats, found.doubts.duplicates) == (0, 2, 2, 0)


def test_resend_waits_for_the_worker_and_never_follows_a_confirmed_duplicate(rehearse):
    here = rehearse(crowd(1), logs_busy_share=1)
    running = doubtful(here, policy(LETTER, "resend"), "accept_then_close")
    with here.store.write() as connection:
        connection.execute(update(batches).values(closed_machine=None, lease_machine=1e12))
    here.jump(hours=30)
    running.settle()
    assert states(here, running) == {"unknown"}
    with here.store.write() as connection:
        connection.execute(update(batches).values(closed_machine=1.0))
        row = connection.execute(select(attempts)).one()._asdict()
        witness = {**row, "attempt_id": "f" * 32, "outcome": "lost", "provider_id": "X", "messages": 0}
        connection.execute(attempts.insert().values(**witness))
    here.jump(hours=2)
    running.settle()
    assert states(here, running) == {"unknown"}
    assert running.next_due() is None


def test_the_evidence_of_a_run_that_has_ended_is_still_written_down_and_nothing_waits_for_ever(rehearse):
    here = rehearse(crowd(2), batch=1)
    running = here.ready(LETTER)
    here.fault("email", "accept_then_close")
    here.fault("email", "close_unprocessed")
    here.send_due(running)
    running.evaluate()
    here.jump(minutes=1)
    campaign.settle_runs(here.store, here.settings)
    for _ in range(2):
        here.jump(minutes=16)
        ((run, settled),) = campaign.settle_runs(here.store, here.settings, running.run.run_key)
        if settled.unknown == 0:
            break
    assert run.run_key == running.run.run_key
    assert sorted(found[0] for found in here.states(running).values()) == ["accepted", "cancelled: run_ended"]
    assert campaign.settle_runs(here.store, here.settings) == []
    with pytest.raises(RunError, match="is finished"):
        settlement.retry(here.store, running.run.run_id, Retry.UNKNOWN)


@CHANNELS
def test_a_person_may_send_again_what_is_unknown_and_the_audit_says_so(rehearse, plan):
    here = rehearse(crowd(2), logs_busy_share=1, list_lag=3000)
    running = doubtful(here, plan, "accept_then_close")
    with here.store.read() as connection:
        assert settlement.retriable(connection, running.run.run_id, Retry.UNKNOWN) == 2
        assert settlement.retriable(connection, running.run.run_id, Retry.TRANSIENT) == 0
    here.jump(days=2)  # far past the time until which it was to be sent
    assert settlement.retry(here.store, running.run.run_id, Retry.UNKNOWN) == 2
    here.jump(hours=1)
    assert here.send_due(running).accepted == 2
    assert len(here.truth()) == 4
    with here.store.read() as connection:
        told = connection.execute(select(audit.c.detail).where(audit.c.what == "retried")).scalars().all()
    assert told == ['{"messages": 2, "only": "unknown"}']
    here.deliver_all()
    assert here.prove(running).difference == 0


def test_a_person_may_send_what_expired_unsent_and_nothing_else(rehearse):
    here = rehearse(crowd(3), batch=1)
    running = here.ready(LETTER)
    running.dispatch(1, here.shard(0, 3))
    here.jump(days=3)
    here.send_due(running)
    assert sorted(found[0] for found in here.states(running).values()) == ["accepted"] + ["expired: too_late"] * 2
    assert settlement.retry(here.store, running.run.run_id, Retry.TRANSIENT) == 2
    assert here.send_due(running).accepted == 2
    assert states(here, running) == {"accepted"}
    here.require_balance(running)


def test_what_waits_for_a_provider_that_does_not_answer_costs_no_time_beyond_three_requests(rehearse):
    here = rehearse(crowd(6))
    running = doubtful(here, TEXT, "close_unprocessed")
    nowhere = here.settings.sms.model_copy(update={"base_url": "http://127.0.0.1:9"})
    there = here.start(TEXT, settings=here.settings.model_copy(update={"sms": nowhere}))
    here.jump(minutes=16)
    settled = there.gather().settled
    assert (settled.asked, settled.unanswered, settled.lost) == (3, 6, 0)
    with here.store.read() as connection:
        assert connection.execute(select(func.count()).select_from(inquiries)).scalar_one() == 6
        waiting = unsettled.read(connection, running.run.run_id)
        assert unsettled.next_moment(waiting, here.clock.now()) > here.clock.now()


@pytest.mark.long
@pytest.mark.parametrize(
    "switches",
    [
        {},
        {"late_seconds": 30, "logs_lag": 10, "logs_busy_share": 0.2, "logs_lowercase": True, "list_lag": 0.75},
    ],
    ids=["optimistic", "pessimistic"],
)
def test_a_run_in_progress_settles_by_itself_against_records_that_lag_and_refuse(rehearse, switches):
    here = rehearse(crowd(3), day=300, timeout=1, batch=1, clock_offset=180, **switches)
    running = here.ready(BOTH)
    here.fault("email", "accept_then_close")
    here.fault("email", "close_unprocessed")
    here.fault("sms", "accept_when_given_up")
    here.carry(running)
    assert {tuple(found) for found in here.states(running).values()} == {("delivered", "delivered")}
    assert len({one["ref"] for one in here.truth()}) == len(here.truth()) == 6
    here.require_balance(running)
