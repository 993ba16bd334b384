"""Texts whose callbacks never arrived: their fate is asked for, and hearing it again changes nothing."""

from __future__ import annotations

import pytest
from sqlalchemy import select, update

from commplan import campaign
from commplan.channels.base import open_gateways
from commplan.poll import FIRST, GIVE_UP, Polled, open_runs, poll
from commplan.store.tables import attempts, polls, receipts
from commplan.store.types import machine_now
from tests.campaign.conftest import TEXT, Customer, Rehearsal, Role, crowd, until


def sent_ago(here: Rehearsal, seconds: float) -> None:
    """Let every request have been written so many machine seconds ago."""
    with here.store.write() as connection:
        connection.execute(update(attempts).values(wire_machine=machine_now() - seconds))


def asked(here: Rehearsal, running) -> Polled:
    return poll(here.store, lambda: running.gateways, open_runs(here.store))


@pytest.fixture
def lost(rehearse):
    """Three texts whose callbacks are all lost, and whose fate is decided: two arrive."""
    people = [*crowd(2), Customer(name="unreached", texts=Role.UNDELIVERED, mobile="+12025550199")]
    here: Rehearsal = rehearse(people, day=60.0, callbacks_lost=1.0)
    running = here.ready(TEXT)
    here.send_due(running)
    until(lambda: all(one["delivered"] or one["undelivered"] for one in here.truth()), why="that all have ended")
    return here, running


def test_what_became_of_a_text_is_asked_for_and_its_late_callback_changes_nothing(lost):
    here, running = lost
    assert asked(here, running) == Polled()
    sent_ago(here, FIRST + 1)
    assert asked(here, running) == Polled(asked=3, told=3)
    campaign.apply_receipts(here.store)
    assert here.states(running) == {
        "person1": ["delivered"],
        "person2": ["delivered"],
        "unreached": ["failed: undelivered"],
    }
    with here.store.read() as connection:
        known = set(connection.execute(select(receipts.c.receipt_key)).scalars())
    for one in here.truth():
        if one["delivered"]:
            here.tell(one, "delivered")
    with here.store.read() as connection:
        assert set(connection.execute(select(receipts.c.receipt_key)).scalars()) == known
    assert asked(here, running) == Polled()
    here.require_balance(running)


def test_a_provider_that_does_not_answer_is_asked_again_ever_more_seldom_and_not_for_ever(lost):
    here, running = lost
    sent_ago(here, FIRST + 1)
    nobody = here.settings.sms.model_copy(update={"base_url": "http://127.0.0.1:9"})
    gateways = open_gateways(here.settings.model_copy(update={"sms": nobody}))
    for count in (1, 2):
        assert poll(here.store, lambda: gateways, open_runs(here.store)) == Polled(asked=3)
        assert asked(here, running) == Polled()
        with here.store.write() as connection:
            assert set(connection.execute(select(polls.c.count)).scalars()) == {count}
            passed = FIRST * 2**count + 1
            connection.execute(update(polls).values(asked_machine=polls.c.asked_machine - passed))
    sent_ago(here, GIVE_UP + 1)
    assert asked(here, running) == Polled()
    assert {state for (state,) in here.states(running).values()} == {"accepted"}
    sent_ago(here, GIVE_UP - 60)
    assert asked(here, running) == Polled(asked=3, told=3)
