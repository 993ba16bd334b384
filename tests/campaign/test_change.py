"""What changes while a run waits: addresses, settings, answers that come late."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import update

from commplan.errors import FenceError
from commplan.ledger import ending
from commplan.store.tables import store_info
from commplan.terms import RunState

from .conftest import LETTER, PAIR, PLAN, Customer, crowd

TWO = LETTER.replace(
    "evaluation:", "  - {step: second, channel: email, content: welcome, wait: P1D, not_after: P2D}\nevaluation:"
)
_EMAIL = "update customers set email = '{}' where customer_id = {}"


def _second_step(here, *changes: str):
    """Carry everybody through the first step, change the CRM, and send the second."""
    running = here.ready(TWO)
    here.send_due(running)
    here.deliver_all()
    for change in changes:
        here.update_crm(change)
    here.jump(days=1)
    running.gather()
    here.send_due(running)
    here.require_balance(running)
    return running


def test_two_who_swap_addresses_are_both_written_to(rehearse):
    here = rehearse(crowd(3))
    running = _second_step(
        here,
        "update customers set email = case customer_id when 1 then 'person2@person.example.com'"
        " else 'person1@person.example.com' end where customer_id in (1, 2)",
    )
    assert all(states == ["delivered", "accepted"] for states in here.states(running).values())
    second = {one["ref"].seq: one["to"] for one in here.truth() if one["ref"].step_no == 2}
    first = {one["ref"].seq: one["to"] for one in here.truth() if one["ref"].step_no == 1}
    assert (second[1], second[2], second[3]) == (first[2], first[1], first[3])


def test_who_takes_the_address_that_another_gives_up_is_written_to_and_so_is_the_other(rehearse):
    here = rehearse(crowd(2))
    running = _second_step(
        here,
        _EMAIL.format("new@person.example.com", 2),
        _EMAIL.format("person2@person.example.com", 1),
    )
    assert all(states == ["delivered", "accepted"] for states in here.states(running).values())


def test_of_two_who_come_to_share_an_address_one_is_written_to(rehearse):
    here = rehearse(crowd(3))
    running = _second_step(here, "update customers set email = 'ours@person.example.com' where customer_id in (1, 2)")
    seconds = [states[1] for states in here.states(running).values()]
    assert sorted(seconds) == ["accepted", "accepted", "cancelled: same_address"]


def test_a_merged_record_is_written_to_at_the_address_of_the_one_that_is_gone(rehearse):
    here = rehearse(crowd(8))
    running = _second_step(
        here, "delete from customers where customer_id = 1", _EMAIL.format("person1@person.example.com", 2)
    )
    states = here.states(running)
    assert states[here.customers[0].name][1] == "cancelled: left_audience"
    assert states[here.customers[1].name][1] == "accepted"


def test_a_run_with_an_unanswered_request_waits_for_its_receipt_and_then_for_the_follow_up(rehearse):
    here = rehearse(crowd(2), logs_busy_share=1)
    running = here.ready(PAIR)
    here.fault("email", "accept_then_close")
    here.send_due(running)
    running.gather()
    due = running.next_due()
    assert due is not None
    assert due.steps == ()
    assert timedelta(0) < due.at - here.clock.now() <= timedelta(hours=1)
    assert due.steps == ()
    assert running.evaluation_time() - here.clock.now() >= timedelta(hours=1)
    here.jump(hours=20)
    here.deliver_all()
    due = running.next_due()
    assert due is not None
    assert due.steps == (2,)
    here.jump(hours=6)
    running.gather()
    here.send_due(running)
    assert {states[1] for states in here.states(running).values()} == {"accepted"}


def test_a_run_gives_up_on_a_receipt_after_a_day_and_leaves_nothing_waiting_for_ever(rehearse):
    here = rehearse(crowd(2), logs_busy_share=1)
    running = here.ready(PAIR)
    here.fault("email", "accept_then_close")
    here.send_due(running)
    running.gather()
    here.jump(hours=26)
    running.gather()
    assert running.next_due() is None
    running.evaluate()
    assert running.state is RunState.FINISHED
    here.deliver_all()
    assert {states[1] for states in here.states(running).values()} == {"cancelled: run_ended"}
    here.require_balance(running)


def test_a_condition_waits_for_the_receipt_of_the_message_it_speaks_of(rehearse):
    nudge = "  - {step: nudge, channel: sms, content: nudge, when: undelivered(welcome)}\nevaluation:"
    here = rehearse(crowd(2))
    running = here.ready(LETTER.replace("evaluation:", nudge))
    here.send_due(running)
    running.gather()
    here.send_due(running)
    assert {states[1] for states in here.states(running).values()} == {"queued"}
    bounced, arrived = here.truth()
    here.tell(bounced, "bounce", type="bounce", status="5.1.1")
    here.tell(arrived, "delivered")
    here.jump(hours=2)
    here.send_due(running)
    assert sorted(states[1] for states in here.states(running).values()) == [
        "accepted",
        "not_needed: condition_false",
    ]


def test_a_condition_that_is_never_answered_is_settled_when_it_is_too_late(rehearse):
    nudge = "  - {step: nudge, channel: sms, content: nudge, when: undelivered(welcome)}\nevaluation:"
    here = rehearse(crowd(1))
    running = here.ready(LETTER.replace("evaluation:", nudge))
    here.send_due(running)
    here.jump(days=2)
    here.send_due(running)
    assert {states[1] for states in here.states(running).values()} == {"not_needed: condition_unknown"}


def test_a_shell_with_other_settings_refuses_a_live_run_and_harms_nothing(rehearse):
    here = rehearse(crowd(2), batch=1)
    with here.store.write() as connection:
        connection.execute(update(store_info).values(kind="live", environment="prod"))
    live = here.settings.model_copy(update={"live": "prod"})
    plan = LETTER.replace("owner: crm", "owner: crm\nlive: true", 1)
    running = here.ready(plan, settings=live)
    running.dispatch(1, here.shard(0, 2))
    with pytest.raises(FenceError, match="COMMPLAN_LIVE"):
        here.start(plan)
    assert sorted(states[0] for states in here.states(running).values()) == ["accepted", "queued"]
    again = here.start(plan, settings=live)
    here.send_due(again)
    assert {states[0] for states in here.states(again).values()} == {"accepted"}


def test_whom_a_cancelled_run_gave_back_is_found_by_the_next(rehearse):
    people = [Customer(name=f"p{number}", signed_up_at="2026-11-05 09:00:00") for number in range(4)]
    here = rehearse(people, batch=1)
    first = here.ready(PLAN, "a")
    first.dispatch(1, here.shard(0, 2))
    assert len(here.truth()) == 2
    ending.cancel_run(here.store, first.run.run_id)
    second = here.ready(PLAN, "b")
    here.send_due(second)
    assert len(here.truth()) == 4
    assert len({one["to"] for one in here.truth()}) == 4


def test_a_run_id_is_never_given_twice(rehearse):
    here = rehearse(crowd(1))
    stale = here.start(LETTER, "a")
    ending.discard_run(here.store, stale.run.run_id)
    fresh = here.start(LETTER.replace("plan: letter", "plan: other"), "x")
    assert fresh.run.run_id > stale.run.run_id
